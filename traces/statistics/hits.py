"""Hit rates of per-layer caches over the share of a layer's experts that they hold."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from traces.statistics.belady import BeladyDepths, FirstUses
from traces.statistics.counting import ratio
from traces.statistics.lru import LruDepths

FRACTIONS = (0.0625, 0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875, 1.0)


def capacity(fraction: float, num_experts: int) -> int:
    """Experts that a cache of `fraction` of a layer holds: rounded down, at least one."""
    return max(1, math.floor(fraction * num_experts))


class HitCurves:
    """LRU and Belady on the trace, and on the trace with the tokens of each request shuffled.

    One cache per layer, empty at the start and kept from request to request in file order; tokens one by one, a
    token's experts one by one, so that one may push out another; the first use of an expert is a miss.
    Call `add` for all blocks, then `add_again` for the same blocks once more. A block holds
    the real layers and behind them the shuffled ones: [tokens, 2 * layers, slots].
    """

    def __init__(self, layers: int, num_experts: int) -> None:
        self._layers, self._experts = layers, num_experts
        self._lru = LruDepths(2 * layers, num_experts)
        self._first = FirstUses(2 * layers, num_experts)
        self._belady: BeladyDepths | None = None

    def add(self, block: np.ndarray) -> None:
        self._lru.add(block)
        self._first.add(block)

    def add_again(self, block: np.ndarray) -> None:
        if self._belady is None:
            self._belady = BeladyDepths(2 * self._layers, self._experts, self._first.after())
        self._belady.add(block)

    def result(self) -> dict[str, Any]:
        assert self._belady is not None
        out: dict[str, Any] = {"by_layer": {}}
        for name, counts in (("lru_hit_rate", self._lru.counts), ("belady_hit_rate", self._belady.counts())):
            for suffix, lanes in (("", slice(self._layers)), ("_shuffle", slice(self._layers, None))):
                hits, accesses = counts[lanes].cumsum(axis=1), self._lru.accesses[lanes]
                sizes = [capacity(fraction, self._experts) for fraction in FRACTIONS]
                out[name + suffix] = {
                    f"{fraction:g}": float(ratio(hits[:, size - 1].sum(), accesses.sum()))
                    for fraction, size in zip(FRACTIONS, sizes, strict=True)
                }
                half = capacity(0.5, self._experts)
                out["by_layer"][f"{name}_at_half{suffix}"] = ratio(hits[:, half - 1], accesses)
        return out
