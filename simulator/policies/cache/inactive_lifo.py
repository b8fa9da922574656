from simulator.policies.cache.base import CachePolicy


class InactiveThenLast(CachePolicy):
    """Drops experts that the running batch does not ask for, then the one that came last.

    Expert buffering of MoE-Deploy (arXiv 2303.06182, section 5): experts run in one order for every batch, so that the
    one that has just run is needed farthest ahead. Of those not asked for the last in leaves first, too.
    """

    def __init__(self) -> None:
        self._order: dict[int, None] = {}  # first in first
        self._active: set[int] = set()

    def on_layer(self, blobs, loads, view):
        self._active = set(blobs)
        self.on_insert(loads, view)

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._order.pop(blob, None)
            self._order[blob] = None

    def on_evict(self, blob):
        self._order.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        last_first = list(reversed(self._order))
        idle = [blob for blob in last_first if blob not in self._active]
        return view.take_until(need_bytes, [*idle, *(blob for blob in last_first if blob in self._active)])
