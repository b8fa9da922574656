"""The critical path of a step, kept while it runs.

A worker's lane is a chain of tasks. Where a task had to wait for a transfer (or for another worker),
that was its last-finishing predecessor: the path leaves the lane at that point and follows the
transfer back to when it was submitted. So the lane's own segments after that instant are off the
path and are dropped. What remains at the end of a step covers every tick once.
"""

from __future__ import annotations

from simulator.engine import Transfer

Part = str | tuple[int, int, int]
Snapshot = tuple[list[int], list[Part]]


class Path:
    """Segments in order; each begins where the one before it ends.

    A segment's part is a category, or (launch, memory, compute) in ps for work on the lane itself,
    in that order. `names` are the categories of those three.
    """

    __slots__ = ("ends", "names", "parts", "start_ps")

    def __init__(self, names: tuple[str, str, str] = ("overhead", "hbm", "compute")) -> None:
        self.names = names
        self.start_ps = 0
        self.ends: list[int] = []
        self.parts: list[Part] = []

    def begin(self, start_ps: int) -> None:
        """A step begins: forget the one before."""
        self.start_ps = start_ps
        self.ends.clear()
        self.parts.clear()

    def add(self, end_ps: int, part: Part) -> None:
        """The lane was busy up to `end_ps`."""
        self.ends.append(end_ps)
        self.parts.append(part)

    def cut(self, time_ps: int) -> None:
        """Drop what lies after `time_ps`."""
        ends, parts = self.ends, self.parts
        part: Part | None = None
        while ends and ends[-1] > time_ps:
            ends.pop()
            part = parts.pop()
        begin = ends[-1] if ends else self.start_ps
        if part is not None and time_ps > begin:
            if not isinstance(part, str):
                left = time_ps - begin
                launch = min(part[0], left)
                memory = min(part[1], left - launch)
                part = (launch, memory, left - launch - memory)
            ends.append(time_ps)
            parts.append(part)

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

    def copy_from(self, other: Snapshot) -> None:
        """Another worker was the last to arrive: its path is ours."""
        self.ends[:], self.parts[:] = other

    def snapshot(self) -> Snapshot:
        """A copy for `copy_from`."""
        return list(self.ends), list(self.parts)

    def totals(self) -> dict[str, int]:
        """Picoseconds per category; they sum to the step's duration."""
        totals: dict[str, int] = {}
        work: list[tuple[int, int, int]] = []  # on the lane itself
        begin = self.start_ps
        for end, part in zip(self.ends, self.parts, strict=True):
            if part.__class__ is str:
                totals[part] = totals.get(part, 0) + end - begin
            else:
                work.append(part)  # type: ignore[arg-type]
            begin = end
        for name, values in zip(self.names, zip(*work, strict=True), strict=False):  # none if there was no work
            if value := sum(values):
                totals[name] = value
        return totals
