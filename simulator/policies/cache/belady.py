from simulator.policies.cache.base import RankedCache


class Belady(RankedCache):
    """Clairvoyant: drops the expert whose next use is farthest (Belady, IBM Systems Journal 5, 1966).

    Next uses are counted in groups, one per (step, layer). Of experts never used again the one
    with the larger id goes first. Optimal for experts of one size; a heuristic for mixed sizes.
    """

    def bind(self, context):
        uses: dict[int, list[int]] = {}
        for group, blobs in enumerate(context.future()):
            for blob in blobs:
                uses.setdefault(blob, []).append(group)
        self._uses = {blob: list(reversed(groups)) for blob, groups in uses.items()}

    def _next_use(self, blob, group):
        ahead = self._uses.get(blob, [])
        while ahead and ahead[-1] <= group:
            ahead.pop()
        return ahead[-1] if ahead else 1 << 60

    def on_layer(self, blobs, loads, view):
        for blob in blobs:
            self.rank(blob, (-self._next_use(blob, view.group), -blob))

    def on_insert(self, blobs, view):
        self.on_layer(blobs, blobs, view)

    def victims(self, need_bytes, incoming, view):
        """Makes no room for a prefetched expert by dropping one that is needed before it."""
        chosen = super().victims(need_bytes, incoming, view)
        for blob in chosen:
            self.rank(blob, self._rank[blob])  # back on the heap; leaves it when it is evicted
        if not view.prefetching:
            return chosen
        soonest = min(self._next_use(blob, view.group) for blob in incoming)
        return [blob for blob in chosen if self._next_use(blob, view.group) > soonest]
