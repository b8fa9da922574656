"""Role `cache`: which expert leaves a full memory."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

from simulator.policies.base import Policy
from simulator.residency import LayerView


class CachePolicy(Policy):
    """Decides which blobs leave a full memory. Blob ids are small integers; `view` is read-only.

    on_layer(blobs, loads, view)        after a layer's look-up: what it uses from this memory, in order of
                                        access, and which of that is only now being loaded
    on_insert(blobs, view)              blobs that got room without being asked for (placed, prefetched)
    on_evict(blob)                      after a blob left, whatever the reason
    on_forecast(blobs, scores, view)    only if `hears_forecast`: before on_layer, what the prediction expects of
                                        the layers to come, most likely first; scores beside it, or None
    on_sequence_end(view)               a request has finished
    victims(need_bytes, incoming, view) only when room is missing: evictable residents that free at
                                        least need_bytes; fewer means the rest of `incoming` has to wait
                                        (a load) or is not fetched (a prefetch)
    """

    def on_layer(self, blobs: Sequence[int], loads: Sequence[int], view: LayerView) -> None: ...

    def on_insert(self, blobs: Sequence[int], view: LayerView) -> None: ...

    sees_queue = False  # whether `view.queued` and the routing of the whole step are used: where these are known

    hears_forecast = False
    hooks = (("on_forecast", "hears_forecast"),)

    def on_forecast(self, blobs: Sequence[int], scores: Sequence[float] | None, view: LayerView) -> None: ...

    def on_evict(self, blob: int) -> None: ...

    def on_sequence_end(self, view: LayerView) -> None: ...

    def victims(self, need_bytes: int, incoming: Sequence[int], view: LayerView) -> Sequence[int]:
        """Who leaves so that `incoming` fits; here expert 1, as 0 was used again.

        >>> from simulator.policies.cache.lru import Lru
        >>> from simulator.residency import RESIDENT, Partition, Tier
        >>> lru = Lru()
        >>> memory = Partition(capacity_bytes=20, cache=lru)
        >>> tier = Tier("gpu0", sizes=[10, 10, 10], partitions=[memory])
        >>> for blob in (0, 1):
        ...     tier.occupy(memory, blob, RESIDENT)
        >>> lru.on_layer([0, 1], [0, 1], tier.view)
        >>> lru.on_layer([0], [], tier.view)
        >>> lru.victims(10, [2], tier.view)
        [1]
        """
        raise NotImplementedError


class RankedCache(CachePolicy):
    """Base of policies that evict the blob of least rank; a subclass calls `rank` at each change.

    A heap with stale entries: a blob's valid entry is the one that equals its current rank. It is
    rebuilt when stale entries outnumber the valid ones by far, so it stays as small as the memory.
    """

    def __init__(self) -> None:
        self._rank: dict[int, Any] = {}
        self._heap: list[tuple[Any, int]] = []

    def rank(self, blob: int, rank: Any) -> None:
        """Set the rank (any ordered value; ties by blob id) of a resident blob."""
        self._rank[blob] = rank
        heapq.heappush(self._heap, (rank, blob))
        if len(self._heap) > 4 * len(self._rank) + 1024:
            self._heap = [(rank, blob) for blob, rank in self._rank.items()]
            heapq.heapify(self._heap)

    def on_evict(self, blob: int) -> None:
        self._rank.pop(blob, None)

    def victims(self, need_bytes: int, incoming: Sequence[int], view: LayerView) -> Sequence[int]:
        heap, ranks = self._heap, self._rank
        taken, kept = [], []
        seen: set[int] = set()
        while heap and need_bytes > 0:
            entry = heapq.heappop(heap)
            rank, blob = entry
            if ranks.get(blob) != rank or blob in seen:
                continue
            seen.add(blob)
            if view.evictable(blob):
                taken.append(blob)
                need_bytes -= view.size_bytes(blob)
            else:
                kept.append(entry)
        for entry in kept:
            heapq.heappush(heap, entry)
        return taken
