"""Steps of several workers that meet before and after the experts of every layer: how long they take, and why.

Between two meetings a worker's time depends on nobody else, so that a step lasts the sum, over what lies between
meetings, of the slowest worker's. Its critical path is that of the worker that came last to the last meeting, from
there that of the one that came last to the meeting before, and so on; a worker that came last itself keeps its own
path, else it takes that of the first one that came last (`Exchange.gather`).

S steps, L routed layers, G groups, P parts, W workers; all numbers int64 ps. Causes are what bounds work on the worker
(launches, memory, compute), then sums, then messages to experts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

CAUSES = 5
SUMS, MESSAGES = 3, 4


class Costs(NamedTuple):
    """What lies between meetings. dense: what precedes the experts of a layer, [S, G, D, 3], D kinds of it; sums after
    it, [S, G, L + 1]; out and back: what follows these sums and the experts on every worker, [S, L]; experts
    [S, P, L, 3].
    """

    dense: np.ndarray
    sums: np.ndarray
    out: np.ndarray
    experts: np.ndarray
    back: np.ndarray

    def first(self, steps: int) -> Costs:
        """Of the first steps."""
        return Costs(*(part[:steps] for part in self))

    @classmethod
    def together(cls, some: Sequence[Costs]) -> Costs:
        """One after another."""
        return cls(*(np.concatenate(parts) for parts in zip(*some, strict=True)))


class Meetings:
    """`at`: which kind of dense stretch precedes each routed layer's experts and the end of a step, [L + 1]; group and
    part of each worker; `back`: the cause of what follows the experts, SUMS or MESSAGES."""

    def __init__(self, at: np.ndarray, groups: list[int], parts: list[int], back: int) -> None:
        self._at, self._groups, self._parts, self._back = at, np.array(groups), np.array(parts), back

    def lasts_ps(self, costs: Costs) -> np.ndarray:
        """Of each step, [S]."""
        before, after = self._between(costs)
        found: np.ndarray = before.max(axis=1).sum(axis=1) + after.max(axis=1).sum(axis=1)
        return found

    def busy_ps(self, costs: Costs) -> np.ndarray:
        """That each worker does not wait in each step, [S, W]."""
        before, after = self._between(costs)
        found: np.ndarray = before.sum(axis=2)[:, self._groups] + after.sum(axis=2)[:, self._parts]
        return found

    def causes_ps(self, costs: Costs) -> np.ndarray:
        """The critical path of each step as each worker knows it, by cause: [S, W, CAUSES]."""
        before, after = self._between(costs)
        steps, workers = np.arange(len(before))[:, None], np.arange(len(self._groups))
        at = np.broadcast_to(workers, (len(before), len(workers)))  # on whose path each worker's is, from the end on
        found = np.zeros((*at.shape, CAUSES), dtype=np.int64)
        for layer in range(before.shape[2] - 1, -1, -1):
            if layer < after.shape[2]:
                at = _whose(after[:, :, layer], self._parts, at, steps)
                found[:, :, :3] += costs.experts[steps, self._parts[at], layer]
                found[:, :, self._back] += costs.back[:, layer, None]
                found[:, :, MESSAGES] += costs.out[:, layer, None]
            at = _whose(before[:, :, layer], self._groups, at, steps)
            found[:, :, :3] += costs.dense[steps, self._groups[at], self._at[layer]]
            found[:, :, SUMS] += costs.sums[steps, self._groups[at], layer]
        return found

    def _between(self, costs: Costs) -> tuple[np.ndarray, np.ndarray]:
        """How long it takes up to the meeting before each layer's experts or the end, [S, G, L + 1], and from there to
        the one after them, [S, P, L]."""
        before = costs.dense.sum(axis=3)[:, :, self._at] + costs.sums
        before[:, :, :-1] += costs.out[:, None]
        return before, costs.experts.sum(axis=3) + costs.back[:, None]


def _whose(between: np.ndarray, kinds: np.ndarray, at: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """On whose path those that are on the path of `at` [S, W] after a meeting were before it; how long each kind of
    worker took there, [S, kinds]."""
    each = between[:, kinds]
    most = each.max(axis=1)[:, None]
    found: np.ndarray = np.where(each[steps, at] == most, at, each.argmax(axis=1)[:, None])
    return found
