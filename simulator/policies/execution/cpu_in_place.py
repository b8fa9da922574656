from simulator.policies.execution.base import ExecutionPolicy, Split


class CpuInPlace(ExecutionPolicy):
    """A missing expert runs on the host CPU if it serves at most `max_tokens` tokens, else it is fetched."""

    uses_cpu = True

    def __init__(self, max_tokens: int = 32) -> None:
        self._max_tokens = max_tokens

    def split(self, work):
        few = [blob for blob in work.misses if work.tokens[blob] <= self._max_tokens]
        return Split([blob for blob in work.misses if work.tokens[blob] > self._max_tokens], few)
