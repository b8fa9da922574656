from simulator.policies.cache.base import RankedCache


class Lfu(RankedCache):
    """Drops the experts used least often; ties by recency, the longest unused first.

    history: False: an expert's count dies when it is evicted; True: counts run since the start.
    """

    def __init__(self, history: bool = False) -> None:
        super().__init__()
        self._history = history
        self._count: dict[int, int] = {}
        self._tick = 0

    def on_layer(self, blobs, loads, view):
        count = self._count
        for blob in blobs:
            self._tick += 1
            count[blob] = uses = count.get(blob, 0) + 1
            self.rank(blob, (uses, self._tick))

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._tick += 1
            self.rank(blob, (self._count.setdefault(blob, 0), self._tick))

    def on_evict(self, blob):
        super().on_evict(blob)
        if not self._history:
            self._count.pop(blob, None)
