import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, next_layers, require_distance


class OraclePrediction(PredictionPolicy):
    """Knows the experts of the next `distance` layers, across the border to the next token too."""

    clairvoyant = True

    def __init__(self, distance: int = 1) -> None:
        self._distance = distance

    def bind(self, context):
        require_distance(self._distance, context.layers)
        self._experts = context.experts

    def guess(self, rows, following):
        experts = rows.experts.astype(np.int64)
        parts = []
        for ahead in range(1, self._distance + 1):
            parts.append(as_blobs(next_layers(experts, following, ahead), ahead, self._experts))
        return np.concatenate(parts, axis=2)
