"""What was fetched ahead of its layer: issued, awaited, forsaken."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from simulator.engine import CANCELLED, Fabric, Transfer
from simulator.layer_work import LayerWork
from simulator.policies.prefetch.base import PrefetchPolicy
from simulator.residency import Partition, Tier
from simulator.runtime.loader import Loader

if TYPE_CHECKING:
    from simulator.runtime.worker import StepRecord


class FetchedAhead:
    """The fetches of one worker that its layers have not asked for yet; each is pinned until its layer has run.

    rows   for each routed layer the transfers that were issued for it, in order
    """

    def __init__(self, fabric: Fabric, tier: Tier, loader: Loader, prefetch: PrefetchPolicy) -> None:
        self._fabric, self._tier, self._loader, self._prefetch = fabric, tier, loader, prefetch
        self._experts = len(tier.slots) // len(tier.partitions)
        self.rows: list[list[Transfer]] = [[] for _ in range(tier.layers)]

    def __iter__(self) -> Iterator[Transfer]:
        return (transfer for row in self.rows for transfer in row)

    def fetch(self, missing: Sequence[int], work: LayerWork, record: StepRecord, t: int) -> None:
        """Ask the policy which of the missing blobs to fetch now, and submit those that room can be made for."""
        tier, slots, view = self._tier, self._tier.slots, self._tier.view
        view.prefetching = True
        for blob in self._prefetch.choose(missing, work):
            if slots[blob] is not None:  # a guess may name an expert twice
                continue
            if tier.staging is not None:
                if tier.admit_staged(blob):
                    self._start(tier.staging, blob, record, t)
                    tier.staged[blob] = None
                continue
            partition = tier.partitions[blob // self._experts]
            if tier.admit(partition, (blob,)):
                self._start(partition, blob, record, t)
                partition.cache.on_insert((blob,), view)
        view.prefetching = False

    def _start(self, partition: Partition, blob: int, record: StepRecord, t: int) -> None:
        (transfer,) = self._loader.load(partition, (blob,), t, False)
        self._tier.pins.add(blob)
        self.rows[blob // self._experts % self._tier.layers].append(transfer)
        record.prefetch_bytes += transfer.size_bytes
        record.prefetches += 1

    def settle(self, layer: int, blobs: Sequence[int], record: StepRecord, t: int) -> None:
        """The layer's router has spoken: unpin what was fetched in vain, and drop it if it is not here yet."""
        needed = set(blobs)
        flowing = []
        for transfer in self.rows[layer]:
            if transfer.blob in needed:
                record.useful_prefetches += not transfer.used
                transfer.used = True
            elif not self._forsake(transfer, t):
                flowing.append(transfer)
        self.rows[layer] = flowing

    def coming(self, layer: int, blobs: Sequence[int]) -> list[Transfer]:
        """Transfers in flight of blobs that their layer waits for without asking for them; no longer kept here."""
        fetched, wanted = self.rows[layer], set(blobs)
        self.rows[layer] = [transfer for transfer in fetched if transfer.blob not in wanted]
        self._tier.look_up(blobs)  # marks what has landed
        return [transfer for transfer in fetched if transfer.blob in wanted and transfer.landed_ps is None]

    def drop(self, t: int) -> None:
        """Give up all that can be given up."""
        for layer, transfers in enumerate(self.rows):
            self.rows[layer] = [transfer for transfer in transfers if not self._forsake(transfer, t)]

    def _forsake(self, transfer: Transfer, t: int) -> bool:
        """Unpin what is here, cancel what is not; False if its last chunk is still flowing."""
        if transfer.landed_ps is None:
            if self._prefetch.cancels:
                self._fabric.cancel(transfer, t)
            if transfer.state == CANCELLED or transfer.stop == 2:
                self._tier.withdraw(self._tier.partitions[transfer.blob // self._experts], transfer)
            else:
                return False
        self._tier.pins.discard(transfer.blob)
        return True
