"""Gate weights of synthetic tokens: log-normal with the mean and covariance of each layer, descending by rank."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_SMALLEST = 1e-6


@dataclass(frozen=True, eq=False)
class WeightProfile:
    """Logarithms of a token's weights in rank order: mean float64 [L, k], factor [L, k, k] of their covariance.

    `total` is the sum of a token's weights if that is always the same, else None.
    """

    mean: np.ndarray
    factor: np.ndarray
    total: float | None

    @classmethod
    def fit(cls, weights: np.ndarray) -> WeightProfile | None:
        """From weights [tokens, L, k]; rows with an unknown weight do not count; None if no layer has any."""
        means, factors, totals = [], [], []
        for layer in range(weights.shape[1]):
            rows = weights[:, layer].astype(np.float64)
            rows = np.sort(rows[np.isfinite(rows).all(axis=1)], axis=1)[:, ::-1]
            if len(rows) < 2:
                return None
            totals.append(rows.sum(axis=1))
            logs = np.log(np.maximum(rows, _SMALLEST))
            means.append(logs.mean(axis=0))
            values, vectors = np.linalg.eigh(np.atleast_2d(np.cov(logs.T)))
            factors.append(vectors * np.sqrt(np.maximum(values, 0)))
        sums = np.concatenate(totals)
        fixed = sums.std() < 0.01 * sums.mean()
        return cls(np.array(means), np.array(factors), float(sums.mean()) if fixed else None)

    def draw(self, tokens: int, rng: np.random.Generator) -> np.ndarray:
        """Weights float32 [tokens, L, k], descending, with the 8 significant bits of bfloat16."""
        layers, slots = self.mean.shape
        noise = rng.standard_normal((tokens, layers, slots), dtype=np.float32)
        logs = np.einsum("tlj,lij->tli", noise, self.factor.astype(np.float32), optimize=True)
        weights = np.exp(logs + self.mean.astype(np.float32))
        weights = -np.sort(-weights, axis=2)
        if self.total is not None:
            weights *= self.total / weights.sum(axis=2, keepdims=True)
        return (weights.view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
