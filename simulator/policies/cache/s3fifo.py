from simulator.policies.cache.base import CachePolicy


class S3Fifo(CachePolicy):
    """S3-FIFO (Yang et al., SOSP 2023): a small probationary queue, a main queue, a ghost queue.

    An expert enters the small queue, or the main one if its ghost is remembered. One that was
    used `promote_uses` times in the small queue moves on to the main queue, whose experts get
    another round for each use (at most 3). As in libCacheSim, until the first eviction what no
    longer fits the small queue enters the main queue.
    """

    def __init__(self, small_share: float = 0.1, ghost_share: float = 0.9, promote_uses: int = 2) -> None:
        self._small: dict[int, int] = {}  # blob -> uses, oldest first
        self._main: dict[int, int] = {}
        self._ghost: dict[int, int] = {}  # blob -> size_bytes
        self._pending: list[tuple[int, bool]] = []  # (blob, remembered); loads enter after the evictions they cause
        self._shares = (small_share, ghost_share)
        self._promote_uses = promote_uses
        self._used = {"small": 0, "main": 0, "ghost": 0}
        self._evicted = False

    def bind(self, context):
        self._sizes = context.size_bytes
        self._small_bytes = int(context.capacity_bytes * self._shares[0])
        self._main_bytes = context.capacity_bytes - self._small_bytes
        self._ghost_bytes = int(context.capacity_bytes * self._shares[1])

    def _enter(self):
        for blob, remembered in self._pending:
            full = not self._evicted and self._used["small"] >= self._small_bytes
            self._put("main" if remembered or full else "small", blob, 0)
        self._pending = []

    def _put(self, queue, blob, uses):
        (self._small if queue == "small" else self._main)[blob] = uses
        self._used[queue] += self._sizes[blob]

    def _drop(self, queue, blob):
        self._used[queue] -= self._sizes[blob]
        return (self._small if queue == "small" else self._main).pop(blob)

    def on_layer(self, blobs, loads, view):
        self._enter()
        for blob in blobs:
            if blob in self._small:
                self._small[blob] += 1
            elif blob in self._main:
                self._main[blob] += 1
        self.on_insert(loads, view)

    def on_insert(self, blobs, view):
        for blob in blobs:
            remembered = self._ghost.pop(blob, None) is not None
            self._used["ghost"] -= self._sizes[blob] if remembered else 0
            self._pending.append((blob, remembered))

    def on_evict(self, blob):
        self._pending = [entry for entry in self._pending if entry[0] != blob]
        if blob in self._small:
            self._drop("small", blob)
        elif blob in self._main:
            self._drop("main", blob)

    def victims(self, need_bytes, incoming, view):
        taken = []
        while need_bytes > 0:
            self._evicted = True
            main_first = self._used["main"] > self._main_bytes or not self._small
            blob = self._from_main(view) if main_first else self._from_small(view)
            if blob is None:
                blob = self._from_small(view) if main_first else self._from_main(view)
            if blob is None:
                break
            taken.append(blob)
            need_bytes -= self._sizes[blob]
        self._enter()
        return taken

    def _from_small(self, view):
        while (blob := next(filter(view.evictable, self._small), None)) is not None:
            if self._drop("small", blob) < self._promote_uses:
                self._remember(blob)
                break
            self._put("main", blob, 0)
        return blob

    def _from_main(self, view):
        while (blob := next(filter(view.evictable, self._main), None)) is not None:
            uses = self._drop("main", blob)
            if uses == 0:
                break
            self._put("main", blob, min(uses, 3) - 1)
        return blob

    def _remember(self, blob):
        self._ghost[blob] = self._sizes[blob]
        self._used["ghost"] += self._sizes[blob]
        while self._used["ghost"] > self._ghost_bytes:
            oldest = next(iter(self._ghost))
            self._used["ghost"] -= self._ghost.pop(oldest)
