"""The critical path of a step, kept while it runs.

A worker's lane is a chain of tasks. Where a task had to wait for a transfer (or for another worker),
that was its last-finishing predecessor: the path leaves the lane at that point and follows the
transfer back to when it was submitted. So the lane's own segments after that instant are off the
path and are dropped. What remains at the end of a step covers every tick once.
"""

from __future__ import annotations

from collections.abc import Sequence

from simulator.engine import Transfer


class Path:
    """Segments (category, end) in order; each begins where the one before it ends."""

    __slots__ = ("categories", "ends", "start_ps")

    def __init__(self) -> None:
        self.start_ps = 0
        self.ends: list[int] = []
        self.categories: list[str] = []

    def begin(self, start_ps: int) -> None:
        """A step begins: forget the one before."""
        self.start_ps = start_ps
        self.ends.clear()
        self.categories.clear()

    def add(self, end_ps: int, category: str) -> None:
        """The lane was busy with `category` up to `end_ps`."""
        self.ends.append(end_ps)
        self.categories.append(category)

    def cut(self, time_ps: int) -> None:
        """Drop what lies after `time_ps`."""
        ends, categories = self.ends, self.categories
        category = None
        while ends and ends[-1] > time_ps:
            ends.pop()
            category = categories.pop()
        if category is not None and time_ps > (ends[-1] if ends else self.start_ps):
            ends.append(time_ps)
            categories.append(category)

    def waited_for(self, transfer: Transfer) -> None:
        """The lane stood still until `transfer` landed; follow it, hop by hop, back to its submission."""
        hops = [transfer]
        while hops[-1].cause is not None:
            hops.append(hops[-1].cause)
        self.cut(max(hops[-1].submitted_ps, self.start_ps))
        for hop in reversed(hops):
            assert hop.landed_ps is not None
            assert hop.lane is not None
            if hop.landed_ps > (self.ends[-1] if self.ends else self.start_ps):
                self.add(hop.landed_ps, hop.lane.category)

    def copy_from(self, other: tuple[Sequence[int], Sequence[str]]) -> None:
        """Another worker was the last to arrive: its path is ours."""
        self.ends[:] = other[0]
        self.categories[:] = other[1]

    def snapshot(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """A copy for `copy_from`."""
        return tuple(self.ends), tuple(self.categories)

    def totals(self) -> dict[str, int]:
        """Picoseconds per category; they sum to the step's duration."""
        totals: dict[str, int] = {}
        begin = self.start_ps
        for end, category in zip(self.ends, self.categories, strict=True):
            totals[category] = totals.get(category, 0) + end - begin
            begin = end
        return totals
