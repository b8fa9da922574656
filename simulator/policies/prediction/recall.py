import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, next_layers, require_distance


class RecallPrediction(PredictionPolicy):
    """A predictor of stated recall: each expert of the next layer is named with probability `recall`.

    One that is not named is replaced by an expert drawn from the others of its layer, without
    replacement, or by nothing when these run out. The draws depend on the seed, the request and the
    position. Stands in for learned predictors of which
    only the recall is published. It sees nothing of the next token.
    """

    clairvoyant = True  # made from the truth, then spoiled

    def __init__(self, recall: float = 0.9, distance: int = 1) -> None:
        if not 0.0 <= recall <= 1.0:
            raise ValueError(f"policy.prediction.recall is {recall}; expected a number from 0 to 1.")
        self._recall = recall
        self._distance = distance

    def bind(self, context):
        require_distance(self._distance, context.layers)
        self._experts = context.experts
        self._seed = int(context.rng.integers(2**63))

    def guess(self, rows, following):
        rng = np.random.default_rng([self._seed, int(rows.id), int(rows.positions[0])])
        truth = next_layers(rows.experts.astype(np.int64), np.full_like(following, -1), self._distance)
        lost = rng.random(truth.shape) >= self._recall
        others = _draw_distinct(rng, self._experts - truth.shape[2], truth.shape)
        _skip(others, np.sort(truth, axis=2))
        which = np.maximum(np.cumsum(lost, axis=2) - 1, 0)  # the n-th lost expert takes the n-th of the others
        named = np.where(lost, np.take_along_axis(others, which, axis=2), truth)
        return as_blobs(np.where(truth >= 0, named, -1), self._distance, self._experts)


def _draw_distinct(rng, count, shape):
    """Draws along the last axis without replacement from range(count); -1 once all are taken."""
    drawn = np.full(shape, -1, dtype=np.int64)
    for column in range(min(shape[-1], count)):
        drawn[..., column] = rng.integers(count - column, size=shape[:-1])
        _skip(drawn[..., column : column + 1], np.sort(drawn[..., :column], axis=-1))
    return drawn


def _skip(ranks, taken):
    """Turn ranks among the ids that are not in `taken` (ascending, -1 for none) into those ids, in place."""
    for own in np.moveaxis(taken, -1, 0):
        ranks += (own[..., None] >= 0) & (ranks >= own[..., None])
