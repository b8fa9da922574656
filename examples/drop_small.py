import numpy as np

from simulator.policies.gating.base import GatingPolicy


class DropSmall(GatingPolicy):
    """Drops experts below a share of their token's gate weight, never the heaviest one."""

    rewrites = True
    needs = ("weights",)

    def __init__(self, least_share: float = 0.15) -> None:
        self._least_share = least_share

    def rewrite(self, rows):
        weights = np.where(rows.experts >= 0, np.nan_to_num(rows.weights), 0.0)  # [tokens, layers, top_k]
        least = self._least_share * weights.sum(axis=2, keepdims=True)
        kept = weights >= np.minimum(least, weights.max(axis=2, keepdims=True))
        return np.where(kept, rows.experts, -1), np.where(kept, weights, 0.0)
