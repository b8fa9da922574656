from simulator.policies.execution.near import NearExecution, slower_ps


class NearMakespan(NearExecution):
    """Of all ways to give the worker resident experts, then missing ones, of most tokens, and the unit the others, the
    one that ends first."""

    resident_first = True

    def count(self, work, unit, order):
        return min(range(len(order) + 1), key=lambda count: slower_ps(work, unit, order, count))
