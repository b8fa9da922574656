from simulator.policies.cache.base import CachePolicy


class InactiveThenLast(CachePolicy):
    """Drops experts that the running batch does not ask for, then the one that came last.

    Expert buffering of MoE-Deploy (arXiv 2303.06182, section 5): experts run in one order for every batch, so that the
    one that has just run is needed farthest ahead. Which of those not asked for leaves first is not said; here it is
    the one not asked for for longest.
    """

    def __init__(self) -> None:
        self._came: dict[int, None] = {}  # first in first
        self._used: dict[int, None] = {}  # longest idle first
        self._active: set[int] = set()

    def on_layer(self, blobs, loads, view):
        self._active = set(blobs)
        for blob in loads:
            self._came[blob] = None
        for blob in blobs:
            self._used.pop(blob, None)
            self._used[blob] = None

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._came[blob] = self._used[blob] = None

    def on_evict(self, blob):
        self._came.pop(blob, None)
        self._used.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        idle = [blob for blob in self._used if blob not in self._active]
        return view.take_until(need_bytes, [*idle, *(blob for blob in reversed(self._came) if blob in self._active)])
