from collections import OrderedDict

from simulator.policies.cache.base import CachePolicy


class SecondChance(CachePolicy):
    """FIFO, but experts used since the last eviction go to the back of the queue (a second chance)."""

    def __init__(self) -> None:
        self._used: OrderedDict[int, bool] = OrderedDict()  # oldest first

    def on_layer(self, blobs, loads, view):
        for blob in blobs:
            self._used[blob] = blob not in loads

    def on_insert(self, blobs, view):
        self._used.update(dict.fromkeys(blobs, False))

    def on_evict(self, blob):
        self._used.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        for blob in [blob for blob, used in self._used.items() if used]:
            self._used[blob] = False
            self._used.move_to_end(blob)
        return view.take_until(need_bytes, self._used)
