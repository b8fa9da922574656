from simulator.policies.prefetch.base import PrefetchPolicy


class Deepening(PrefetchPolicy):
    """Fetches what the nearest layer is missing; a layer further on only once all that is expected before it is here.

    AdapMoE (arXiv 2408.10284, section 4.2) and HOBBIT (arXiv 2411.01433, section 3.3). `most`: of one layer at most
    so many at a time (null: all); the others as in `ahead`.
    """

    def __init__(
        self, most: int | None = None, promote: bool = True, cancel: bool = True, chunks: int | None = None
    ) -> None:
        if chunks is not None and chunks < 1:
            raise ValueError(f"policy.prefetch.chunks is {chunks}; expected at least 1 or null.")
        self._most = most
        self.promotes = promote
        self.cancels = cancel
        self.chunks = chunks

    def choose(self, missing, work):
        nearest = min(map(work.distance, missing))
        return [blob for blob in missing if work.distance(blob) == nearest][: self._most]
