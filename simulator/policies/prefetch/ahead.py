from simulator.policies.prefetch.base import PrefetchPolicy


class FetchAhead(PrefetchPolicy):
    """Fetches what is expected and missing, while fewer than `max_queued` transfers wait (null: always)."""

    def __init__(self, max_queued: int | None = None, promote: bool = True, cancel: bool = True) -> None:
        self._max_queued = max_queued
        self.promotes = promote
        self.cancels = cancel

    def choose(self, missing, queued):
        if self._max_queued is None:
            return missing
        return missing[: max(0, self._max_queued - queued)]
