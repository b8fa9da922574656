"""Bytes in motion: lanes, transfers and the media they share.

A *lane* is a server that moves (or, for a CPU that runs experts in place, works through) one
transfer after another: urgent ones first, the others in chunks that an urgent one may displace.
A transfer on a lane is a flow over all *media* of the lane's route; flows share a medium max-min
fairly. The fabric is passive: it advances when touched, its state changes only when the set of
jobs changes, never by a read.

All arithmetic is in integers: time in ps, amounts in units of 1e-12 byte, rates in bytes/s, so
that rate x time is exact.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from simpy.events import Event

from simulator.engine.clock import PS_PER_S, Clock
from simulator.engine.sharing import islands, max_min_rates

NEVER = 1 << 100  # later than any time
UNLIMITED = 1 << 60  # bytes/s beyond any medium
QUEUED, ACTIVE, LANDED, CANCELLED = range(4)


class Medium:
    """A shared resource with a bandwidth: a direction of a link, host DRAM, an SSD.

    `bytes_per_s_at(active, request_bytes)` replaces the constant bandwidth where it depends on the
    number of active requests and their size (flash).
    """

    __slots__ = ("bytes_per_s", "bytes_per_s_at", "index", "name")

    def __init__(
        self,
        name: str,
        bytes_per_s: float,
        bytes_per_s_at: Callable[[int, int], float] | None = None,
    ) -> None:
        self.name = name
        self.bytes_per_s = max(1, int(bytes_per_s))
        self.bytes_per_s_at = bytes_per_s_at
        self.index = -1


class Transfer:
    """One blob (or one piece of work) on its way. Times in ps; `landed_ps` is None until the end."""

    __slots__ = (
        "blob",
        "bytes_left",
        "cap_bytes_per_s",
        "cause",
        "finish_ps",
        "landed_ps",
        "lane",
        "rate",
        "segment_bytes",
        "since_ps",
        "size_bytes",
        "started_ps",
        "state",
        "stop",
        "submitted_ps",
        "then",
        "units_left",
        "urgent",
        "used",
    )
    # set when the transfer starts:
    started_ps: int
    since_ps: int  # from when its bytes flow at `rate`
    finish_ps: int  # when it ends if nothing changes
    rate: int  # bytes/s
    units_left: int  # of the segment, as of `since_ps`, in 1e-12 byte
    segment_bytes: int  # up to its end or the chunk border where it stops

    def __init__(self, blob: int, size_bytes: int, urgent: bool, cap_bytes_per_s: int = UNLIMITED) -> None:
        self.blob = blob
        self.size_bytes = self.bytes_left = size_bytes
        self.urgent = urgent
        self.cap_bytes_per_s = cap_bytes_per_s
        self.state = QUEUED
        self.landed_ps: int | None = None
        self.submitted_ps = -1
        self.lane: Lane | None = None
        self.then: list[tuple[Lane, Transfer]] | None = None  # next hops, submitted on landing
        self.cause: Transfer | None = None  # the hop before this one
        self.stop = 0  # 1: displaced at the next chunk border; 2: cancelled there
        self.used = False


class Lane:
    """A server of transfers with a route of media.

    `latency_ps` is paid by each transfer before its bytes flow; `width` transfers run at once
    (1: a copy engine; more: the I/O threads of an SSD reader); `chunk_bytes` is the grain at which
    a transfer that is not urgent can be displaced or cancelled.
    """

    __slots__ = (
        "active",
        "background",
        "bottleneck",
        "busy_ps",
        "cancelled_bytes",
        "category",
        "chunk_bytes",
        "delivered_bytes",
        "demand",
        "index",
        "latency_ps",
        "media",
        "name",
        "requested_bytes",
        "sized",
        "transfers",
        "width",
    )

    def __init__(
        self,
        name: str,
        media: list[Medium],
        latency_ps: int = 0,
        chunk_bytes: int = 1 << 62,
        width: int = 1,
        category: str = "",
    ) -> None:
        self.name = name
        self.media = media
        self.latency_ps = latency_ps
        self.chunk_bytes = chunk_bytes
        self.width = width
        self.category = category or name
        self.sized = any(medium.bytes_per_s_at is not None for medium in media)
        self.bottleneck = min([medium.bytes_per_s for medium in media], default=UNLIMITED)
        self.demand: deque[Transfer] = deque()
        self.background: deque[Transfer] = deque()
        self.active: list[Transfer] = []
        self.requested_bytes = self.delivered_bytes = self.cancelled_bytes = 0
        self.busy_ps = 0
        self.transfers = 0
        self.index = -1

    def best_rate_at(self, size_bytes: int) -> int:
        """The most bytes/s the lane can move in transfers of this size, when nobody else uses its media."""
        rates = [medium.bytes_per_s for medium in self.media if medium.bytes_per_s_at is None]
        for medium in self.media:
            if medium.bytes_per_s_at is not None:
                rates.append(max(int(medium.bytes_per_s_at(n, size_bytes)) for n in range(1, self.width + 1)))
        return min(rates, default=UNLIMITED)

    @property
    def pending_bytes(self) -> int:
        """Bytes of transfers that have neither been delivered nor cancelled yet."""
        return sum(transfer.bytes_left for transfer in (*self.demand, *self.background, *self.active))

    def moved_bytes(self, now_ps: int) -> int:
        """Bytes that have flowed by now: delivered, or of transfers under way; parts of cancelled ones included."""
        moved = self.delivered_bytes
        for transfer in self.active:
            left = transfer.units_left - max(0, now_ps - transfer.since_ps) * transfer.rate
            moved += transfer.segment_bytes - -(-max(0, left) // PS_PER_S)
        return moved

    @property
    def queue_depth(self) -> int:
        """Transfers waiting or running."""
        return len(self.demand) + len(self.background) + len(self.active)


class Fabric:
    """All lanes and media of a platform, advanced together.

    `log`, if given, receives (lane name, blob, urgent, start_ps, end_ps, size_bytes) per segment.
    """

    def __init__(self, log: list[tuple[str, int, bool, int, int, int]] | None = None) -> None:
        self.lanes: list[Lane] = []
        self.media: list[Medium] = []
        self.next_ps = NEVER  # the next internal event if nobody submits anything
        self.now_ps = 0
        self.log = log
        self._active: list[Transfer] = []
        self._rates: dict[tuple[tuple[int, int, int], ...], list[int]] = {}
        self._islands: list[int] = []  # of each lane; empty until asked for
        self._sleepers: list[tuple[Transfer, Event, int]] = []
        self._armed_ps = NEVER

    # ---- building

    def add_medium(self, medium: Medium) -> Medium:
        medium.index = len(self.media)
        self.media.append(medium)
        return medium

    def add_lane(self, lane: Lane) -> Lane:
        """Register a lane; its media must have been added."""
        lane.index = len(self.lanes)
        self.lanes.append(lane)
        self._islands = []
        return lane

    # ---- what processes do (after `advance` to their time)

    def submit(self, lane: Lane, transfer: Transfer, now_ps: int) -> None:
        """Queue a transfer. An urgent one displaces a running one that is not, at its chunk border."""
        self.submit_all(lane, [transfer], now_ps)

    def submit_all(self, lane: Lane, transfers: list[Transfer], now_ps: int) -> None:
        """`submit` for several transfers of one urgency, in order."""
        if self.next_ps <= now_ps:
            self.advance(now_ps)
        total = 0
        for transfer in transfers:
            transfer.lane = lane
            transfer.submitted_ps = now_ps
            total += transfer.size_bytes
        lane.requested_bytes += total
        lane.transfers += len(transfers)
        width = lane.width
        busy = len(lane.active) >= width
        if transfers and transfers[0].urgent:
            lane.demand.extend(transfers)
            if busy:
                for _ in transfers if width > 1 else (0,):
                    self._displace(lane, now_ps)
        else:
            lane.background.extend(transfers)
        while len(lane.active) < width and (lane.demand or lane.background):
            self._start(lane, now_ps, True)
        if self._sleepers:
            self._arm()

    def promote(self, transfer: Transfer, now_ps: int) -> None:
        """Somebody now waits for a transfer that was not urgent."""
        if self.next_ps <= now_ps:
            self.advance(now_ps)
        if transfer.urgent or transfer.state in (LANDED, CANCELLED):
            return
        transfer.urgent = True
        if transfer.cause is not None:
            self.promote(transfer.cause, now_ps)
        lane = transfer.lane
        if transfer.state == QUEUED and lane is not None:
            lane.background.remove(transfer)
            lane.demand.append(transfer)
            self._displace(lane, now_ps)
            if len(lane.active) < lane.width:
                self._start(lane, now_ps)
        if self._sleepers:
            self._arm()

    def cancel(self, transfer: Transfer, now_ps: int) -> None:
        """Drop what has not started: a queued transfer at once, a running one at its chunk border.

        The running chunk ends, its bytes count, and `landed_ps` is then set with state CANCELLED.
        """
        if self.next_ps <= now_ps:
            self.advance(now_ps)
        if transfer.state == QUEUED:
            transfer.state = CANCELLED
            transfer.landed_ps = now_ps
            lane = transfer.lane
            if lane is not None:  # a later hop that was not submitted yet has no lane
                (lane.demand if transfer.urgent else lane.background).remove(transfer)
                lane.cancelled_bytes += transfer.bytes_left
        elif transfer.state == ACTIVE:
            self._stop_at_border(transfer, now_ps, 2)
        if self._sleepers:
            self._arm()

    def advance(self, now_ps: int) -> None:
        """Process every internal event up to and including `now_ps`."""
        while self.next_ps <= now_ps:
            now = self.next_ps
            active = self._active
            if len(active) == 1:
                transfer = active[0]
                lane = transfer.lane
                assert lane is not None
                if transfer.stop or transfer.then is not None or lane.sized or lane.width > 1:
                    self._finish(transfer, now)
                    continue
                # The common case in one place: one transfer lands, the lane takes up the next.
                size = transfer.segment_bytes
                lane.delivered_bytes += size
                lane.busy_ps += now - transfer.started_ps
                if self.log is not None:
                    self.log.append((lane.name, transfer.blob, transfer.urgent, transfer.started_ps, now, size))
                transfer.bytes_left -= size
                transfer.state = LANDED
                transfer.landed_ps = now
                if lane.demand:
                    transfer = lane.demand.popleft()
                elif lane.background:
                    transfer = lane.background.popleft()
                else:
                    active.clear()
                    lane.active.clear()
                    self.next_ps = NEVER
                    return
                active[0] = lane.active[0] = transfer
                transfer.state = ACTIVE
                transfer.started_ps = now
                size = transfer.segment_bytes = transfer.bytes_left
                units = transfer.units_left = size * PS_PER_S
                since = transfer.since_ps = now + lane.latency_ps
                cap = transfer.cap_bytes_per_s
                rate = transfer.rate = cap if cap < lane.bottleneck else lane.bottleneck
                self.next_ps = transfer.finish_ps = since - (-units // rate)
                continue
            finished = [transfer for transfer in active if transfer.finish_ps == now]
            if not finished:
                self._share(now)  # a latency has passed: one more flow
            elif len(finished) > 1 and all(_plain(transfer) for transfer in finished):
                for transfer in finished:  # the others share once what all of these leave
                    self._finish(transfer, now, False)
                self._next(finished[-1].lane, now)  # type: ignore[arg-type]
                continue
            for transfer in finished:
                if transfer.finish_ps == now and transfer.state == ACTIVE:
                    self._finish(transfer, now)

    # ---- waiting with events, where several processes can meet

    def sleep(self, clock: Clock, transfer: Transfer, rank: int) -> Event:
        """An event that fires when `transfer` has landed; re-timed whenever the flows change."""
        self._clock = clock
        wake = clock.event()
        self._sleepers.append((transfer, wake, rank))
        self._arm()
        return wake

    def _arm(self) -> None:
        if self.next_ps < NEVER and self.next_ps != self._armed_ps:
            self._armed_ps = self.next_ps
            self._clock.call_at(self.next_ps, self._on_completion)

    def _on_completion(self, _event: Any) -> None:
        now = int(self._clock.now)
        if self._armed_ps <= now:
            self._armed_ps = NEVER
        self.advance(now)
        waiting = []
        for transfer, wake, rank in self._sleepers:
            if transfer.landed_ps is None:
                waiting.append((transfer, wake, rank))
            else:
                self._clock.wake(wake, rank, now)
        self._sleepers = waiting
        if waiting:
            self._arm()

    # ---- inside

    def _start(self, lane: Lane, now: int, shared: bool = False) -> None:
        """Take up the lane's next transfer; `shared`: rates are those of the flows of this instant."""
        if lane.demand:
            transfer = lane.demand.popleft()
        elif lane.background:
            transfer = lane.background.popleft()
        else:
            return
        transfer.state = ACTIVE
        transfer.stop = 0
        transfer.started_ps = now
        transfer.segment_bytes = transfer.bytes_left
        units = transfer.units_left = transfer.bytes_left * PS_PER_S
        since = transfer.since_ps = now + lane.latency_ps
        lane.active.append(transfer)
        self._active.append(transfer)
        if len(self._active) == 1 and not lane.sized:
            cap = transfer.cap_bytes_per_s
            rate = transfer.rate = cap if cap < lane.bottleneck else lane.bottleneck
            self.next_ps = transfer.finish_ps = since - (-units // rate)
            return
        transfer.rate = 0
        transfer.finish_ps = NEVER
        first = self._active[0]
        if shared and since > now and (len(self._active) > 2 or (first is not transfer and first.since_ps <= now)):
            self.next_ps = min(self.next_ps, since)  # not a flow yet: nothing changes for the others
        else:
            self._share(now)

    def _finish(self, transfer: Transfer, now: int, go_on: bool = True) -> None:
        lane = transfer.lane
        assert lane is not None
        self._active.remove(transfer)
        lane.active.remove(transfer)
        lane.delivered_bytes += transfer.segment_bytes
        lane.busy_ps += now - transfer.started_ps
        if self.log is not None:
            self.log.append(
                (lane.name, transfer.blob, transfer.urgent, transfer.started_ps, now, transfer.segment_bytes)
            )
        transfer.bytes_left -= transfer.segment_bytes
        if transfer.stop and transfer.bytes_left:
            self._stopped(lane, transfer, now)
        else:
            transfer.state = LANDED
            transfer.landed_ps = now
            if transfer.then is not None:
                self.next_ps = NEVER  # until the queue below is looked at; hops start at this instant
                self._next(lane, now)
                for onward, hop in transfer.then:
                    if hop.state == QUEUED:
                        self.submit(onward, hop, now)
                return
        if go_on:
            self._next(lane, now)

    def _next(self, lane: Lane, now: int) -> None:
        """After a lane lost a transfer: start the next, or let the others have its bandwidth."""
        if lane.demand or lane.background:
            self._start(lane, now)
        elif self._active:
            self._share(now)
        else:
            self.next_ps = NEVER

    def _stopped(self, lane: Lane, transfer: Transfer, now: int) -> None:
        if transfer.stop == 2:
            transfer.state = CANCELLED
            transfer.landed_ps = now
            lane.cancelled_bytes += transfer.bytes_left
        else:
            transfer.state = QUEUED
            (lane.demand if transfer.urgent else lane.background).appendleft(transfer)
        transfer.stop = 0

    def _displace(self, lane: Lane, now: int) -> None:
        for transfer in lane.active:
            if not transfer.urgent and not transfer.stop:
                self._stop_at_border(transfer, now, 1)
                return

    def _stop_at_border(self, transfer: Transfer, now: int, why: int) -> None:
        """End a running transfer where its running chunk ends; nothing if that is its own end."""
        if transfer.stop:
            transfer.stop = max(transfer.stop, why)
            return
        lane = transfer.lane
        assert lane is not None
        if transfer.since_ps <= now:
            transfer.units_left -= (now - transfer.since_ps) * transfer.rate
            transfer.since_ps = now
        segment = transfer.segment_bytes * PS_PER_S
        chunk = lane.chunk_bytes * PS_PER_S
        done = segment - transfer.units_left
        border = -(-done // chunk) * chunk
        if done == 0 and transfer.started_ps < now:
            border = chunk  # its first chunk has been launched
        if border >= segment:
            return
        transfer.stop = why
        transfer.units_left = border - done
        transfer.segment_bytes = border // PS_PER_S
        if border == 0:
            self._active.remove(transfer)
            lane.active.remove(transfer)
            self._stopped(lane, transfer, now)
            self._next(lane, now)
        elif len(self._active) == 1:  # nobody else to share with: the rate stays
            self.next_ps = transfer.finish_ps = transfer.since_ps - (-transfer.units_left // transfer.rate)
        else:
            self._share(now)

    def _share(self, now: int) -> None:
        """Divide the media among the flows of this instant and re-time every active transfer."""
        flows = []
        soonest = NEVER
        alone = len(self._active) == 1
        for transfer in self._active:
            lane = transfer.lane
            assert lane is not None
            since = transfer.since_ps
            if since <= now:
                if since < now:
                    left = transfer.units_left - (now - since) * transfer.rate
                    transfer.units_left = left if left > 0 else 0  # it may end within this very picosecond
                    transfer.since_ps = now
            elif not alone:
                transfer.finish_ps = NEVER
                if since < soonest:
                    soonest = since
                continue
            flows.append(transfer)
        for group in self._apart(flows) if len(flows) > 1 else (flows,) if flows else ():
            key = tuple([(f.lane.index, f.cap_bytes_per_s, f.size_bytes if f.lane.sized else 0) for f in group])  # type: ignore[union-attr]
            rates = self._rates.get(key) or self._allocate(key, group)
            for transfer, rate in zip(group, rates, strict=True):
                transfer.rate = rate
                finish = transfer.finish_ps = transfer.since_ps - (-transfer.units_left // rate)
                if finish < soonest:
                    soonest = finish
        self.next_ps = soonest

    def _apart(self, flows: list[Transfer]) -> list[list[Transfer]]:
        """Flows by island: those of different ones do not change each other's rates."""
        if not self._islands:
            media = [None if medium.bytes_per_s_at else medium.bytes_per_s for medium in self.media]
            self._islands = islands([[medium.index for medium in lane.media] for lane in self.lanes], media)
        groups: dict[int, list[Transfer]] = {}
        for flow in flows:
            groups.setdefault(self._islands[flow.lane.index], []).append(flow)  # type: ignore[union-attr]
        return list(groups.values())

    def _allocate(self, key: tuple[tuple[int, int, int], ...], flows: list[Transfer]) -> list[int]:
        capacities: dict[int, int] = {}
        routes = []
        for transfer in flows:
            assert transfer.lane is not None
            routes.append([medium.index for medium in transfer.lane.media])
        for medium in {m.index: m for f in flows if f.lane is not None for m in f.lane.media}.values():
            if medium.bytes_per_s_at is None:
                capacities[medium.index] = medium.bytes_per_s
            else:
                here = [f for f, route in zip(flows, routes, strict=True) if medium.index in route]
                mean_bytes = sum(f.size_bytes for f in here) // len(here)
                capacities[medium.index] = max(1, int(medium.bytes_per_s_at(len(here), mean_bytes)))
        rates = max_min_rates(routes, [f.cap_bytes_per_s for f in flows], capacities)
        self._rates[key] = rates
        return rates


def _plain(transfer: Transfer) -> bool:
    """Whether nothing follows when a transfer ends: not the rest of it, another hop, nor what waits for its lane."""
    lane = transfer.lane
    assert lane is not None
    return not transfer.stop and transfer.then is None and not lane.demand and not lane.background
