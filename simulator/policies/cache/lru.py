from collections import OrderedDict

from simulator.policies.cache.base import CachePolicy


class Lru(CachePolicy):
    """Drops the experts unused for longest."""

    def __init__(self) -> None:
        self._order: OrderedDict[int, None] = OrderedDict()  # oldest first

    def on_layer(self, blobs, loads, view):
        order = self._order
        for blob in loads:
            order[blob] = None
        touch = order.move_to_end
        for blob in blobs:
            touch(blob)

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._order[blob] = None

    def on_evict(self, blob):
        self._order.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        return view.take_until(need_bytes, self._order)
