from simulator.policies.execution.base import ExecutionPolicy, Split


class Sooner(ExecutionPolicy):
    """Missing experts go, the busiest first, to the link or to the host CPU, whichever is done with them sooner."""

    uses_cpu = True

    def split(self, work):
        fetch, cpu, link_ps, cpu_ps = [], [], work.queued_ps, 0
        for blob in sorted(work.misses, key=lambda blob: -work.tokens[blob]):
            fetched_ps = link_ps + work.fetch_ps(blob)
            computed_ps = cpu_ps + work.cpu_ps(blob, work.tokens[blob])
            if fetched_ps <= computed_ps:
                fetch, link_ps = [*fetch, blob], fetched_ps
            else:
                cpu, cpu_ps = [*cpu, blob], computed_ps
        return Split(fetch, cpu)
