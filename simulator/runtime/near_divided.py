"""One expert on several units near one memory, each of which reads its part (tensor parallelism)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from simulator.engine import PS_PER_S, Transfer
from simulator.residency import PolicyError

if TYPE_CHECKING:
    from simulator.runtime.near import NearUnit

DIVIDED = "divided"  # what a split names in place of a unit


class DividedUnit:
    """All units of one memory as one. Inputs cross the link once, for the units read them from their memory; each
    returns partial sums of its own, of full width, which the worker adds at no cost.

    A share of an expert takes that share of its time and bytes on a unit. Without `shares` all have the same.
    """

    def __init__(self, units: Mapping[str, NearUnit]) -> None:
        self.members = units
        self._units = list(units.values())
        self._first = self._units[0]
        self._even = (1 / len(units),) * len(units)

    @property
    def shares_worker_memory(self) -> bool:
        """Whether they compute from the worker's own memory."""
        return self._first.shares_worker_memory

    def runs_ps(self, blob: int, tokens: int) -> int:
        """How long an expert takes for so many tokens by itself, if its parts are equal."""
        return max(unit.runs_ps(blob, tokens, share) for unit, share in zip(self._units, self._even, strict=True))

    def moves_ps(self, tokens: int) -> int:
        """How long the inputs of so many tokens take there, and the results of all units back, alone on the link."""
        if self._first.lanes is None:
            return 0
        size_bytes = self._first.vectors_bytes((0,), {0: tokens})
        there, back = self._first.lanes
        ps = there.latency_ps + size_bytes * PS_PER_S // there.bottleneck
        return ps + len(self._units) * (back.latency_ps + size_bytes * PS_PER_S // back.bottleneck)

    def submit(
        self, blobs: Sequence[int], tokens: Mapping[int, int], now_ps: int, shares: Mapping[int, Sequence[float]]
    ) -> tuple[list[Transfer], list[Transfer]]:
        """Start experts, in this order, on each unit its share. Returns their parts, and what the layer has to wait
        for. Raises PolicyError for shares that do not make up an expert."""
        fabric, jobs, last = self._first.fabric, [], []
        inputs = Transfer(-1, self._first.vectors_bytes(blobs, tokens), True)
        inputs.then = []
        for place, unit in enumerate(self._units):
            parts = [(blob, self._share(blob, shares)[place]) for blob in blobs]
            own = [unit.job(blob, tokens[blob], share) for blob, share in parts if share > 0]
            if not own:
                continue
            jobs += own
            if unit.lanes is None:
                fabric.submit_all(unit.lane, own, now_ps)
                last.append(own[-1])
                continue
            inputs.then += [(unit.lane, job) for job in own]
            for job in own:
                job.cause = inputs
            results = Transfer(-1, unit.vectors_bytes([job.blob for job in own], tokens), True)
            results.cause = own[-1]
            own[-1].then = [(unit.lanes[1], results)]
            last.append(results)
        if self._first.lanes is not None:
            fabric.submit(self._first.lanes[0], inputs, now_ps)
        return jobs, last

    def _share(self, blob: int, shares: Mapping[int, Sequence[float]]) -> Sequence[float]:
        found = shares.get(blob, self._even)
        if len(found) != len(self._units) or min(found) < 0 or abs(sum(found) - 1) > 1e-6:
            raise PolicyError(
                f"policy/execution divides expert {blob} as {[round(float(share), 4) for share in found]}; expected"
                f" {len(self._units)} shares of at least 0 that sum to 1."
            )
        return found

    def by_unit(
        self, blobs: Sequence[int], amounts: Mapping[int, int] | Sequence[int], shares: Mapping[int, Sequence[float]]
    ) -> dict[str, int]:
        """Name of each unit -> its part of whole amounts of these experts; the parts sum to them."""
        found = dict.fromkeys(self.members, 0)
        for blob in blobs:
            ends = [round(end * amounts[blob]) for end in accumulate(self._share(blob, shares))]
            for name, begin, end in zip(found, [0, *ends], [*ends[:-1], amounts[blob]], strict=False):
                found[name] += end - begin
        return found
