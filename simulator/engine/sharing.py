"""Max-min fair division of bandwidth among flows."""

from __future__ import annotations

from collections.abc import Sequence

from networkx.utils import UnionFind

SLACK_BYTES_PER_S = 10**6  # more than flows that one medium ever has at once, each rounded down by less than 1 byte/s


def max_min_rates(routes: Sequence[Sequence[int]], caps: Sequence[int], capacities: dict[int, int]) -> list[int]:
    """Rates in whole bytes/s of flows that share media, by progressive filling.

    `routes[i]` are the media of flow i, `caps[i]` its own limit in bytes/s, `capacities[m]` the
    bytes/s of medium m. All unfrozen flows rise together until a medium is full or a flow meets
    its cap; those stop there and the rest rise on (Bertsekas and Gallager, Data Networks, 2nd ed.,
    section 6.5.2). Shares are rounded down, so a medium is never given away beyond its capacity;
    every flow gets at least 1 byte/s.
    """
    rates = [0] * len(routes)
    left = dict(capacities)
    users: dict[int, int] = {}  # of each medium, flows that still rise
    for route in routes:
        for medium in route:
            users[medium] = users.get(medium, 0) + 1
    rising = list(range(len(routes)))
    while rising:
        fair = {medium: left[medium] // count for medium, count in users.items() if count}
        lowest = min([*(caps[flow] for flow in rising), *fair.values()])
        full = {medium for medium, share in fair.items() if share == lowest}
        rest = []
        for flow in rising:
            if caps[flow] > lowest and full.isdisjoint(routes[flow]):
                rest.append(flow)
                continue
            rates[flow] = max(1, lowest)
            for medium in routes[flow]:
                users[medium] -= 1
                left[medium] = max(0, left[medium] - lowest)
        rising = rest
    return rates


def islands(routes: Sequence[Sequence[int]], capacities: Sequence[int | None]) -> list[int]:
    """Number of the island of each lane: lanes of different ones never change each other's rates.

    `routes[i]` are the media of lane i, `capacities[m]` the bytes/s of medium m, None if they depend on what uses it. A
    medium joins the lanes through it unless it exceeds all that their other media let them move together. The slowest
    medium of a lane always joins, so no medium is left out because of one that is left out itself.
    """
    known = [[(m, rate) for m in route if (rate := capacities[m]) is not None] for route in routes]
    users: dict[int, list[int]] = {}
    for lane, route in enumerate(routes):
        for medium in route:
            users.setdefault(medium, []).append(lane)
    joined = UnionFind(range(len(routes)))
    for medium, lanes in users.items():
        capacity = capacities[medium]
        others = [[rate for m, rate in known[lane] if m != medium] for lane in lanes]
        most = sum(min(rates) for rates in others) if all(others) else None
        if capacity is None or most is None or capacity < most + SLACK_BYTES_PER_S:
            joined.union(*lanes)
    numbers: dict[int, int] = {}
    return [numbers.setdefault(joined[lane], len(numbers)) for lane in range(len(routes))]
