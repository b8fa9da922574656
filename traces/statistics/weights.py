"""How much of a token's gate weight its heaviest expert carries."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import RequestTrace, TraceMeta
from traces.statistics.counting import ratio


def concentration(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[tokens, slots] weights, each row with a sum above 0 -> share of the largest, entropy in bits; [tokens] each."""
    shares = weights / weights.sum(axis=1, keepdims=True)
    logarithms = np.log2(shares, out=np.zeros_like(shares), where=shares > 0)
    return shares.max(axis=1), -(shares * logarithms).sum(axis=1)


class Weights:
    """Share of the heaviest expert and entropy of a token's weights, scaled to sum 1; nothing without weights.

    Tokens with an unknown weight in a layer do not count there. The control is equal weights: 1 / k and log2 k.
    """

    def __init__(self, meta: TraceMeta) -> None:
        self._has, self._top_k = meta.has_weights, meta.top_k
        self._sums = np.zeros((3, len(meta.layers)))  # share, entropy, tokens

    def add(self, request: RequestTrace) -> None:
        if request.weights is None:
            return
        for layer in range(request.weights.shape[1]):
            weights = request.weights[:, layer].astype(np.float64)
            weights = weights[np.isfinite(weights).all(axis=1) & (weights.sum(axis=1) > 0)]
            share, bits = concentration(weights)
            self._sums[:, layer] += share.sum(), bits.sum(), len(weights)

    def result(self) -> dict[str, Any]:
        names = ("weight_top_share", "weight_entropy_bits")
        found = self._has and self._sums[2].any()
        out: dict[str, Any] = {
            name: float(ratio(sums.sum(), self._sums[2].sum())) if found else None
            for name, sums in zip(names, self._sums, strict=False)
        }
        out["weight_top_share_uniform"] = 1.0 / self._top_k if found else None
        out["weight_entropy_bits_uniform"] = float(np.log2(self._top_k)) if found else None
        layers = dict(zip(names, ratio(self._sums[:2], self._sums[2]), strict=True)) if found else {}
        return {**out, "by_layer": layers}
