"""What holds for any sequence of operations on a fabric."""

from __future__ import annotations

from collections import defaultdict
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.engine import CANCELLED, LANDED, NEVER, Fabric, Lane, Medium, Transfer

EXAMPLES = settings(max_examples=120, deadline=None, derandomize=True)
GB = 10**9
ROUTES = ([0], [0, 1], [1], [2])  # media of the four lanes: the first three meet, the last is apart
WIDTHS = (1, 1, 3, 1)

lane_facts = st.tuples(st.integers(1, 3_000), st.sampled_from([64, 100, 1 << 40]))
operation = st.tuples(
    st.integers(0, 60_000),  # ps after the one before
    st.sampled_from(["submit", "submit", "submit", "chain", "promote", "cancel", "look"]),
    st.integers(0, 3),  # lane
    st.integers(1, 500),  # bytes
    st.booleans(),  # urgent
    st.integers(0, 30),  # which transfer is promoted or cancelled
    st.sampled_from([1 << 60, 3 * GB, GB // 2]),  # cap
)
operations = st.lists(operation, min_size=1, max_size=25)
facts = st.lists(lane_facts, min_size=4, max_size=4)


class Played:
    """A fabric with four lanes and what happened to its transfers."""

    def __init__(self, facts, sized: bool = False, beside: bool = False, kind: type[Fabric] = Fabric) -> None:
        self.fabric = kind(log=[])

        def flash(active: int, request_bytes: int) -> float:
            return GB * min(active, 3) * (1.0 if request_bytes > 100 else 0.4)

        media = [
            self.fabric.add_medium(Medium(f"m{i}", rate * GB, flash if sized and i == 1 else None))
            for i, rate in enumerate((3, 2, 1))
        ]
        self.lanes = [
            self.fabric.add_lane(Lane(f"lane{i}", [media[m] for m in route], latency, chunk, width))
            for i, (route, (latency, chunk), width) in enumerate(zip(ROUTES, facts, WIDTHS, strict=True))
        ]
        self.transfers: list[Transfer] = []
        if beside:  # a flow that outlives everything, on a medium of its own
            apart = self.fabric.add_medium(Medium("apart", GB))
            lane = self.fabric.add_lane(Lane("apart", [apart]))
            self.fabric.submit(lane, Transfer(-1, 10**9, True), 0)

    def play(self, operations) -> None:
        now = 0
        for wait, what, number, size, urgent, index, cap in operations:
            now += wait
            lane = self.lanes[number]
            if what == "submit":
                self._submit(lane, Transfer(len(self.transfers), size, urgent, cap), now)
            elif what == "chain":
                first, then = Transfer(len(self.transfers), size, urgent), Transfer(len(self.transfers), size, urgent)
                then.cause, first.then = first, [(self.lanes[(number + 1) % 4], then)]
                self._submit(lane, first, now)
                self.transfers.append(then)
            elif what == "look":
                self.fabric.advance(now)
            elif self.transfers:
                act = self.fabric.promote if what == "promote" else self.fabric.cancel
                act(self.transfers[index % len(self.transfers)], now)
            self.check()
        self.now = now

    def _submit(self, lane: Lane, transfer: Transfer, now: int) -> None:
        self.transfers.append(transfer)
        self.fabric.submit(lane, transfer, now)

    def drain(self) -> None:
        while self.fabric.next_ps < 10**12:
            before = self.fabric.next_ps
            self.fabric.advance(before)
            assert self.fabric.next_ps > before
            self.check()

    def check(self) -> None:
        for lane in self.lanes:
            assert lane.requested_bytes == lane.delivered_bytes + lane.cancelled_bytes + lane.pending_bytes
            assert len(lane.active) <= lane.width
            assert not (lane.demand or lane.background) or len(lane.active) == lane.width  # never idle with work


@EXAMPLES
@given(facts, operations, st.booleans())
def test_bytes_asked_for_are_delivered_cancelled_or_pending_and_all_ends(facts, operations, sized):
    played = Played(facts, sized)
    played.play(operations)
    played.drain()
    assert played.fabric.next_ps == NEVER
    for transfer in played.transfers:
        dropped = transfer.lane is None and transfer.cause is not None and transfer.cause.state == CANCELLED
        assert transfer.state in (LANDED, CANCELLED) or dropped
    for lane in played.lanes:
        assert lane.pending_bytes == 0


@EXAMPLES
@given(facts, operations, st.booleans())
def test_time_never_goes_back_and_a_lane_serves_as_many_as_its_width(facts, operations, sized):
    played = Played(facts, sized)
    played.play(operations)
    played.drain()
    log = played.fabric.log
    assert [entry[4] for entry in log] == sorted(entry[4] for entry in log)
    spans = defaultdict(list)
    for name, _, _, start_ps, end_ps, size_bytes in log:
        assert end_ps > start_ps or size_bytes == 0
        spans[name].append((start_ps, end_ps))
    for lane in played.lanes:
        if lane.width == 1:
            assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans[lane.name])))
        assert lane.busy_ps == sum(end - start for start, end in spans[lane.name])


