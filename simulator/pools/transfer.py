"""The way of a request's KV cache from the GPUs that ran its prompt to those that decode it.

Every pair of GPUs has a lane, on which transfers go first come, first served; lanes share the links of their routes
max-min fairly (simulator.engine.fabric). GPU i of a tensor-parallel group of n holds the i-th n-th of every layer's
heads, so that a GPU of the receiving group needs what some of the sending ones hold, and gets it from all of these at
once. The whole cache is sent when the prompt is done, not layer by layer while it runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from hwmodels import Platform
from simulator.engine import NEVER, Fabric, Lane, Medium, Transfer, to_ps

Piece = tuple[str, str, int]  # from, to, bytes


def pieces(senders: Sequence[str], receivers: Sequence[str], each_bytes: int) -> list[Piece]:
    """What goes from which GPU to which, where each receiver needs `each_bytes`.

    >>> pieces(["a", "b"], ["c"], 5)
    [('a', 'c', 2), ('b', 'c', 3)]
    >>> pieces(["a"], ["c", "d"], 5)
    [('a', 'c', 5), ('a', 'd', 5)]
    """
    ns, nr, found = len(senders), len(receivers), []
    for i, receiver in enumerate(receivers):  # needs i * ns to (i + 1) * ns, in (ns * nr)-ths of the heads
        for j, sender in enumerate(senders):  # holds j * nr to (j + 1) * nr
            start, stop = max(i * ns, j * nr) - i * ns, min((i + 1) * ns, (j + 1) * nr) - i * ns
            size = stop * each_bytes // ns - start * each_bytes // ns
            if start < stop and size:
                found.append((sender, receiver, size))
    return found


class KvLinks:
    """Lanes of KV cache, made when they are first used. Times in ps."""

    def __init__(self, platform: Platform, pinned: bool) -> None:
        self._platform, self._pinned = platform, pinned
        self._media: dict[str, Medium] = {}
        self._lanes: dict[tuple[str, str], Lane] = {}
        self._fabric = Fabric()

    @property
    def lanes(self) -> list[Lane]:
        """In the order of their first use."""
        return self._fabric.lanes

    def land(self, requests: Sequence[tuple[int, Sequence[Piece]]]) -> list[int]:
        """When each request's last piece has landed; `requests` are (sent at, pieces) in order of that time."""
        sent = []
        for number, (time_ps, parts) in enumerate(requests):
            transfers = []
            for src, dst, size_bytes in parts:
                transfer = Transfer(number, size_bytes, urgent=True)
                self._fabric.submit(self._lane(src, dst), transfer, time_ps)
                transfers.append(transfer)
            sent.append(transfers)
        self._fabric.advance(NEVER - 1)
        landed = []
        for (time_ps, _), transfers in zip(requests, sent, strict=True):
            times = [transfer.landed_ps for transfer in transfers if transfer.landed_ps is not None]
            assert len(times) == len(transfers)
            landed.append(max(times, default=time_ps))
        return landed

    def _lane(self, src: str, dst: str) -> Lane:
        if (src, dst) not in self._lanes:
            platform = self._platform
            media = []
            for name, rate in platform.media(src, dst, self._pinned):
                if name not in self._media:
                    self._media[name] = self._fabric.add_medium(Medium(name, rate))
                media.append(self._media[name])
            route = platform.route(src, dst)
            latency_ps = to_ps(sum(link.latency_s for link in route))
            lane = Lane(f"KV {src}->{dst}", media, latency_ps, category=route[-1].kind)
            self._lanes[src, dst] = self._fabric.add_lane(lane)
        return self._lanes[src, dst]
