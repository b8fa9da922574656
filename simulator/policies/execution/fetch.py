from simulator.policies.execution.base import ExecutionPolicy, Split


class FetchToGpu(ExecutionPolicy):
    """Every missing expert is fetched and run on the worker."""

    def split(self, work):
        return Split(work.misses)
