from simulator.policies.execution.base import ExecutionPolicy, Split


class NearMissing(ExecutionPolicy):
    """In decode what is missing runs near memory, so that nothing moves; prompts fetch what they lack, busiest last.

    Context-aware GPU-NDP (arXiv 2512.04476): the worker and the unit run side by side, experts do not migrate. Where a
    layer's experts do not all fit, the last ones to come are those that stay.
    """

    uses_units = True

    def __init__(self, unit: str | None = None) -> None:
        self._unit = unit

    def split(self, work):
        unit = self._unit or work.units[0]
        if unit not in work.units:
            raise ValueError(f"policy.execution.unit is {unit}; expected one of {', '.join(work.units)}.")
        able = set() if work.prefill else set(work.runs_on(unit))
        near = [blob for blob in work.misses if blob in able]
        fetch = sorted((blob for blob in work.misses if blob not in able), key=lambda blob: work.tokens[blob])
        return Split(fetch, units={unit: near})
