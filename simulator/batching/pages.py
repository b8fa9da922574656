"""The KV cache of every worker as a ledger of pages, in bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from simulator.batching.request import Request


class KvPages:
    """Pages of `page_tokens` tokens. A request lies on one worker, whole pages at a time, and grows there.

    `size_bytes(tokens)` gives what a sequence takes: layers with a window keep no more than that, and recurrent ones
    their state. capacity_bytes: of each worker.
    """

    def __init__(self, page_tokens: int, size_bytes: Callable[[int], int], capacity_bytes: list[int]) -> None:
        self.page_tokens = page_tokens
        self.capacity_bytes = list(capacity_bytes)
        self.free_bytes = list(capacity_bytes)
        self.peak_bytes = [0] * len(capacity_bytes)
        self._size_bytes = size_bytes
        self._sizes: list[int] = []  # by pages
        self._held: dict[Request, tuple[int, int]] = {}  # worker, bytes

    def trial(self) -> KvPages:
        """A copy to try things out with."""
        other = KvPages.__new__(KvPages)
        other.page_tokens, other.capacity_bytes = self.page_tokens, self.capacity_bytes
        other.free_bytes, other.peak_bytes = list(self.free_bytes), list(self.peak_bytes)
        other._size_bytes, other._sizes, other._held = self._size_bytes, self._sizes, dict(self._held)
        return other

    def bytes_of(self, tokens: int) -> int:
        """What a sequence of so many tokens takes."""
        pages = -(-tokens // self.page_tokens)
        while pages >= len(self._sizes):
            self._sizes.append(self._size_bytes(len(self._sizes) * self.page_tokens))
        return self._sizes[pages]

    def held_bytes(self, request: Request) -> int:
        """What a request holds."""
        return self._held.get(request, (0, 0))[1]

    def worker_of(self, request: Request) -> int:
        """Where a request lies, -1 for nowhere."""
        return self._held.get(request, (-1, 0))[0]

    def take(self, request: Request, tokens: int) -> bool:
        """Make a request's KV cache long enough for so many more tokens; False if there is no room.

        One that holds nothing yet goes to its home, or without one to the worker with the most room.
        """
        free = self.free_bytes
        held = self._held.get(request)
        if held is None:
            held = (request.home if request.home >= 0 else max(range(len(free)), key=free.__getitem__)), 0
        worker, size = held
        wanted = self.bytes_of(request.context_after(tokens))
        if wanted - size > free[worker]:
            return False
        if wanted > size or not size:
            free[worker] -= wanted - size
            self._held[request] = worker, wanted
            used = self.capacity_bytes[worker] - free[worker]
            if used > self.peak_bytes[worker]:
                self.peak_bytes[worker] = used
        return True

    def grow(self, requests: Iterable[Request], tokens: int, only_ask: bool = False) -> bool:
        """As `take` for requests that hold pages, all of them or, if there is no room, none; `only_ask`: none."""
        sizes, held, page = self._sizes, self._held, self.page_tokens
        more: list[tuple[Request, int, int, int]] = []
        for request in requests:
            pages = -(-(request.base + request.done + tokens) // page)
            wanted = sizes[pages] if pages < len(sizes) else self.bytes_of(pages * page)
            worker, size = held[request]
            if wanted > size:
                more.append((request, worker, wanted, wanted - size))
        if not more:
            return True
        free = list(self.free_bytes)
        for _, worker, _, size in more:
            free[worker] -= size
        if min(free) < 0 or only_ask:
            return min(free) >= 0
        self.free_bytes[:] = free
        for request, worker, wanted, _ in more:
            held[request] = worker, wanted
        for worker, capacity in enumerate(self.capacity_bytes):
            self.peak_bytes[worker] = max(self.peak_bytes[worker], capacity - free[worker])
        return True

    def give_back(self, request: Request) -> None:
        """A request's pages are free again."""
        worker, size = self._held.pop(request, (0, 0))
        self.free_bytes[worker] += size
