"""The way of KV cache: who sends what to whom, and how long it takes."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from hwmodels import Platform
from simulator.pools.dealing import dealt
from simulator.pools.transfer import KvLinks, pieces
from tests.helpers import shipped

PORT_BYTES_PER_S, LATENCY_S = 450e9 * 0.85, 2 * 0.4e-6  # of dgx_h100: NVLink to the switch, and two of its hops


@pytest.mark.parametrize(("senders", "receivers"), list(itertools.product([1, 2, 3, 4, 8], repeat=2)))
def test_every_receiver_gets_all_it_needs_from_those_that_hold_it(senders, receivers):
    size = 1_000_003
    sent = pieces([f"s{n}" for n in range(senders)], [f"r{n}" for n in range(receivers)], size)
    got = Counter()
    for src, dst, size_bytes in sent:
        j, i = int(src[1:]), int(dst[1:])
        assert max(i / receivers, j / senders) < min((i + 1) / receivers, (j + 1) / senders)  # heads that both have
        got[dst] += size_bytes
    assert got == {f"r{n}": size for n in range(receivers)}
    if senders == receivers:
        assert [(src[1:], dst[1:]) for src, dst, _ in sent] == [(str(n), str(n)) for n in range(senders)]


def test_nothing_to_send_sends_nothing():
    assert pieces(["a", "b"], ["c"], 0) == []


def landed_s(requests):
    links = KvLinks(Platform.from_mapping(shipped("platform", "dgx_h100")), pinned=True)
    times_ps = links.land([(round(at_s * 1e12), parts) for at_s, parts in requests])
    return [time_ps / 1e12 for time_ps in times_ps], links


SIZE = 10**9
ALONE_S = LATENCY_S + SIZE / PORT_BYTES_PER_S


@pytest.mark.parametrize(
    ("requests", "expected_s"),
    [
        ([(0.5, [("gpu0", "gpu4", SIZE)])], [0.5 + ALONE_S]),
        ([(0, [("gpu0", "gpu4", SIZE), ("gpu1", "gpu5", SIZE)])], [ALONE_S]),  # ways that share nothing
        ([(0, [("gpu0", "gpu4", SIZE)]), (0, [("gpu0", "gpu4", SIZE)])], [ALONE_S, 2 * ALONE_S]),  # one lane, in turn
        (  # two lanes into one port
            [(0, [("gpu0", "gpu4", SIZE)]), (0, [("gpu1", "gpu4", SIZE)])],
            [ALONE_S + SIZE / PORT_BYTES_PER_S] * 2,
        ),
        ([(0, [("gpu0", "gpu4", SIZE)]), (0, [("gpu4", "gpu0", SIZE)])], [ALONE_S, ALONE_S]),  # both ways at once
        ([(0, [("gpu0", "gpu4", SIZE)]), (1, [("gpu1", "gpu4", SIZE)])], [ALONE_S, 1 + ALONE_S]),
        ([(2.0, [])], [2.0]),
    ],
)
def test_lanes_serve_in_order_and_share_the_ports(requests, expected_s):
    found_s, links = landed_s(requests)
    assert found_s == pytest.approx(expected_s, abs=2e-12)
    for lane in links.lanes:
        assert lane.requested_bytes == lane.delivered_bytes


def test_nodes_are_joined_by_their_network():
    links = KvLinks(Platform.from_mapping(shipped("platform", "two_dgx_h100")), pinned=True)
    landed_ps = links.land([(0, [("gpu0", "gpu8", SIZE)])])[0]
    assert landed_ps / 1e12 == pytest.approx(5e-6 + SIZE / (50e9 * 0.94), abs=2e-12)
    assert links.lanes[0].category == "network"


def test_requests_are_dealt_in_turn_or_to_whom_was_given_least():
    assert dealt("in_turn", [5, 1, 1, 1], 3) == [0, 1, 2, 0]
    assert dealt("fewest_tokens", [5, 1, 1, 1, 4], 2) == [0, 1, 1, 1, 1]
    assert dealt("fewest_tokens", [1, 1, 1], 2) == [0, 1, 0]
