import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, most_likely, require_width


class PopularityPrediction(PredictionPolicy):
    """Expects the experts of the next layer that the training requests chose most often.

    width: how many; null: top-k.
    """

    def __init__(self, width: int | None = None) -> None:
        require_width(width)
        self._width = width

    def bind(self, context):
        counts = context.popularity().reshape(context.layers, context.experts)
        width = min(self._width or context.top_k, context.experts)
        following = np.roll(most_likely(counts, width), -1, axis=0)
        self._blobs = as_blobs(following[None], 1, context.experts)[0]

    def guess(self, rows, following):
        return np.broadcast_to(self._blobs, (rows.tokens, *self._blobs.shape))
