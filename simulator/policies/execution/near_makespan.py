from simulator.policies.execution.near import NearExecution, slower_ps


class NearMakespan(NearExecution):
    """Of all ways to give the worker the experts with most tokens and the unit the others, the one that ends first."""

    def count(self, work, unit, order):
        return min(range(len(order) + 1), key=lambda count: slower_ps(work, unit, order, count))
