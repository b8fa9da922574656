from simulator.policies.execution.near import NearExecution


class AllNear(NearExecution):
    """Every expert that the unit can run runs there: activations move, weights stay (AMove of MoNDE,
    arXiv 2405.18832)."""

    def count(self, work, unit, order):
        return 0
