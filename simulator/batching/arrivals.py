"""When requests come: known from the start, or a think time after a client's last one ended."""

from __future__ import annotations

import heapq
from collections import deque

import numpy as np

from simulator.engine import PS_PER_S, to_ps
from simulator.plan import Plan
from traces.workloads.requests import OPEN


class Arrivals:
    """The requests of a plan, by order of arrival; those without a list are all there at the start."""

    def __init__(self, plan: Plan) -> None:
        count, listed = len(plan.served), plan.listed
        self._think_ps: dict[int, int] = {}
        self._client: dict[int, int] = {}
        self._pending: dict[int, deque[int]] = {}  # client -> requests whose time is not known
        self._heap: list[tuple[int, int]] = []
        self._next = 0
        if plan.portion is not None:
            self._open_ps, self._open = plan.portion.arrivals()
            return
        if listed is None:
            self._open_ps, self._open = np.zeros(count, dtype=np.int64), np.arange(count)
            return
        rows = np.array([request.id for request in plan.served])
        clients, arrival_s, think_s = listed.client[rows], listed.arrival_s[rows], listed.think_s[rows]
        self._open = np.flatnonzero(clients == OPEN)
        self._open_ps = np.rint(arrival_s[self._open] * PS_PER_S).astype(np.int64)
        for order in np.flatnonzero(clients != OPEN).tolist():
            client = self._client[order] = int(clients[order])
            self._think_ps[order] = to_ps(float(think_s[order]))
            if client in self._pending and np.isnan(arrival_s[order]):
                self._pending[client].append(order)
            else:  # a client begins
                self._pending[client] = deque()
                known = not np.isnan(arrival_s[order])
                heapq.heappush(self._heap, (to_ps(float(arrival_s[order])) if known else self._think_ps[order], order))

    def next_ps(self) -> int | None:
        """When the next request comes, as far as is known; None if none will."""
        times = [self._heap[0][0]] if self._heap else []
        if self._next < len(self._open):
            times.append(int(self._open_ps[self._next]))
        return min(times, default=None)

    def until(self, time_ps: int) -> list[tuple[int, int]]:
        """(arrival in ps, order) of the requests that have come by now and were not told before."""
        found = []
        while self._next < len(self._open) and self._open_ps[self._next] <= time_ps:
            found.append((int(self._open_ps[self._next]), int(self._open[self._next])))
            self._next += 1
        while self._heap and self._heap[0][0] <= time_ps:
            found.append(heapq.heappop(self._heap))
        return sorted(found) if self._client else found

    def ended(self, order: int, time_ps: int) -> None:
        """A request ended: its client thinks, then sends the next."""
        client = self._client.get(order)
        if client is not None and self._pending[client]:
            following = self._pending[client].popleft()
            heapq.heappush(self._heap, (time_ps + self._think_ps[following], following))
