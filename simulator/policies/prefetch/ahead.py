from simulator.policies.prefetch.base import PrefetchPolicy


class FetchAhead(PrefetchPolicy):
    """Fetches what is expected and missing, while fewer than `max_queued` transfers wait (null: always).

    most: of each layer's expected experts at most so many, null for all; chunks: see the base class.
    """

    def __init__(
        self,
        max_queued: int | None = None,
        promote: bool = True,
        cancel: bool = True,
        most: int | None = None,
        chunks: int | None = None,
    ) -> None:
        if chunks is not None and chunks < 1:
            raise ValueError(f"policy.prefetch.chunks is {chunks}; expected at least 1 or null.")
        self._max_queued = max_queued
        self._most = most
        self.promotes = promote
        self.cancels = cancel
        self.chunks = chunks

    def choose(self, missing, work):
        if self._most is not None:
            missing = missing[: self._most]
        if self._max_queued is None:
            return missing
        return missing[: max(0, self._max_queued - work.queued)]
