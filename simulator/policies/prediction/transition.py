import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, require_width

_SCALE = 1_000_000  # probabilities in whole millionths: sums are exact, so rankings are the same everywhere
_LARGEST = 2**31 - 1


class TransitionPrediction(PredictionPolicy):
    """Layer-to-layer transition table, learned on the requests that are not served.

    P(j at layer l+1 | i at layer l) from counts with `smoothing` added; the scores of a token's
    experts are summed (as in the tables of MoE-Infinity and EdgeMoE, without their extensions).
    From the last layer it looks on to the first layer of the next token. width: null for top-k.
    """

    def __init__(self, width: int | None = None, smoothing: float = 0.0) -> None:
        require_width(width)
        self._asked_width = width
        self._smoothing = smoothing

    def bind(self, context):
        layers, experts = context.layers, context.experts
        self._experts = experts
        self._width = min(self._asked_width or context.top_k, experts)
        counts = np.zeros((layers, experts, experts))
        for request in context.training():
            chosen = _chosen(request.experts, experts)
            counts[:-1] += chosen[:-1].transpose(0, 2, 1) @ chosen[1:]
            counts[-1] += chosen[-1, :-1].T @ chosen[0, 1:]  # on to the next token
        counts += self._smoothing
        totals = counts.sum(axis=2, keepdims=True)
        shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
        # A score times the number of experts plus a rank is one integer that orders without ties; the
        # scale keeps a token's sum within 32 bits. The row after the last is for empty slots (-1).
        scale = min(_SCALE, _LARGEST // (experts * context.top_k) - 1)
        self._table = np.zeros((layers, experts + 1, experts), dtype=np.int32)
        self._table[:, :-1] = np.rint(scale * shares) * experts
        self._ties = np.arange(experts - 1, -1, -1, dtype=np.int32)

    def guess(self, rows, following):
        ids = rows.experts
        guesses = np.empty((rows.tokens, ids.shape[1], self._width), dtype=np.int64)
        for layer, table in enumerate(self._table):
            keys = table[ids[:, layer, 0]] + self._ties
            for slot in range(1, ids.shape[2]):
                keys += table[ids[:, layer, slot]]
            best = np.partition(keys, self._experts - self._width, axis=1)[:, self._experts - self._width :]
            best.sort(axis=1)
            guesses[:, layer] = self._experts - 1 - best[:, ::-1] % self._experts
        return as_blobs(guesses, 1, self._experts)


def _chosen(ids, experts):
    """[tokens, layers, top_k] expert ids (-1: none) -> [layers, tokens, experts] of 0 and 1."""
    tokens, layers, _ = ids.shape
    one_hot = np.zeros((layers, tokens, experts + 1))
    one_hot[np.arange(layers)[None, :, None], np.arange(tokens)[:, None, None], ids] = 1.0
    return one_hot[:, :, :experts]
