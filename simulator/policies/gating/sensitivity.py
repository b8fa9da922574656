import numpy as np

from simulator.policies.gating.base import GatingPolicy
from simulator.routing import weight_shares


class DropInsensitive(GatingPolicy):
    """Drops an expert, never a token's first, whose share of the gate weight is below sqrt(threshold / sensitivity).

    Adaptive gating of AdapMoE (ICCAD 2024, arXiv 2408.10284, section 4.1): the sensitivity of a layer is the
    Fisher-like measure of how the loss reacts to its output; by it the squared weight bounds the loss. Weights are
    renormalised over the token's experts before, and over those that are kept afterwards. `sensitivity`: one value
    for each routed layer; for another number of layers it is interpolated over depth.
    """

    rewrites = True
    needs = ("weights",)

    def __init__(self, sensitivity: list[float], threshold: float = 0.005) -> None:
        if threshold < 0 or not sensitivity or min(sensitivity) <= 0:
            raise ValueError(
                f"policy.gating.threshold is {threshold} and sensitivity {sensitivity}; expected a threshold of at"
                " least 0 and positive sensitivities."
            )
        self._sensitivity = sensitivity
        self._threshold = threshold

    def bind(self, context):
        depth = np.linspace(0, 1, context.layers)
        sensitivity = np.interp(depth, np.linspace(0, 1, len(self._sensitivity)), self._sensitivity)
        self._least = np.sqrt(self._threshold / sensitivity)

    def rewrite(self, rows):
        share = weight_shares(rows.experts, rows.weights)
        kept = (share >= self._least[None, :, None]) | (share == share.max(axis=2, keepdims=True))
        kept &= rows.experts >= 0
        left = np.where(kept, share, 0.0)
        left /= np.maximum(left.sum(axis=2, keepdims=True), 1e-30)
        return np.where(kept, rows.experts, -1), left
