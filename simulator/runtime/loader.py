"""How an expert gets to a worker: one hop from host memory, or two from an SSD through a cached host tier."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.engine import Fabric, Lane, Transfer
from simulator.residency import RESIDENT, Partition, Tier


class Loader:
    """Issues the transfers of one worker. `lane` is its copy engine (or reader, if home is one hop away)."""

    def __init__(self, fabric: Fabric, lane: Lane, tier: Tier) -> None:
        self.fabric = fabric
        self.lane = lane
        self.tier = tier

    def load(self, partition: Partition, blobs: Sequence[int], now_ps: int, urgent: bool) -> list[Transfer]:
        """Submit the loads of admitted blobs, in order, and reserve their room."""
        tier = self.tier
        sizes, slots = tier.sizes, tier.slots
        transfers = []
        total = 0
        for blob in blobs:
            size = sizes[blob]
            total += size
            slots[blob] = transfer = Transfer(blob, size, urgent)
            transfers.append(transfer)
        partition.reserve(total)
        self.fabric.submit_all(self.lane, transfers, now_ps)
        return transfers


class StagedLoader(Loader):
    """Home is an SSD: a miss in host memory is read from it first; host memory is a cache of its own."""

    def __init__(self, fabric: Fabric, lane: Lane, tier: Tier, reader: Lane, host: Tier) -> None:
        super().__init__(fabric, lane, tier)
        self.reader = reader
        self.host = host
        self.host_hits = 0
        self.host_misses = 0
        self._leaving: list[Transfer] = []  # on their way out of host memory, pinned there

    def load(self, partition: Partition, blobs: Sequence[int], now_ps: int, urgent: bool) -> list[Transfer]:
        return [self._load(partition, blob, now_ps, urgent) for blob in blobs]

    def _load(self, partition: Partition, blob: int, now_ps: int, urgent: bool) -> Transfer:
        host, fabric = self.host, self.fabric
        if fabric.next_ps <= now_ps:
            fabric.advance(now_ps)
        self._unpin()
        transfer = Transfer(blob, self.tier.sizes[blob], urgent)
        room = host.partitions[0]
        host.view.group += 1
        hits, late, _ = host.look_up((blob,))
        if hits:
            self.host_hits += 1
            room.cache.on_layer((blob,), (), host.view)
            fabric.submit(self.lane, transfer, now_ps)
        elif late:
            self.host_hits += 1
            room.cache.on_layer((blob,), (), host.view)
            self._chain(late[0], transfer)
            if urgent:
                fabric.promote(late[0], now_ps)
        else:
            self.host_misses += 1
            read = Transfer(blob, self.tier.sizes[blob], urgent)
            self._chain(read, transfer)
            if host.admit(room, (blob,)):
                host.occupy(room, blob, read)
                room.cache.on_insert((blob,), host.view)
            fabric.submit(self.reader, read, now_ps)
        host.pins.add(blob)
        self._leaving.append(transfer)
        self.tier.occupy(partition, blob, transfer)
        return transfer

    def _chain(self, read: Transfer, transfer: Transfer) -> None:
        transfer.cause = read
        if read.then is None:
            read.then = []
        read.then.append((self.lane, transfer))

    def _unpin(self) -> None:
        staying = []
        for transfer in self._leaving:
            if transfer.landed_ps is None:
                staying.append(transfer)
            elif (
                self.host.slots[transfer.blob] is RESIDENT
                or transfer.cause is None
                or (transfer.cause.landed_ps is not None)
            ):
                self.host.pins.discard(transfer.blob)
            else:  # cancelled before it was read; the read goes on
                staying.append(transfer)
        self._leaving = staying
        for transfer in staying:
            self.host.pins.add(transfer.blob)
