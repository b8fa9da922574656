"""Max-min fair division of bandwidth among flows."""

from __future__ import annotations

from collections.abc import Sequence


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
    rising = set(range(len(routes)))
    while rising:
        users: dict[int, int] = {}
        for flow in rising:
            for medium in routes[flow]:
                users[medium] = users.get(medium, 0) + 1
        fair = {medium: left[medium] // count for medium, count in users.items()}
        level = {flow: min([caps[flow], *(fair[medium] for medium in routes[flow])]) for flow in sorted(rising)}
        lowest = min(level.values())
        for flow in [flow for flow in sorted(rising) if level[flow] == lowest]:
            rising.remove(flow)
            rates[flow] = max(1, lowest)
            for medium in routes[flow]:
                left[medium] = max(0, left[medium] - lowest)
    return rates
