"""How many tokens ago an expert was last used, within a request."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import RequestTrace, TraceMeta
from traces.statistics.counting import ratio

WITHIN = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # in positions


def reuse_distances(experts: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """Positions since the same expert was last used, for every access of one layer.

    experts [tokens, slots], -1: none; positions [tokens]. Returns the distances of the accesses to experts used
    before, in no order; first uses have none.
    """
    slots = experts.shape[1]
    ids = experts.ravel()
    order = np.argsort(ids, kind="stable")
    ids, where = ids[order], np.repeat(positions, slots)[order]
    again = (ids[1:] == ids[:-1]) & (ids[1:] >= 0)
    return (where[1:] - where[:-1])[again]


class Reuse:
    """Share of accesses whose expert was used within the last n positions of its request and layer."""

    def __init__(self, meta: TraceMeta) -> None:
        self._counts = np.zeros((2, len(WITHIN)), dtype=np.int64)  # real, shuffled within the request
        self._accesses = 0

    def add(self, request: RequestTrace, order: np.ndarray) -> None:
        self._accesses += int((request.experts >= 0).sum())
        for kind, experts in enumerate((request.experts, request.experts[order])):
            for layer in range(experts.shape[1]):
                distances = reuse_distances(experts[:, layer], request.positions)
                bins = np.bincount(np.searchsorted(WITHIN, distances), minlength=len(WITHIN) + 1)
                self._counts[kind] += bins[:-1].cumsum()

    def result(self) -> dict[str, Any]:
        names = ("reuse_within", "reuse_within_shuffle")
        shares = ratio(self._counts, self._accesses)
        return {name: dict(zip(map(str, WITHIN), row, strict=True)) for name, row in zip(names, shares, strict=True)}
