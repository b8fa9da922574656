"""Regions of a memory that one processor at a time may read: the worker or the units on it."""

from __future__ import annotations

from collections.abc import Sequence


class Regions:
    """Expert e of a layer lies in region e mod n (Duplex, arXiv 2409.01141, deals experts to four bundles of banks in
    turn). In each layer the worker needs w_r of region r and the units u_r, in any order, never both at once.

    That is an open shop of two machines, whose least makespan is max(sum w, sum u, max_r (w_r + u_r)) (Gonzalez and
    Sahni, Journal of the ACM 23, 1976). The first two are what takes place without regions; `end_ps` is the third:
    controllers are taken to find the best order. What the worker runs of experts that it fetches is left out. Several
    units are taken as one, the slowest in each region.
    """

    def __init__(self, count: int, experts: int) -> None:
        self._count, self._experts = count, experts
        self._worker = [0] * count
        self._units = [0] * count
        self._begin_ps = -1

    def unit_reads(self, blobs: Sequence[int], lasts_ps: Sequence[int], now_ps: int) -> None:
        """A unit begins with these experts, which take so long each."""
        one = [0] * self._count
        for blob, ps in zip(blobs, lasts_ps, strict=True):
            one[self._region(blob)] += ps
        self._units = [max(pair) for pair in zip(self._units, one, strict=True)]
        self._begin_ps = now_ps

    def worker_reads(self, blobs: Sequence[int], read_bytes: Sequence[int], lasts_ps: int) -> None:
        """The worker's launch of these experts takes so long, in proportion to what it reads of each."""
        total = max(1, sum(read_bytes))
        for blob, size_bytes in zip(blobs, read_bytes, strict=True):
            self._worker[self._region(blob)] += lasts_ps * size_bytes // total

    def end_ps(self) -> int:
        """When the layer ends at the earliest because both have read each region in turn; begins anew."""
        end_ps = 0
        if self._begin_ps >= 0:
            end_ps = self._begin_ps + max(w + u for w, u in zip(self._worker, self._units, strict=True))
        self._worker, self._units, self._begin_ps = [0] * self._count, [0] * self._count, -1
        return end_ps

    def _region(self, blob: int) -> int:
        return blob % self._experts % self._count
