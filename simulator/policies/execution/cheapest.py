from simulator.policies.execution.base import ExecutionPolicy, Split


class Cheapest(ExecutionPolicy):
    """Each missing expert runs where that is quicker: on the host CPU in place, or fetched and run on the worker.

    The rule of Fiddler (ICLR 2025, arXiv 2402.07033): it compares `tokens x latency on the CPU` with the latency of
    copying the weights. Its repository writes two constants into the code, 7 ms for each token and 70 ms for a copy;
    here both come from the machine, or from `cpu_s_per_token` and `fetch_s` where given.
    """

    uses_cpu = True

    def __init__(self, cpu_s_per_token: float | None = None, fetch_s: float | None = None) -> None:
        self._cpu_s_per_token = cpu_s_per_token
        self._fetch_s = fetch_s

    def split(self, work):
        on_cpu = [blob for blob in work.misses if self._cpu_ps(work, blob) <= self._fetch_ps(work, blob)]
        return Split([blob for blob in work.misses if blob not in on_cpu], on_cpu)

    def _cpu_ps(self, work, blob):
        tokens = work.tokens[blob]
        return work.cpu_ps(blob, tokens) if self._cpu_s_per_token is None else tokens * self._cpu_s_per_token * 1e12

    def _fetch_ps(self, work, blob):
        if self._fetch_s is not None:
            return self._fetch_s * 1e12
        return work.fetch_ps(blob) + work.run_ps(blob, work.tokens[blob])
