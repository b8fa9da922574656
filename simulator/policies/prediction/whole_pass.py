import numpy as np

from simulator.policies.prediction.base import PredictionPolicy


class WholePass(PredictionPolicy):
    """All experts of the layers that remain of a token's pass, nearest layer first, known for certain.

    SiDA-MoE (MLSys 2024, arXiv 2310.18859): a predictor of its own runs ahead, its answers take the routers' place
    (`gating=hashed`), so that what is fetched is what runs. It runs one batch ahead there; here it speaks once the
    pass has begun, so that the first layer's experts are not fetched ahead.
    """

    clairvoyant = True  # of a routing that is the predictor's own

    def bind(self, context):
        self._experts = context.experts

    def guess(self, rows, following):
        tokens, layers, top_k = rows.experts.shape
        blobs = np.where(rows.experts >= 0, rows.experts + np.arange(layers)[:, None] * self._experts, -1)
        ahead = np.full((tokens, layers, layers * top_k), -1, dtype=np.int64)
        for layer in range(layers - 1):
            rest = blobs[:, layer + 1 :].reshape(tokens, -1)
            ahead[:, layer, : rest.shape[1]] = rest
        return ahead
