"""Prefixes that requests share: their KV cache is kept, and computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from simulator.batching.pages import KvPages
from simulator.batching.request import Request

Key = tuple[int, str]  # instance and name


class _Prefix(NamedTuple):
    """What lies on a worker of a prefix. holders: requests that build on it; used: number of its last use."""

    worker: int
    tokens: int
    size_bytes: int
    holders: int
    used: int


class PrefixPages(KvPages):
    """Pages some of which are of prefixes. One on which no request builds stays until its room is needed, the least
    recently used first, so that `free_bytes` counts its room as free.

    A prefix lies on one worker. Of its pages requests share what layers keep that attend to all of the context; the KV
    cache of a window, and recurrent states, each request has for itself, and the prefix keeps them as they are at its
    end. Nothing is copied.
    """

    def __init__(self, page_tokens: int, size_bytes: Callable[[int], int], capacity_bytes: list[int]) -> None:
        super().__init__(page_tokens, size_bytes, capacity_bytes)
        far = page_tokens << 20  # beyond any window
        self._page_bytes = size_bytes(far + page_tokens) - size_bytes(far)
        self._prefixes: dict[Key, _Prefix] = {}
        self._shared: dict[Request, int] = {}  # bytes that are the prefix's, of requests that build on one
        self._idle_bytes = [0] * len(capacity_bytes)  # of prefixes on which none builds
        self._uses = 0

    def trial(self) -> PrefixPages:
        """A copy to try things out with."""
        other = PrefixPages.__new__(PrefixPages)
        other.__dict__.update(self.__dict__)
        for name in ("free_bytes", "peak_bytes", "_held", "_prefixes", "_shared", "_idle_bytes"):
            setattr(other, name, getattr(self, name).copy())
        return other

    def reusable(self, request: Request) -> int:
        """How many tokens of a request that waits need not be computed: whole pages, and never all of its prompt."""
        found = self._prefixes.get(_key(request)) if request.prefix is not None else None
        if found is None:
            return 0
        most = min(found.tokens, request.prefix_tokens, max(0, request.fresh - 1))
        tokens = most // self.page_tokens * self.page_tokens
        return tokens if self._fits(request, found.worker, found.size_bytes, tokens) else 0

    def publish(self, request: Request) -> None:
        """Keep what a request has computed of its prefix, for others, if nobody has kept as much and there is room."""
        worker, held = self._held.get(request, (-1, 0))
        tokens = min(request.done, request.prefix_tokens) // self.page_tokens * self.page_tokens
        if request.prefix is None or not held or not tokens:
            return
        key, shared = _key(request), self._shared.get(request)
        found = self._prefixes.get(key)
        if found is not None and (found.tokens >= tokens or (shared is None and found.holders)):
            return
        size, whole = self.bytes_of(tokens), self._bytes_of_all(tokens)
        kept = found.size_bytes if found is not None and shared is not None else 0
        more = size - kept - (whole - (shared or 0))
        if more > self.free_bytes[worker] or not self._fits(request, worker, size, tokens):
            return
        if found is not None and shared is None:  # nobody builds on the shorter one
            self._idle_bytes[found.worker] -= found.size_bytes
        holders = found.holders if found is not None and shared is not None else 1
        self._shared[request] = whole
        self._prefixes[key] = _Prefix(worker, tokens, size, holders, self._use())
        self._taken(worker, more)

    def take(self, request: Request, tokens: int) -> bool:
        """As of any pages; a request that builds on a prefix (`done` is then what it has of it) goes where this is."""
        if request in self._held or not request.done:
            if not super().take(request, tokens):
                return False
            self._taken(self._held[request][0], 0)
            return True
        key = _key(request)
        found = self._prefixes.get(key)
        if found is None or found.tokens < request.done:
            return False
        wanted, shared = self.bytes_of(request.context_after(tokens)), self._bytes_of_all(request.done)
        more = wanted - shared + (0 if found.holders else found.size_bytes)
        if more > self.free_bytes[found.worker]:
            return False
        if not found.holders:
            self._idle_bytes[found.worker] -= found.size_bytes
        self._held[request], self._shared[request] = (found.worker, wanted), shared
        self._prefixes[key] = found._replace(holders=found.holders + 1, used=self._use())
        self._taken(found.worker, more)
        return True

    def grow(self, requests: Iterable[Request], tokens: int, only_ask: bool = False) -> bool:
        """As of any pages."""
        there = super().grow(requests, tokens, only_ask)
        if there and not only_ask:
            for worker in range(len(self.free_bytes)):
                self._taken(worker, 0)
        return there

    def give_back(self, request: Request) -> None:
        """A request's pages are free again; those of its prefix stay while there is room."""
        worker = self.worker_of(request)
        super().give_back(request)
        shared = self._shared.pop(request, None)
        if shared is None:
            return
        key = _key(request)
        found = self._prefixes[key]
        self._prefixes[key] = found._replace(holders=found.holders - 1, used=self._use())
        self.free_bytes[worker] -= shared
        if found.holders == 1:
            self.free_bytes[worker] += found.size_bytes
            self._idle_bytes[worker] += found.size_bytes
        self._taken(worker, 0)

    def _fits(self, request: Request, worker: int, size_bytes: int, tokens: int) -> bool:
        """Whether a worker has room for all of a request that builds on so many tokens of a prefix of this size, where
        it is alone; it would else never end."""
        whole = self.bytes_of(request.base + request.rows) + size_bytes - self._bytes_of_all(tokens)
        return whole <= self.capacity_bytes[worker]

    def _bytes_of_all(self, tokens: int) -> int:
        """Of so many tokens, in layers that keep all of a context."""
        return tokens // self.page_tokens * self._page_bytes

    def _use(self) -> int:
        self._uses += 1
        return self._uses

    def _taken(self, worker: int, more_bytes: int) -> None:
        """So much more is taken on a worker: prefixes on which none builds make room."""
        free = self.free_bytes
        free[worker] -= more_bytes
        self.peak_bytes[worker] = max(self.peak_bytes[worker], self.capacity_bytes[worker] - free[worker])
        if self._idle_bytes[worker] <= free[worker]:
            return
        idle = [(p.used, key) for key, p in self._prefixes.items() if p.worker == worker and not p.holders]
        for _, key in sorted(idle):
            self._idle_bytes[worker] -= self._prefixes.pop(key).size_bytes
            if self._idle_bytes[worker] <= free[worker]:
                return


def _key(request: Request) -> Key:
    assert request.prefix is not None
    return request.instance, request.prefix
