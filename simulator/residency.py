"""Where bytes are: the slots of one memory, their budgets, and who may leave.

Blobs are small integers: `blob = layer_ordinal * experts + expert`. A `Tier` holds blobs of a
memory under one or more `Partition`s (a budget in bytes and the cache policy that rules it). Room
is reserved when a load is submitted, so a memory is never over its size, not even in flight.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from simulator.engine.fabric import LANDED, Transfer

if TYPE_CHECKING:
    from simulator.policies.cache.base import CachePolicy
    from simulator.routing import Routing

RESIDENT = True
Slot = Transfer | bool | None  # in flight, resident, absent


class PolicyError(ValueError):
    """A policy broke its contract; the message is one sentence."""


class LayerView:
    """What a cache policy may see: read-only, one object per tier, current during a hook.

    group: running number of the (step, layer) being served; layer: ordinal of the MoE layer;
    prefill: whether the step processes a prompt; prefetching: whether `victims` is asked on behalf
    of experts that are only expected to be needed; routing: what the router said, for a policy that `needs` or
    `uses` it; layers: how many routed layers there are; queued(): for a policy that `sees_queue`, experts of the
    tokens that wait, for each request [tokens, layers, top_k], as the batcher's `queued`.
    """

    __slots__ = ("_tier", "group", "layer", "prefetching", "prefill", "queued", "routing")

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self.group = -1
        self.layer = -1
        self.prefill = False
        self.prefetching = False
        self.routing: Routing | None = None
        self.queued: Callable[[], Sequence[np.ndarray]] = tuple

    @property
    def layers(self) -> int:
        """Routed layers."""
        return self._tier.layers

    def layer_of(self, blob: int) -> int:
        """Ordinal of the routed layer that a blob belongs to."""
        tier = self._tier
        return blob // (len(tier.slots) // len(tier.partitions)) % tier.layers

    def size_bytes(self, blob: int) -> int:
        """Size of a blob in bytes."""
        return self._tier.sizes[blob]

    def evictable(self, blob: int) -> bool:
        """False for what is not here, for blobs of the running layer, in flight, or fetched ahead of their layer."""
        tier = self._tier
        return blob not in tier.pins and tier.slots[blob] is not None and blob not in tier.staged

    def take_until(self, need_bytes: int, order: Iterable[int]) -> list[int]:
        """The first evictable blobs of `order` that together free `need_bytes`, or all there are."""
        pins, sizes, slots, staged = self._tier.pins, self._tier.sizes, self._tier.slots, self._tier.staged
        taken = []
        for blob in order:
            if blob not in pins and slots[blob] is not None and blob not in staged:
                taken.append(blob)
                need_bytes -= sizes[blob]
                if need_bytes <= 0:
                    break
        return taken


class Partition:
    """A share of a memory: its budget, its use (both bytes) and the policy that empties it."""

    __slots__ = ("cache", "capacity_bytes", "peak_bytes", "used_bytes")

    def __init__(self, capacity_bytes: int, cache: CachePolicy) -> None:
        self.capacity_bytes = capacity_bytes
        self.cache = cache
        self.used_bytes = 0
        self.peak_bytes = 0

    def reserve(self, size_bytes: int) -> None:
        """Take room that `Tier.admit` has made."""
        used = self.used_bytes = self.used_bytes + size_bytes
        if used > self.peak_bytes:
            self.peak_bytes = used


class Tier:
    """The expert slots of one memory.

    `sizes[blob]` in bytes, `partitions[level * layers + layer]` the partition of each layer at each level of
    precision (one object for all layers: a global budget). What was fetched ahead of its layer lies in
    `staging`, if there is one, until the layer asks for it.
    """

    def __init__(
        self,
        name: str,
        sizes: list[int],
        partitions: Sequence[Partition],
        layers: int | None = None,
        staging: Partition | None = None,
    ) -> None:
        self.name = name
        self.sizes = sizes
        self.partitions = list(partitions)
        self.layers = layers or len(self.partitions)
        self.staging = staging
        self.staged: dict[int, None] = {}  # oldest first
        self.slots: list[Slot] = [None] * len(sizes)
        self.pins: set[int] = set()
        self.view = LayerView(self)
        self.evictions = 0
        self.evicted_bytes = 0
        self.draining: list[tuple[Transfer, Partition]] = []

    def look_up(self, blobs: Sequence[int]) -> tuple[Sequence[int], list[Transfer], list[int]]:
        """Split what a layer needs into resident blobs, transfers in flight, and missing blobs."""
        slots = self.slots
        hits: list[int] = []
        late: list[Transfer] = []
        misses: list[int] = []
        for blob in blobs:
            slot = slots[blob]
            if slot is RESIDENT:
                hits.append(blob)
            elif slot is None:
                misses.append(blob)
            elif slot.state == LANDED:  # type: ignore[union-attr]
                slots[blob] = RESIDENT
                hits.append(blob)
            else:
                late.append(slot)  # type: ignore[arg-type]
        return hits, late, misses

    def admit(self, partition: Partition, blobs: Sequence[int]) -> int:
        """Make room for as many of `blobs`, in order, as policy and pins allow; returns how many.

        Evicts what the policy names. The caller then calls `occupy` for each admitted blob.
        """
        sizes = self.sizes
        if self.draining:
            self._reap()
        free = partition.capacity_bytes - partition.used_bytes
        need = 0
        for blob in blobs:
            need += sizes[blob]
        if need <= free:
            return len(blobs)
        free += self.evict(partition, partition.cache.victims(need - free, blobs, self.view))
        if need <= free:
            return len(blobs)
        count = 0
        for blob in blobs:
            free -= sizes[blob]
            if free < 0:
                break
            count += 1
        return count

    def admit_staged(self, blob: int) -> bool:
        """Whether staging has room for a blob; what was fetched and not asked for is dropped for it, oldest first."""
        assert self.staging is not None
        if self.draining:
            self._reap()
        free = self.staging.capacity_bytes - self.staging.used_bytes
        if free < self.sizes[blob]:
            for old in [old for old in self.staged if old not in self.pins]:
                free += self.sizes[old]
                self.unstage(old)
        return free >= self.sizes[blob]

    def unstage(self, blob: int) -> None:
        """Drop a blob that lies in staging."""
        assert self.staging is not None
        del self.staged[blob]
        self.slots[blob] = None
        self.staging.used_bytes -= self.sizes[blob]

    def claim(self, partition: Partition, blob: int) -> None:
        """A layer asks for a blob that was staged: it enters the cache, if there is room to be made."""
        assert self.staging is not None
        if self.admit(partition, (blob,)):
            del self.staged[blob]
            self.staging.used_bytes -= self.sizes[blob]
            partition.reserve(self.sizes[blob])
            partition.cache.on_insert((blob,), self.view)

    def occupy(self, partition: Partition, blob: int, slot: Slot) -> None:
        """Reserve the room of a blob: resident now, or in flight as the given transfer."""
        self.slots[blob] = slot
        partition.reserve(self.sizes[blob])

    def evict(self, partition: Partition, victims: Sequence[int]) -> int:
        """Drop blobs a policy named; it hears of each. Returns the bytes freed.

        Raises PolicyError for one that is not resident or pinned.
        """
        slots, pins, sizes, cache = self.slots, self.pins, self.sizes, partition.cache
        freed = 0
        for victim in victims:
            if slots[victim] is None or victim in pins:
                raise PolicyError(
                    f"policy/cache {type(cache).__name__} named blob {victim} as a victim; expected one that is"
                    " resident and not pinned (see LayerView.evictable)."
                )
            freed += sizes[victim]
            slots[victim] = None
            cache.on_evict(victim)
        partition.used_bytes -= freed
        self.evictions += len(victims)
        self.evicted_bytes += freed
        return freed

    def withdraw(self, partition: Partition, transfer: Transfer) -> None:
        """A load was cancelled: its room frees when its running chunk has ended."""
        blob = transfer.blob
        self.slots[blob] = None
        if blob in self.staged:
            assert self.staging is not None
            del self.staged[blob]
            partition = self.staging
        else:
            partition.cache.on_evict(blob)
        if transfer.landed_ps is None:
            self.draining.append((transfer, partition))
        else:
            partition.used_bytes -= self.sizes[blob]

    def _reap(self) -> None:
        still = []
        for transfer, partition in self.draining:
            if transfer.landed_ps is None:
                still.append((transfer, partition))
            else:
                partition.used_bytes -= self.sizes[transfer.blob]
        self.draining = still

    def peak_bytes(self) -> int:
        """Sum of the partitions' high-water marks (bytes)."""
        staged = self.staging.peak_bytes if self.staging is not None else 0
        return sum({id(p): p.peak_bytes for p in self.partitions}.values()) + staged
