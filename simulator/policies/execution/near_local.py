from collections.abc import Sequence

from simulator.layer_work import LayerWork
from simulator.policies.execution.base import ExecutionPolicy, Split


class NearLocal(ExecutionPolicy):
    """Each expert runs on the unit where it lies: that of number e modulo n of n units (expert parallelism)."""

    uses_units = True
    always = True

    def split(self, work):
        units = by_unit(work, work.units)
        near = {blob for blobs in units.values() for blob in blobs}
        return Split([blob for blob in work.misses if blob not in near], units=units)


def by_unit(work: LayerWork, units: Sequence[str]) -> dict[str, list[int]]:
    """Unit -> those of the layer's experts that lie in it and can run there, most tokens first."""
    lying: dict[str, list[int]] = {unit: [] for unit in units}
    for place, unit in enumerate(units):
        for blob in work.runs_on(unit):
            if blob % work.experts % len(units) == place:
                lying[unit].append(blob)
        lying[unit].sort(key=lambda blob: -work.tokens[blob])
    return lying
