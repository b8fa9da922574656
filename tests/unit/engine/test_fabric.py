"""Transfers worked out by hand. Rates are chosen such that one byte takes a round number of ps."""

from __future__ import annotations

import pytest

from simulator.engine import CANCELLED, LANDED, NEVER, Clock, Fabric, Lane, Medium, Stream, Transfer

GB = 10**9  # bytes/s: 1000 ps per byte


def made(*lanes: Lane) -> Fabric:
    fabric = Fabric(log=[])
    for lane in lanes:
        for medium in lane.media:
            if medium.index < 0:
                fabric.add_medium(medium)
        fabric.add_lane(lane)
    return fabric


def drain(fabric: Fabric) -> None:
    while fabric.next_ps < NEVER:
        fabric.advance(fabric.next_ps)


def balanced(lane: Lane) -> bool:
    return lane.requested_bytes == lane.delivered_bytes + lane.cancelled_bytes + lane.pending_bytes


def urgent(size_bytes: int, blob: int = 0) -> Transfer:
    return Transfer(blob, size_bytes, True)


def prefetch(size_bytes: int, blob: int = 0) -> Transfer:
    return Transfer(blob, size_bytes, False)


def test_a_transfer_takes_latency_plus_bytes_over_bandwidth():
    lane = Lane("pcie", [Medium("link", GB)], latency_ps=5_000)
    fabric, transfer = made(lane), urgent(100)
    fabric.submit(lane, transfer, 200)
    fabric.advance(105_199)
    assert transfer.landed_ps is None
    fabric.advance(105_200)  # 200 + 5000 + 100 x 1000
    assert (transfer.landed_ps, transfer.state, lane.busy_ps) == (105_200, LANDED, 105_000)
    assert fabric.log == [("pcie", 0, True, 200, 105_200, 100)]


def test_the_time_is_rounded_up_to_a_whole_picosecond():
    lane = Lane("slow", [Medium("link", 3)])
    fabric, transfer = made(lane), urgent(1)
    fabric.submit(lane, transfer, 0)
    drain(fabric)
    assert transfer.landed_ps == 333_333_333_334  # 1e12 / 3, rounded up


def test_a_transfer_of_no_bytes_takes_the_latency():
    lane = Lane("pcie", [Medium("link", GB)], latency_ps=7)
    fabric, transfer = made(lane), urgent(0)
    fabric.submit(lane, transfer, 1)
    drain(fabric)
    assert transfer.landed_ps == 8


def test_a_lane_serves_in_order_and_each_transfer_pays_the_latency():
    lane = Lane("pcie", [Medium("link", GB)], latency_ps=10)
    fabric, transfers = made(lane), [urgent(1), urgent(2), urgent(3)]
    fabric.submit_all(lane, transfers, 0)
    drain(fabric)
    assert [t.landed_ps for t in transfers] == [1_010, 3_020, 6_030]


