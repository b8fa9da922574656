"""Where bytes are: the slots of one memory, their budgets, and who may leave.

Blobs are small integers: `blob = layer_ordinal * experts + expert`. A `Tier` holds blobs of a
memory under one or more `Partition`s (a budget in bytes and the cache policy that rules it). Room
is reserved when a load is submitted, so a memory is never over its size, not even in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from simulator.engine.fabric import LANDED, Transfer

if TYPE_CHECKING:
    from simulator.policies.cache.base import CachePolicy

RESIDENT = True
Slot = Transfer | bool | None  # in flight, resident, absent


class PolicyError(ValueError):
    """A policy broke its contract; the message is one sentence."""


class LayerView:
    """What a cache policy may see: read-only, one object per tier, current during a hook.

    group: running number of the (step, layer) being served; layer: ordinal of the MoE layer;
    prefill: whether the step processes a prompt; prefetching: whether `victims` is asked on behalf
    of experts that are only expected to be needed.
    """

    __slots__ = ("_tier", "group", "layer", "prefetching", "prefill")

    def __init__(self, tier: Tier) -> None:
        self._tier = tier
        self.group = -1
        self.layer = -1
        self.prefill = False
        self.prefetching = False

    def size_bytes(self, blob: int) -> int:
        """Size of a blob in bytes."""
        return self._tier.sizes[blob]

    def evictable(self, blob: int) -> bool:
        """False for what is not here, for blobs of the running layer, in flight, or fetched ahead of their layer."""
        return blob not in self._tier.pins and self._tier.slots[blob] is not None

    def take_until(self, need_bytes: int, order: Iterable[int]) -> list[int]:
        """The first evictable blobs of `order` that together free `need_bytes`, or all there are."""
        pins, sizes, slots = self._tier.pins, self._tier.sizes, self._tier.slots
        taken = []
        for blob in order:
            if blob not in pins and slots[blob] is not None:
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

    `sizes[blob]` in bytes, `partitions[layer]` the partition of each layer (one object for all
    layers: a global budget).
    """

    def __init__(self, name: str, sizes: list[int], partitions: Sequence[Partition]) -> None:
        self.name = name
        self.sizes = sizes
        self.partitions = list(partitions)
        self.slots: list[Slot] = [None] * len(sizes)
        self.pins: set[int] = set()
        self.view = LayerView(self)
        self.evictions = 0
        self.evicted_bytes = 0
        self.draining: list[tuple[Transfer, Partition]] = []

    def look_up(self, blobs: Sequence[int]) -> tuple[Sequence[int], list[Transfer], list[int]]:
        """Split what a layer needs into resident blobs, transfers in flight, and missing blobs."""
        slots = self.slots
        others = [blob for blob in blobs if slots[blob] is not RESIDENT]
        if not others:
            return blobs, [], []
        late: list[Transfer] = []
        misses: list[int] = []
        for blob in others:
            slot = slots[blob]
            if slot is None:
                misses.append(blob)
            elif slot.state == LANDED:  # type: ignore[union-attr]
                slots[blob] = RESIDENT
            else:
                late.append(slot)  # type: ignore[arg-type]
        return [blob for blob in blobs if slots[blob] is RESIDENT], late, misses

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
        return sum({id(p): p.peak_bytes for p in self.partitions}.values())
