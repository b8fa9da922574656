from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.policies.execution.near import unit_ends_ps, worker_ends_ps
from simulator.policies.execution.near_local import by_unit


class NearBusiest(ExecutionPolicy):
    """All begin near memory; the busiest unit's expert of most tokens moves to the worker while that is not the slower.

    PIMoE (DAC 2025) as another publication restates it (Sieve, arXiv 2605.11277): experts lie in the channels of a
    memory, here unit e modulo n, and leave the busiest channel until the processor would take longer than the channels.
    """

    uses_units = True
    always = True

    def split(self, work):
        units = by_unit(work, work.units)
        ends_ps = {unit: unit_ends_ps(work, unit, blobs) for unit, blobs in units.items()}
        near = {blob for blobs in units.values() for blob in blobs}
        mine = [blob for blob in work.hits if blob not in near]
        missing = set(work.misses)
        while near:
            busiest = max(units, key=lambda unit: ends_ps[unit])
            if not units[busiest] or worker_ends_ps(work, [*mine, units[busiest][0]]) > ends_ps[busiest]:
                break
            moved = units[busiest].pop(0)
            mine.append(moved)
            near.discard(moved)
            ends_ps[busiest] = unit_ends_ps(work, busiest, units[busiest])
        first = [blob for blob in mine if blob in missing]
        return Split([*first, *(blob for blob in work.misses if blob not in {*near, *first})], units=units)