@pytest.mark.parametrize("n", [2, 3, 5])
def test_n_equal_flows_on_one_medium_get_an_nth_each_and_finish_together(n):
    bus = Medium("bus", 60 * GB)
    lanes = [Lane(f"lane{i}", [bus]) for i in range(n)]
    fabric, transfers = made(*lanes), [urgent(6_000) for _ in range(n)]
    for lane, transfer in zip(lanes, transfers, strict=True):
        fabric.submit(lane, transfer, 0)
    assert {t.rate for t in transfers} == {60 * GB // n}
    drain(fabric)
    assert [t.landed_ps for t in transfers] == [n * 100_000] * n  # n x 6000 bytes at 60 GB/s


def test_one_that_ends_leaves_its_share_to_the_other():
    bus = Medium("bus", 2 * GB)
    a, b = Lane("a", [bus]), Lane("b", [bus])
    fabric, short, long = made(a, b), urgent(100), urgent(300)
    fabric.submit(a, short, 0)
    fabric.submit(b, long, 0)
    drain(fabric)
    # at 1 GB/s each: `short` takes 100 ns, `long` has moved 100 by then and moves 200 at 2 GB/s in 100 ns
    assert (short.landed_ps, long.landed_ps) == (100_000, 200_000)


def test_a_flow_in_its_latency_takes_no_bandwidth_yet():
    bus = Medium("bus", 2 * GB)
    a, b = Lane("a", [bus]), Lane("b", [bus], latency_ps=50_000)
    fabric, first, second = made(a, b), urgent(200), urgent(100)
    fabric.submit(a, first, 0)
    fabric.submit(b, second, 0)
    drain(fabric)
    # alone until 50 ns: 100 bytes; then 1 GB/s each: both need 100 ns more
    assert (first.landed_ps, second.landed_ps) == (150_000, 150_000)


def test_max_min_shares_of_three_flows_over_two_media_with_a_cap():
    """DRAM 9 GB/s, link 10 GB/s: A reads DRAM, B crosses both, C uses the link, capped at 2 GB/s.

    C gets 2, A and B 4.5 each, so 450 bytes each take 100 ns for A and B; C's 200 bytes 100 ns too.
    """
    dram, link = Medium("dram", 9 * GB), Medium("link", 10 * GB)
    lanes = [Lane("a", [dram]), Lane("b", [dram, link]), Lane("c", [link])]
    fabric = made(*lanes)
    transfers = [urgent(450), urgent(450), Transfer(0, 200, True, cap_bytes_per_s=2 * GB)]
    for lane, transfer in zip(lanes, transfers, strict=True):
        fabric.submit(lane, transfer, 0)
    assert [t.rate for t in transfers] == [4_500_000_000, 4_500_000_000, 2_000_000_000]
    drain(fabric)
    assert [t.landed_ps for t in transfers] == [100_000] * 3


def test_demand_displaces_a_prefetch_at_its_chunk_border_and_the_prefetch_pays_latency_again():
    lane = Lane("pcie", [Medium("link", GB)], latency_ps=10_000, chunk_bytes=100)
    fabric, ahead, demand = made(lane), prefetch(1_000, 1), urgent(50, 2)
    fabric.submit(lane, ahead, 0)
    fabric.submit(lane, demand, 160_000)  # 150 bytes through: the second chunk of 100 is running, ends at 210 ns
    drain(fabric)
    assert demand.landed_ps == 270_000  # 210 + 10 + 50
    assert ahead.landed_ps == 1_080_000  # 270 + 10 + the 800 bytes that were left
    assert fabric.log == [
        ("pcie", 1, False, 0, 210_000, 200),
        ("pcie", 2, True, 210_000, 270_000, 50),
        ("pcie", 1, False, 270_000, 1_080_000, 800),
    ]


def test_a_prefetch_that_begins_at_this_very_instant_is_displaced_at_once():
    lane = Lane("pcie", [Medium("link", GB)], latency_ps=10_000, chunk_bytes=100)
    fabric, ahead, demand = made(lane), prefetch(300, 1), urgent(50, 2)
    fabric.submit(lane, ahead, 0)
    fabric.submit(lane, demand, 0)
    drain(fabric)
    assert (demand.landed_ps, ahead.landed_ps) == (60_000, 370_000)
    assert [entry[1] for entry in fabric.log] == [2, 1]


def test_in_its_latency_a_prefetch_keeps_the_lane_for_one_chunk():
    lane = Lane("pcie", [Medium("link", GB)], latency_ps=10_000, chunk_bytes=100)
    fabric, ahead, demand = made(lane), prefetch(300, 1), urgent(50, 2)
    fabric.submit(lane, ahead, 0)
    fabric.submit(lane, demand, 5_000)
    drain(fabric)
    # the first chunk is launched: ends at 10 + 100; demand 110 + 10 + 50; the rest 170 + 10 + 200
    assert (demand.landed_ps, ahead.landed_ps) == (170_000, 380_000)


def test_a_prefetch_in_its_last_chunk_ends_undisturbed():
    lane = Lane("pcie", [Medium("link", GB)], chunk_bytes=100)
    fabric, ahead, demand = made(lane), prefetch(250, 1), urgent(50, 2)
    fabric.submit(lane, ahead, 0)
    fabric.submit(lane, demand, 201_000)
    drain(fabric)
    assert (ahead.landed_ps, demand.landed_ps) == (250_000, 300_000)


def test_demand_goes_before_queued_prefetches_and_after_earlier_demand():
    lane = Lane("pcie", [Medium("link", GB)])
    fabric = made(lane)
    first, queued = urgent(10, 1), prefetch(10, 2)
    fabric.submit(lane, first, 0)
    fabric.submit(lane, queued, 0)
    fabric.submit_all(lane, [urgent(10, 3), urgent(10, 4)], 0)
    drain(fabric)
    assert [entry[1] for entry in fabric.log] == [1, 3, 4, 2]


def test_a_queued_transfer_is_cancelled_at_once():
    lane = Lane("pcie", [Medium("link", GB)])
    fabric, running, queued = made(lane), urgent(100, 1), prefetch(70, 2)
    fabric.submit(lane, running, 0)
    fabric.submit(lane, queued, 0)
    fabric.cancel(queued, 30_000)
    assert (queued.state, queued.landed_ps, lane.cancelled_bytes, lane.queue_depth) == (CANCELLED, 30_000, 70, 1)
    drain(fabric)
    assert (lane.requested_bytes, lane.delivered_bytes) == (170, 100)


def test_a_running_transfer_is_cancelled_at_its_chunk_border_and_its_bytes_count():
    lane = Lane("pcie", [Medium("link", GB)], chunk_bytes=100)
    fabric, doomed, after = made(lane), prefetch(1_000, 1), prefetch(10, 2)
    fabric.submit(lane, doomed, 0)
    fabric.submit(lane, after, 0)
    fabric.cancel(doomed, 250_000)
    assert doomed.landed_ps is None
    assert balanced(lane)
    drain(fabric)
    assert (doomed.state, doomed.landed_ps) == (CANCELLED, 300_000)
    assert (lane.delivered_bytes, lane.cancelled_bytes, after.landed_ps) == (310, 700, 310_000)


def test_cancelling_what_was_displaced_or_has_landed_changes_nothing_more():
    lane = Lane("pcie", [Medium("link", GB)], chunk_bytes=100)
    fabric, ahead, demand = made(lane), prefetch(1_000, 1), urgent(50, 2)
    fabric.submit(lane, ahead, 0)
    fabric.submit(lane, demand, 50_000)
    fabric.advance(100_000)  # displaced: 900 bytes wait
    fabric.cancel(ahead, 120_000)
    drain(fabric)
    assert (ahead.landed_ps, demand.landed_ps) == (120_000, 150_000)
    assert (lane.delivered_bytes, lane.cancelled_bytes) == (150, 900)
    fabric.cancel(demand, 200_000)
    assert (demand.state, lane.cancelled_bytes) == (LANDED, 900)


def test_a_promoted_prefetch_leaves_the_queue_of_prefetches_and_displaces_the_running_one():
    lane = Lane("pcie", [Medium("link", GB)], chunk_bytes=100)
    fabric = made(lane)
    running, second, wanted = prefetch(1_000, 1), prefetch(100, 2), prefetch(100, 3)
    for transfer in (running, second, wanted):
        fabric.submit(lane, transfer, 0)
    fabric.promote(wanted, 110_000)
    drain(fabric)
    # border at 200, wanted 300, then the displaced one (800 left) comes before the second
    assert [t.landed_ps for t in (wanted, running, second)] == [300_000, 1_100_000, 1_200_000]


def test_a_promoted_running_prefetch_is_not_displaced():
    lane = Lane("pcie", [Medium("link", GB)], chunk_bytes=100)
    fabric, wanted, demand = made(lane), prefetch(1_000, 1), urgent(100, 2)
    fabric.submit(lane, wanted, 0)
    fabric.promote(wanted, 50_000)
    fabric.submit(lane, demand, 60_000)
    drain(fabric)
    assert (wanted.landed_ps, demand.landed_ps) == (1_000_000, 1_100_000)


def flash(active: int, request_bytes: int) -> float:
    """1 GB/s per request up to four; half of it for requests below 100 bytes."""
    return min(active, 4) * GB * (1.0 if request_bytes >= 100 else 0.5)


def test_an_ssd_gives_more_to_more_requests_and_less_to_small_ones():
    lane = Lane("ssd", [Medium("ssd", GB, flash)], width=4)
    fabric, alone = made(lane), urgent(200)
    fabric.submit(lane, alone, 0)
    drain(fabric)
    assert alone.landed_ps == 200_000
    two = [urgent(200), urgent(200)]
    fabric.submit_all(lane, two, 200_000)
    drain(fabric)
    assert [t.landed_ps for t in two] == [400_000] * 2  # 2 GB/s for two
    small = urgent(50)
    fabric.submit(lane, small, 400_000)
    drain(fabric)
    assert small.landed_ps == 500_000  # 50 bytes at 0.5 GB/s


def test_the_fifth_request_waits_for_one_of_four_io_threads():
    lane = Lane("ssd", [Medium("ssd", GB, flash)], latency_ps=1_000, width=4)
    fabric, five = made(lane), [urgent(100 * (i + 1)) for i in range(5)]
    fabric.submit_all(lane, five, 0)
    assert (len(lane.active), len(lane.demand)) == (4, 1)
    fabric.advance(101_000)
    assert five[0].landed_ps == 101_000  # 4 GB/s over four: 100 bytes in 100 ns
    assert five[4].state != LANDED
    drain(fabric)
    assert balanced(lane)


def staged() -> tuple[Fabric, Lane, Lane]:
    """SSD 1 GB/s with 2 ns latency into DRAM, then a copy at 2 GB/s with 3 ns."""
    reader = Lane("ssd->dram", [Medium("ssd", GB)], latency_ps=2_000, chunk_bytes=50)
    copier = Lane("dram->gpu", [Medium("link", 2 * GB)], latency_ps=3_000, chunk_bytes=50)
    return made(reader, copier), reader, copier


def chained(copier: Lane, size_bytes: int, wanted: bool = True) -> tuple[Transfer, Transfer]:
    read, copy = Transfer(0, size_bytes, wanted), Transfer(0, size_bytes, wanted)
    copy.cause, read.then = read, [(copier, copy)]
    return read, copy


def test_two_hops_follow_one_another():
    fabric, reader, copier = staged()
    read, copy = chained(copier, 100)
    fabric.submit(reader, read, 0)
    drain(fabric)
    assert (read.landed_ps, copy.submitted_ps, copy.landed_ps) == (102_000, 102_000, 155_000)  # + 3 + 50


def test_two_blobs_overlap_their_hops():
    fabric, reader, copier = staged()
    pairs = [chained(copier, 100) for _ in range(2)]
    fabric.submit_all(reader, [read for read, _ in pairs], 0)
    drain(fabric)
    assert [copy.landed_ps for _, copy in pairs] == [155_000, 257_000]  # second read 102..204, copy + 53


def test_promoting_the_last_hop_promotes_the_read_it_waits_for():
    fabric, reader, copier = staged()
    read, copy = chained(copier, 100, wanted=False)
    other = prefetch(200, 1)
    fabric.submit(reader, other, 0)
    fabric.submit(reader, read, 0)
    fabric.promote(copy, 1_000)
    drain(fabric)
    # other stops after 50 bytes at 52 ns; read 52 + 2 + 100; copy + 53; other resumes: 154 + 2 + 150
    assert (read.landed_ps, copy.landed_ps, other.landed_ps) == (154_000, 207_000, 306_000)


def test_a_hop_that_is_cancelled_before_its_turn_is_never_asked_for():
    fabric, reader, copier = staged()
    read, copy = chained(copier, 100, wanted=False)
    fabric.submit(reader, read, 0)
    fabric.cancel(copy, 10_000)
    drain(fabric)
    assert (copy.state, copy.landed_ps, read.state) == (CANCELLED, 10_000, LANDED)
    assert (copier.requested_bytes, reader.delivered_bytes) == (0, 100)


def test_reading_the_state_changes_nothing():
    bus = Medium("bus", 3 * GB)
    a, b = Lane("a", [bus], latency_ps=10), Lane("b", [bus])
    plain, looked = [], []
    for out, step in ((plain, None), (looked, 777)):
        bus.index = -1
        a, b = Lane("a", [bus], latency_ps=10), Lane("b", [bus])
        fabric = made(a, b)
        fabric.submit_all(a, [urgent(100), urgent(31)], 0)
        fabric.submit(b, urgent(77), 5)
        for now in range(5, 100_000, step) if step else ():
            fabric.advance(now)
        drain(fabric)
        out.extend(fabric.log)
    assert plain == looked


def test_a_wait_is_timed_again_when_somebody_else_takes_bandwidth():
    clock = Clock()
    bus = Medium("bus", 2 * GB)
    a, b = Lane("a", [bus]), Lane("b", [bus])
    fabric = made(a, b)
    seen = {}

    class Waiter(Stream):
        def process(self):
            transfer = urgent(200)
            self.fabric.submit(a, transfer, 0)
            seen["first"] = yield from self.landed(transfer)

    class Intruder(Stream):
        def process(self):
            yield from self.sync(50_000)
            transfer = urgent(50)
            self.fabric.submit(b, transfer, 50_000)
            seen["second"] = yield from self.landed(transfer)

    clock.process(Waiter(clock, fabric, 0).process())
    clock.process(Intruder(clock, fabric, 1).process())
    clock.run()
    # alone for 50 ns (100 bytes), together 1 GB/s each: the intruder ends at 100, the first has 50 left at 2 GB/s
    assert seen == {"first": 125_000, "second": 100_000}
