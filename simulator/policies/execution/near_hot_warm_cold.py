from simulator.policies.execution.base import ExecutionPolicy, Split

WORKER = ""


class NearHotWarmCold(ExecutionPolicy):
    """Worker, host CPU and memory modules each take the experts that they are best at; the slowest of all ends a layer.

    TriMoE (DAC 2026, arXiv 2603.01058): in order of tokens each expert goes where all would end soonest; then experts
    of whatever ends last move elsewhere while that ends the layer sooner. Times add up on each side, as there: on the
    worker the longer of copy and run for what is missing, on a unit its runs and what its activations take.

    warm: unit for experts of moderate use, "cpu"; null: none. cold: other units, by default all. An expert is cold in
    the unit of number e modulo their number, where it lies; `rebalanced`: in any, as if it had been moved there
    before, at no cost.
    """

    uses_units = True
    always = True

    def __init__(self, warm: str | None = "cpu", cold: bool = True, rebalanced: bool = False) -> None:
        self._warm, self._cold, self._rebalanced = warm, cold, rebalanced

    def split(self, work):
        if self._warm not in (None, "cpu", *work.units):
            raise ValueError(
                f"policy.execution.warm is {self._warm}; expected one of {', '.join(work.units)}, or null."
            )
        warm = [unit for unit in work.units if unit == self._warm]
        cold = [unit for unit in work.units if unit not in (self._warm, "cpu")] if self._cold else []
        able = {unit: set(work.runs_on(unit)) for unit in (*warm, *cold)}
        ends = {WORKER: work.queued_ps if work.misses else 0, **{unit: work.activations_ps(unit, 0) for unit in able}}
        missing, costs, at = set(work.misses), {}, {}
        for blob in sorted(work.runs_on(next(iter(able))) if able else (), key=lambda blob: -work.tokens[blob]):
            tokens = work.tokens[blob]
            run_ps = work.run_ps(blob, tokens)
            cost = costs[blob] = {WORKER: max(run_ps, work.fetch_ps(blob)) if blob in missing else run_ps}
            lies_in = cold if self._rebalanced else cold[blob % work.experts % len(cold) :][:1] if cold else ()
            for unit in (*warm, *lies_in):
                if blob in able[unit]:
                    moves_ps = work.activations_ps(unit, tokens) - work.activations_ps(unit, 0)
                    cost[unit] = work.unit_ps(unit, blob, tokens) + moves_ps
            at[blob] = best = min(cost, key=lambda place: (max(ends[place] + cost[place], *ends.values()), cost[place]))
            ends[best] += cost[best]
        for _ in range(len(at)):
            if not self._moved(at, costs, ends):
                break
        units = {unit: [blob for blob in at if at[blob] == unit] for unit in able}
        near = {blob for blobs in units.values() for blob in blobs}
        fetched = [blob for blob in at if at[blob] == WORKER and blob in missing]
        return Split([*fetched, *(blob for blob in work.misses if blob not in at)], units={**units} if near else {})

    def _moved(self, at, costs, ends):
        """Move the one expert of the place that ends last whose move ends the layer soonest; whether that is sooner."""
        last = max(ends, key=lambda place: ends[place])
        best = None
        for blob, place in at.items():
            if place != last:
                continue
            for other, cost_ps in costs[blob].items():
                if other != last:
                    ends_ps = max(ends[last] - costs[blob][last], ends[other] + cost_ps)
                    if ends_ps < (best[0] if best else ends[last]):
                        best = ends_ps, blob, other
        if best is None:
            return False
        _, blob, other = best
        ends[last] -= costs[blob][last]
        ends[other] += costs[blob][other]
        at[blob] = other
        return True
