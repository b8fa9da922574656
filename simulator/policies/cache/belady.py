from collections.abc import Iterator

import numpy as np

from simulator.policies.cache.base import RankedCache

NEVER = 1 << 60
BLOCK_USES, USES_PER_BLOB = 1 << 17, 64  # of the future, in memory at once: the larger


class Belady(RankedCache):
    """Clairvoyant: drops the expert whose next use is farthest (Belady, IBM Systems Journal 5, 1966).

    Next uses are counted in groups, one per (step, layer). Of experts never used again the one
    with the larger id goes first. Optimal for experts of one size; a heuristic for mixed sizes.

    The future is walked through twice: once to note, for each block of it, when each expert is first used in it, and
    once more alongside the run, block by block. Memory is a block and blocks x experts.
    """

    def bind(self, context):
        blobs = len(context.size_bytes)
        self._future = lambda: _blocks(context.future(), max(BLOCK_USES, USES_PER_BLOB * blobs))
        blocks = self._future()
        self._uses, self._stop = next(blocks, ({}, 0))
        first = []  # for each block but the opening one
        for uses, _ in blocks:
            row = np.full(blobs, NEVER, dtype=np.int64)
            for blob, groups in uses.items():
                row[blob] = groups[-1]
            first.append(row)
        later = np.full(blobs, NEVER, dtype=np.int64)
        self._later = [later]  # for each block, when each expert is first used after it; the last block first
        for row in reversed(first):
            later = np.minimum(row, later)
            self._later.append(later)
        self._after = self._later.pop().tolist()
        self._rest = None

    def _next_block(self):
        if self._rest is None:
            self._rest = self._future()
            next(self._rest)
        self._uses, self._stop = next(self._rest)
        self._after = self._later.pop().tolist()

    def _next_use(self, blob, group):
        while group >= self._stop and self._later:
            self._next_block()
        ahead = self._uses.get(blob)
        if ahead:
            while ahead and ahead[-1] <= group:
                ahead.pop()
            if ahead:
                return ahead[-1]
        return self._after[blob]

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


def _blocks(future: Iterator[list[int]], most: int) -> Iterator[tuple[dict[int, list[int]], int]]:
    """The groups of each expert in each block of about `most` uses, the last first; and the group after the block."""
    uses: dict[int, list[int]] = {}
    count, group = 0, -1
    for group, blobs in enumerate(future):
        for blob in blobs:
            if blob in uses:
                uses[blob].append(group)
            else:
                uses[blob] = [group]
        count += len(blobs)
        if count >= most:
            yield {blob: groups[::-1] for blob, groups in uses.items()}, group + 1
            uses, count = {}, 0
    if uses:
        yield {blob: groups[::-1] for blob, groups in uses.items()}, group + 1
