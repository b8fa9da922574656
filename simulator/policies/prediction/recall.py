import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, next_layers


class RecallPrediction(PredictionPolicy):
    """A predictor of stated recall: each expert of the next layer is named with probability `recall`.

    One that is not named is replaced by an expert drawn from the others of its layer. The draws
    depend on the seed, the request and the position. Stands in for learned predictors of which
    only the recall is published. It sees nothing of the next token.
    """

    clairvoyant = True  # made from the truth, then spoiled

    def __init__(self, recall: float = 0.9, distance: int = 1) -> None:
        if not 0.0 <= recall <= 1.0:
            raise ValueError(f"policy.prediction.recall is {recall}; expected a number from 0 to 1.")
        self._recall = recall
        self._distance = distance

    def bind(self, context):
        self._experts = context.experts
        self._seed = int(context.rng.integers(2**63))

    def guess(self, rows, following):
        rng = np.random.default_rng([self._seed, int(rows.id), int(rows.positions[0])])
        truth = next_layers(rows.experts.astype(np.int64), np.full_like(following, -1), self._distance)
        lost = rng.random(truth.shape) >= self._recall
        # the r-th expert that is not among the token's own, by rank among the sorted others
        others = max(1, self._experts - truth.shape[2])
        drawn = rng.integers(others, size=truth.shape)
        for own in np.moveaxis(np.sort(truth, axis=2), 2, 0):
            drawn += (own[:, :, None] >= 0) & (drawn >= own[:, :, None])
        named = np.where(lost, np.minimum(drawn, self._experts - 1), truth)
        return as_blobs(np.where(truth >= 0, named, -1), self._distance, self._experts)
