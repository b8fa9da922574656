"""What the choices have in common that divide a layer between the worker and a unit near memory."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.layer_work import LayerWork
from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.runtime.near_divided import DIVIDED


class NearExecution(ExecutionPolicy):
    """Sorts the experts that the unit can run by tokens, most first; `count` says how many of them the worker takes.

    unit: a unit of the platform; "divided": all of them, each with a part of every expert; None: the first. Missing
    experts that the worker takes are fetched in this order.
    resident_first: sorts what the worker has before what it lacks.
    """

    uses_units = True
    always = True
    resident_first = False

    def __init__(self, unit: str | None = None) -> None:
        self._unit = unit

    def split(self, work: LayerWork) -> Split:
        unit = chosen_unit(work, self._unit)
        missing = set(work.misses)
        order = sorted(
            work.runs_on(unit),
            key=lambda blob: (self.resident_first and blob in missing, -work.tokens[blob], blob in missing),
        )
        count = self.count(work, unit, order)
        near = order[count:]
        first = [blob for blob in order[:count] if blob in missing]
        able = set(order)
        return Split([*first, *(blob for blob in work.misses if blob not in able)], units={unit: near})

    def count(self, work: LayerWork, unit: str, order: Sequence[int]) -> int:
        """How many of `order`, from its begin, the worker runs."""
        raise NotImplementedError


def chosen_unit(work: LayerWork, unit: str | None) -> str:
    """The unit of that name; the first one for None. Raises ValueError if there is none."""
    unit = unit or work.units[0]
    if unit == DIVIDED and len(work.units) == 1:
        return work.units[0]
    if unit not in work.units and not (unit == DIVIDED and work.divides):
        raise ValueError(
            f"policy.execution.unit is {unit}; expected one of {', '.join(work.units)}, or {DIVIDED} where all units"
            " are of one memory."
        )
    return unit


def worker_ends_ps(work: LayerWork, blobs: Sequence[int]) -> int:
    """When a worker that takes these experts ends: resident ones at once, others as the link brings them, in order."""
    missing = set(work.misses)
    here = [work.tokens[blob] for blob in blobs if blob not in missing]
    ends_ps = work.run_together_ps(work.layer, here) if here else 0
    link_ps = work.queued_ps
    for blob in blobs:
        if blob in missing:
            link_ps += work.fetch_ps(blob)
            ends_ps = max(ends_ps, link_ps) + work.run_ps(blob, work.tokens[blob])
    return ends_ps


def unit_ends_ps(work: LayerWork, unit: str, blobs: Sequence[int]) -> int:
    """When a unit that takes these experts has handed in their results."""
    if not blobs:
        return 0
    moved_ps = work.activations_ps(unit, sum(work.tokens[blob] for blob in blobs))
    return moved_ps + sum(work.unit_ps(unit, blob, work.tokens[blob]) for blob in blobs)


def slower_ps(work: LayerWork, unit: str, order: Sequence[int], count: int) -> int:
    """When the slower side ends if the worker takes the first `count` and the unit the others."""
    return max(worker_ends_ps(work, order[:count]), unit_ends_ps(work, unit, order[count:]))


def all_slower_ps(work: LayerWork, unit: str, order: Sequence[int]) -> list[int]:
    """[n]: `slower_ps` of every count n from 0 to all, in one pass; what the worker has comes first in `order`."""
    tokens, missing = work.tokens, set(work.misses)
    here = [tokens[blob] for blob in order if blob not in missing]
    mine_ps = list(work.run_firsts_ps(work.layer, here))
    link_ps = work.queued_ps
    for blob in order[len(here) :]:
        link_ps += work.fetch_ps(blob)
        mine_ps.append(max(mine_ps[-1], link_ps) + work.run_ps(blob, tokens[blob]))
    served = busy_ps = 0
    ends_ps = [mine_ps[-1]]
    for place in range(len(order) - 1, -1, -1):
        blob = order[place]
        served += tokens[blob]
        busy_ps += work.unit_ps(unit, blob, tokens[blob])
        ends_ps.append(max(mine_ps[place], work.activations_ps(unit, served) + busy_ps))
    return ends_ps[::-1]
