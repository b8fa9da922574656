"""Cache policies equal libCacheSim's, access by access.

libCacheSim (github.com/1a1a11a/libCacheSim; Python package `libcachesim`) is an independent cache
simulator by the authors of S3-FIFO. One access is one group here: a step with one blob.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest

from simulator.plan import Block, Plan, Step, Workload
from simulator.policies.cache.base import CachePolicy
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.fifo import Fifo
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.s3fifo import S3Fifo
from simulator.replay import replay
from traces import data_path, open_trace

libcachesim = pytest.importorskip("libcachesim")

NEVER = 2**63 - 1  # libCacheSim's next use of what is not used again
POLICIES: dict[str, Callable[[], CachePolicy]] = {
    "LRU": Lru,
    "LFU": Lfu,
    "FIFO": Fifo,
    "S3FIFO": S3Fifo,
    "Belady": Belady,
}
# S3-FIFO's small queue holds a tenth, rounded down: 2 of 25, 2 of 29, 4 of 47
STREAMS = {"uniform": [25, 29, 47, 90], "zipf": [25, 47, 133], "gpt_oss": [25, 93, 200, 384]}


@cache
def stream(name: str) -> tuple[list[int], int]:
    """Blob ids in order of access, and how many ids there are."""
    if name == "uniform":
        return np.random.default_rng(1).integers(100, size=6000).tolist(), 100
    if name == "zipf":
        ids = np.random.default_rng(2).zipf(1.2, size=6000)
        return np.minimum(ids, 300).tolist(), 301
    trace = open_trace(data_path("gpt_oss_20b.parquet"))
    plan = Plan(trace, Workload(requests=10, max_decode_tokens=20))
    return [blob for group in plan.groups() for blob in group], plan.layers * plan.experts


def our_hits(accesses: list[int], blobs: int, make_cache: Callable[[], CachePolicy], capacity: int) -> np.ndarray:
    block = Block(False, [], [])
    steps = [Step(0, False, 1, [0], [1], [([blob], None)], None, 0, block) for blob in accesses]
    result = replay(steps, [1], blobs, 1, make_cache, capacity, rows=True)
    return np.concatenate(result.rows)[:, 3].astype(bool)


def their_hits(accesses: list[int], name: str, capacity: int) -> np.ndarray:
    following, next_use = [NEVER] * len(accesses), {}
    for index in reversed(range(len(accesses))):
        following[index] = next_use.get(accesses[index], NEVER)
        next_use[accesses[index]] = index
    reference = getattr(libcachesim, name)(capacity, hashpower=12)
    request, hits = libcachesim.Request(), []
    request.obj_size = 1
    for blob, next_access in zip(accesses, following, strict=True):
        request.obj_id, request.next_access_vtime = blob + 1, next_access
        hits.append(reference.get(request))
    return np.array(hits)


@pytest.mark.parametrize("name", POLICIES)
@pytest.mark.parametrize("kind", STREAMS)
def test_every_access_hits_or_misses_as_in_libcachesim(kind, name):
    accesses, blobs = stream(kind)
    for capacity in STREAMS[kind]:
        ours = our_hits(accesses, blobs, POLICIES[name], capacity)
        theirs = their_hits(accesses, name, capacity)
        assert np.array_equal(ours, theirs), f"{capacity} units, first at {np.argmax(ours != theirs)}"


def test_the_streams_tell_the_policies_apart():
    """Guards the comparison above: no two of the five policies hit alike."""
    accesses, blobs = stream("zipf")
    counts = {name: int(our_hits(accesses, blobs, POLICIES[name], 47).sum()) for name in POLICIES}
    assert len(set(counts.values())) == 5
    assert max(counts, key=counts.__getitem__) == "Belady"


def test_lfu_differs_from_libcachesim_if_counts_survive_eviction():
    """libCacheSim's LFU, like ours by default, forgets the count of what it evicts.

    Two units: 1 1 1 2 2 3 evicts 2 (two uses); when 2 returns, the count decides whether 3 or 1 goes next.
    """
    accesses = [1, 1, 1, 2, 2, 3, 2, 2, 3, 2, 2, 1]
    theirs = their_hits(accesses, "LFU", 2)
    assert np.array_equal(our_hits(accesses, 4, Lfu, 2), theirs)
    assert not np.array_equal(our_hits(accesses, 4, lambda: Lfu(history=True), 2), theirs)


def test_lfu_breaks_ties_by_the_time_of_the_last_use():
    """Three units, all used twice, in the order of last use 2 3 1: the newcomer 4 replaces 2."""
    accesses = [1, 2, 3, 2, 3, 1, 4, 1, 3, 2]
    theirs = their_hits(accesses, "LFU", 3)
    assert theirs.tolist() == [False, False, False, True, True, True, False, True, True, False]
    assert np.array_equal(our_hits(accesses, 5, Lfu, 3), theirs)


def test_s3fifo_keeps_an_object_that_fills_the_small_queue_where_libcachesim_refuses_it():
    """19 units: the small queue holds one. libCacheSim never admits an object as large as its small queue.

    An expert has to be loaded to run, so there is nothing to refuse; from two units on both are the same.
    """
    accesses, blobs = stream("zipf")
    assert not their_hits(accesses, "S3FIFO", 19).any()
    assert our_hits(accesses, blobs, S3Fifo, 19).mean() > 0.5
    assert np.array_equal(our_hits(accesses, blobs, S3Fifo, 20), their_hits(accesses, "S3FIFO", 20))


def test_belady_hits_as_often_whichever_of_the_never_used_again_leaves_first():
    """Ties exist only among blobs without a next use; evicting either loses nothing."""

    class OtherTie(Belady):
        def on_layer(self, blobs, loads, view):
            for blob in blobs:
                self.rank(blob, (-self._next_use(blob, view.group), blob))

    accesses, blobs = stream("zipf")
    assert np.array_equal(our_hits(accesses, blobs, OtherTie, 47), our_hits(accesses, blobs, Belady, 47))
