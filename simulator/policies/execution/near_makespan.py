from simulator.policies.execution.near import NearExecution, all_slower_ps


class NearMakespan(NearExecution):
    """Of all ways to give the worker resident experts, then missing ones, of most tokens, and the unit the others, the
    one that ends first."""

    resident_first = True

    def count(self, work, unit, order):
        ends_ps = all_slower_ps(work, unit, order)
        return ends_ps.index(min(ends_ps))
