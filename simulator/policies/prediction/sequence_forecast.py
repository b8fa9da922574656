import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, most_likely
from simulator.policies.prediction.collection import one_hot

_WHOLE = 1e9  # scores in whole billionths, so that rankings are the same everywhere


class SequenceForecast(PredictionPolicy):
    """Stands in for a sequence model's forecast of the next tokens' experts, of stated recall (SeqMoE).

    SeqMoE (arXiv 2609.12978) forecasts 8 decode steps for all layers. After each layer, this names those of the
    layer's experts that are forecast for the tokens to come. A true expert is forecast with the probability of the
    step's recall, and each other one so often that as many are forecast as are chosen. Scores are 1 / (expected steps
    until its next use), each forecast taken to be right with its step's recall, and what comes after the last step
    as one step more.

    recall: of the first step; each later one has `decay` times that of the one before; steps: tokens ahead. Draws
    depend on the seed, the request and the position. It sees no further than to the end of a block of tokens and
    one on, so the last of a block's tokens have short forecasts.
    """

    clairvoyant = True  # made from the truth, then spoiled

    def __init__(self, recall: float = 0.9, steps: int = 8, decay: float = 1.0) -> None:
        for name, value in (("recall", recall), ("decay", decay)):
            if not 0.0 <= value <= 1.0:
                raise ValueError(f"policy.prediction.{name} is {value}; expected a number from 0 to 1.")
        if steps < 1:
            raise ValueError(f"policy.prediction.steps is {steps}; expected at least 1.")
        self._recall = [recall * decay**step for step in range(steps)]

    def bind(self, context):
        self._experts, self._top_k = context.experts, context.top_k
        self._seed = int(context.rng.integers(2**63))

    def guess(self, rows, following):
        rng = np.random.default_rng([self._seed, int(rows.id), int(rows.positions[0])])
        count, tokens = self._experts, rows.tokens
        chosen = one_hot(np.concatenate([rows.experts, following[-1:]]), count) > 0
        named = np.zeros((tokens, chosen.shape[1], count), dtype=bool)
        left, steps = np.ones(named.shape), np.zeros(named.shape)
        for step, recall in enumerate(self._recall, start=1):
            draws = rng.random(named.shape)
            truth = np.zeros(named.shape, dtype=bool)
            truth[: max(tokens + 1 - step, 0)] = chosen[step:]
            known = truth.any(axis=2, keepdims=True)
            false = (1 - recall) * self._top_k / max(count - self._top_k, 1)
            forecast = known & (draws < np.where(truth, recall, false))
            named |= forecast
            used = np.where(forecast, recall, np.where(known, min(false, 1.0), self._top_k / count))
            steps += step * left * used
            left *= 1 - used
        scores = 1 / (steps + (len(self._recall) + 1) * left)
        named[(rows.phases == 0) & (np.arange(tokens) < tokens - 1)] = False  # of a prompt, the last token's forecast
        best = most_likely(np.rint(np.where(named, scores, 0.0) * _WHOLE), count)
        there = np.take_along_axis(named, best, axis=2)
        blobs = np.where(there, best + (np.arange(chosen.shape[1]) * count)[None, :, None], -1)
        return blobs, np.where(there, np.take_along_axis(scores, best, axis=2), 0.0)