@EXAMPLES
@given(facts, operations)
def test_nothing_arrives_faster_than_its_latency_and_its_narrowest_medium_allow(facts, operations):
    played = Played(facts)
    played.play(operations)
    played.drain()
    rates = (3 * GB, 2 * GB, 2 * GB, GB)  # lane 1 crosses media of 3 and 2
    for transfer in played.transfers:
        if transfer.state == LANDED and transfer.lane is not None:
            rate = min(rates[transfer.lane.index], transfer.cap_bytes_per_s)
            least = transfer.lane.latency_ps + -(-transfer.size_bytes * 10**12 // rate)
            assert transfer.landed_ps - transfer.submitted_ps >= least


@EXAMPLES
@given(facts, operations, st.booleans())
def test_a_flow_far_away_changes_nothing_so_the_short_cut_for_one_flow_equals_the_general_way(facts, operations, sized):
    alone, beside = Played(facts, sized), Played(facts, sized, beside=True)
    for played in (alone, beside):
        played.play(operations)
        played.drain()
    assert alone.fabric.log == beside.fabric.log
    assert [t.landed_ps for t in alone.transfers] == [t.landed_ps for t in beside.transfers]


class Eager(Fabric):
    """Divides rates anew whenever a transfer starts or ends, at one instant as often as that happens."""

    def _start(self, lane, now, shared=False):
        super()._start(lane, now, False)

    def _finish(self, transfer, now, go_on=True):
        super()._finish(transfer, now, True)


@EXAMPLES
@given(facts, operations, st.booleans(), st.booleans())
def test_dividing_rates_once_an_instant_changes_nothing(facts, operations, sized, together):
    """`together`: few sizes, latencies and instants, so that many transfers start and end at once."""
    if together:
        facts = [(10_000 * (1 + latency % 2), chunk) for latency, chunk in facts]
        operations = [
            (
                50_000 * (wait % 5 == 0),
                "submit" if what == "cancel" else what,
                lane,
                100 * (1 + size % 2),
                *more[:-1],
                GB,
            )
            for wait, what, lane, size, *more in operations
        ]
    once, often = Played(facts, sized), Played(facts, sized, kind=Eager)
    for played in (once, often):
        played.play(operations)
        played.drain()
    assert once.fabric.log == often.fabric.log
    assert [t.landed_ps for t in once.transfers] == [t.landed_ps for t in often.transfers]


@EXAMPLES
@given(facts, operations, st.lists(st.integers(0, 600_000), max_size=20))
def test_looking_in_between_changes_nothing(facts, operations, looks):
    plain, looked = Played(facts), Played(facts)
    plain.play(operations)
    plain.drain()
    looked.play(operations)
    for now in sorted(looked.now + look for look in looks):
        looked.fabric.advance(now)
    looked.drain()
    assert plain.fabric.log == looked.fabric.log


class ByHand:
    """Equal-share transfers on one medium, computed from scratch at every arrival and departure in exact fractions."""

    @staticmethod
    def ends(arrivals_ps: list[int], sizes: list[int], bytes_per_s: int) -> list[float]:
        left = {i: float(size) for i, size in enumerate(sizes)}
        ends = [0.0] * len(sizes)
        now = 0.0
        coming = sorted(range(len(sizes)), key=lambda i: arrivals_ps[i])
        running: set[int] = set()
        while running or coming:
            rate = bytes_per_s / len(running) / 1e12 if running else 0.0
            finish = min((now + left[i] / rate for i in running), default=float("inf"))
            arrive = arrivals_ps[coming[0]] if coming else float("inf")
            then = min(finish, arrive)
            for i in running:
                left[i] -= (then - now) * rate
            now = then
            if arrive <= finish:
                running.add(coming.pop(0))
            else:
                for i in [i for i in running if left[i] <= 1e-6]:
                    running.remove(i)
                    ends[i] = now
        return ends


@EXAMPLES
@given(st.lists(st.tuples(st.integers(0, 500_000), st.integers(1, 1_000)), min_size=1, max_size=6))
def test_shares_of_one_medium_over_time_equal_processor_sharing(jobs):
    jobs = sorted(jobs)
    fabric = Fabric()
    bus = fabric.add_medium(Medium("bus", 2 * GB))
    transfers = []
    for start_ps, size in jobs:
        lane = fabric.add_lane(Lane(f"lane{len(transfers)}", [bus]))
        transfers.append(Transfer(0, size, True))
        fabric.submit(lane, transfers[-1], start_ps)
    while fabric.next_ps < NEVER:
        fabric.advance(fabric.next_ps)
    expected = ByHand.ends([start for start, _ in jobs], [size for _, size in jobs], 2 * GB)
    for transfer, end in zip(transfers, expected, strict=True):
        assert abs(transfer.landed_ps - end) <= 2 * len(jobs)  # rates rounded down, ends rounded up
