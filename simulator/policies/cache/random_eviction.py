from simulator.policies.cache.base import CachePolicy


class RandomEviction(CachePolicy):
    """Drops experts drawn uniformly, from the run's seed."""

    def bind(self, context):
        self._rng = context.rng
        self._blobs: list[int] = []
        self._place: dict[int, int] = {}

    def on_layer(self, blobs, loads, view):
        self.on_insert(loads, view)

    def on_insert(self, blobs, view):
        for blob in blobs:
            self._place[blob] = len(self._blobs)
            self._blobs.append(blob)

    def on_evict(self, blob):
        place, last = self._place.pop(blob), self._blobs.pop()
        if last != blob:
            self._blobs[place] = last
            self._place[last] = place

    def victims(self, need_bytes, incoming, view):
        if not self._blobs:
            return []
        return view.take_until(need_bytes, self._draws(4 * len(incoming)))

    def _draws(self, count):
        """Every resident blob once, in random order; the first few without permuting them all."""
        drawn = dict.fromkeys(self._rng.integers(len(self._blobs), size=count).tolist())
        yield from (self._blobs[i] for i in drawn)
        yield from (self._blobs[i] for i in self._rng.permutation(len(self._blobs)) if i not in drawn)
