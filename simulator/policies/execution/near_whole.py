from simulator.policies.execution.near import NearExecution, unit_ends_ps, worker_ends_ps


class NearWhole(NearExecution):
    """All experts of a layer run on the worker or all on the unit, whichever ends first.

    Duplex without co-processing (MICRO 2024, arXiv 2409.01141), which sends a layer to its logic dies if operations per
    byte are few: that is where they are quicker.
    """

    def count(self, work, unit, order):
        near = unit_ends_ps(work, unit, order) < worker_ends_ps(work, order)
        return 0 if near else len(order)
