"""How good recorded look-ahead guesses are, by distance in layers."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import RequestTrace, TraceMeta
from traces.statistics.counting import ratio
from traces.statistics.overlap import common


class LookAhead:
    """Share of a layer's experts that were guessed at the layer `distance` before; nothing without guesses.

    The control takes the guesses of another token of the same request (a permutation).
    """

    def __init__(self, meta: TraceMeta) -> None:
        self._distances = min(meta.guess_distances, len(meta.layers) - 1)
        self._sums = np.zeros((3, self._distances, len(meta.layers)), dtype=np.int64)  # hits, by chance, asked

    def add(self, request: RequestTrace, order: np.ndarray) -> None:
        for index in range(self._distances):
            assert request.guesses is not None
            guesses, actual = request.guesses[:, : -1 - index, index], request.experts[:, 1 + index :]
            target = slice(1 + index, None)  # the layers guessed
            hits, asked = common(guesses, actual)
            self._sums[0, index, target] += hits
            self._sums[1, index, target] += common(guesses[order], actual)[0]
            self._sums[2, index, target] += asked

    def result(self) -> dict[str, Any]:
        names = ("look_ahead_recall", "look_ahead_recall_shuffle")
        out: dict[str, Any] = {"by_layer": {}}
        for name, hits in zip(names, self._sums, strict=False):
            out[name] = {
                str(index + 1): float(ratio(hits[index].sum(), self._sums[2, index].sum()))
                for index in range(self._distances)
            } or None
            if self._distances:
                out["by_layer"][name] = ratio(hits[0, 1:], self._sums[2, 0, 1:])
        return out
