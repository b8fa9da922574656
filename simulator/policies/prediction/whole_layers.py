import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, require_distance


class WholeLayers(PredictionPolicy):
    """All experts of the next `distance` layers, in order: prefetch in static order, blind to routing.

    DeepSpeed ZeRO-Inference streams layers so; after the last layer it goes on with the first of the next token.
    """

    def __init__(self, distance: int = 1) -> None:
        self._distance = distance

    def bind(self, context):
        require_distance(self._distance, context.layers)
        layers, experts = context.layers, context.experts
        ahead = (np.arange(layers)[:, None] + 1 + np.arange(self._distance)) % layers
        self._rows = (ahead[:, :, None] * experts + np.arange(experts)).reshape(layers, -1)

    def guess(self, rows, following):
        return np.broadcast_to(self._rows, (rows.tokens, *self._rows.shape))
