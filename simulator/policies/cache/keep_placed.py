from simulator.policies.cache.base import CachePolicy
from simulator.residency import PolicyError


class KeepPlaced(CachePolicy):
    """What was resident at the start never leaves; what is copied in passing leaves in order of arrival.

    A static residency with a place to copy others to: Fiddler's placeholder (arXiv 2402.07033), weights that
    llama.cpp copies for large batches. `spare`: so many of those placed last, the least wanted, count as copied in
    passing, which makes the place where none was left.
    """

    def __init__(self, spare: int = 0) -> None:
        if spare < 0:
            raise ValueError(f"policy.cache.spare is {spare}; expected at least 0.")
        self._spare = spare
        self._placed: dict[int, None] = {}  # most wanted first
        self._passing: dict[int, None] = {}  # oldest first
        self._kept_bytes = 0
        self._capacity_bytes = 0

    def bind(self, context):
        self._capacity_bytes = context.capacity_bytes

    def on_layer(self, blobs, loads, view):
        self._passing.update(dict.fromkeys(loads))

    def on_insert(self, blobs, view):
        if view.group >= 0:
            self._passing.update(dict.fromkeys(blobs))
            return
        for blob in blobs:
            self._placed[blob] = None
            self._kept_bytes += view.size_bytes(blob)

    def on_evict(self, blob):
        self._passing.pop(blob, None)

    def victims(self, need_bytes, incoming, view):
        while self._spare and self._placed:
            blob, _ = self._placed.popitem()
            self._passing = {blob: None, **self._passing}
            self._kept_bytes -= view.size_bytes(blob)
            self._spare -= 1
        room = self._capacity_bytes - self._kept_bytes
        if room < view.size_bytes(incoming[0]):
            raise PolicyError(
                f"policy/cache KeepPlaced has {room} bytes beside what is placed for good, but an expert of"
                f" {view.size_bytes(incoming[0])} bytes is to be copied in; expected a larger expert cache (cache_gib),"
                " or fewer experts placed."
            )
        return view.take_until(need_bytes, self._passing)
