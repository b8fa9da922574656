import numpy as np

from simulator.policies.prediction.base import PredictionPolicy, as_blobs, next_layers


class PreGated(PredictionPolicy):
    """The next layer's experts, known for certain, of a model whose gates select for the block after theirs.

    Pre-gated MoE (ISCA 2024, arXiv 2308.12066, section 4). Nothing is known of the first block before its own gate. The
    trace stands in for that of the changed model.
    """

    clairvoyant = True  # of a model that was not changed

    def bind(self, context):
        self._experts = context.experts

    def guess(self, rows, following):
        known = next_layers(rows.experts.astype(np.int64), np.full_like(following, -1), 1)
        return as_blobs(known, 1, self._experts)
