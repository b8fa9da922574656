import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, next_layers


class OraclePrediction(PredictionPolicy):
    """Knows the experts of the next `distance` layers, across the border to the next token too."""

    clairvoyant = True

    def __init__(self, distance: int = 1) -> None:
        self._distance = distance

    def bind(self, context):
        if not 1 <= self._distance <= context.layers:
            raise ValueError(
                f"policy.prediction.distance is {self._distance}; expected 1 to {context.layers},"
                " the routed layers of the model."
            )
        self._experts = context.experts

    def guess(self, rows, following):
        experts = rows.experts.astype(np.int64)
        parts = []
        for ahead in range(1, self._distance + 1):
            parts.append(as_blobs(next_layers(experts, following, ahead), ahead, self._experts))
        return np.concatenate(parts, axis=2)
