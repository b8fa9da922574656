from simulator.policies.cache.base import CachePolicy


class Fifo(CachePolicy):
    """Drops the experts that were loaded first."""

    def __init__(self) -> None:
        self._order: dict[int, None] = {}  # first in first

    def on_layer(self, blobs, loads, view):
        self.on_insert(loads, view)

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._order[blob] = None

    def on_evict(self, blob):
        self._order.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        return view.take_until(need_bytes, self._order)
