"""Cache policies one by one: who leaves, told in a few accesses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import pytest

from simulator.plan import Block, Step
from simulator.policies import PolicyContext
from simulator.policies.cache.base import CachePolicy
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.fifo import Fifo
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.popularity import Popularity
from simulator.policies.cache.random_eviction import RandomEviction
from simulator.policies.cache.s3fifo import S3Fifo
from simulator.replay import replay
from simulator.residency import RESIDENT, Partition, Tier
from traces import RequestTrace

BLOBS = 16
ALL: dict[str, Callable[[], CachePolicy]] = {
    "lru": Lru,
    "lfu": Lfu,
    "fifo": Fifo,
    "s3fifo": S3Fifo,
    "popularity": Popularity,
    "random": RandomEviction,
    "belady": Belady,
}


class Memory:
    """A memory of `capacity` blobs of one byte under one policy."""

    def __init__(self, cache: CachePolicy, capacity: int, future: Sequence[Sequence[int]] = (), **context) -> None:
        sizes = [1] * BLOBS
        cache.bind(
            PolicyContext(
                layers=1,
                experts=BLOBS,
                top_k=1,
                size_bytes=sizes,
                capacity_bytes=capacity,
                future=lambda: iter([list(group) for group in future]),
                **context,
            )
        )
        self.partition = Partition(capacity, cache)
        self.tier = Tier("memory", sizes, [self.partition])
        self.cache, self.view = cache, self.tier.view

    def access(self, *blobs: int) -> list[int]:
        """One group; returns what left for it."""
        self.view.group += 1
        _, _, misses = self.tier.look_up(blobs)
        before = self.held
        self.tier.pins = set(blobs)
        self.cache.on_layer(blobs, misses, self.view)
        self._enter(misses)
        return sorted(before - self.held)

    def prefetch(self, *blobs: int) -> list[int]:
        """Fetch ahead what gets room; returns what left for it."""
        before = self.held
        self.tier.pins = set()
        self.view.prefetching = True
        entered = self._enter(blobs)
        self.cache.on_insert(entered, self.view)
        self.view.prefetching = False
        return sorted(before - self.held)

    def _enter(self, blobs: Sequence[int]) -> Sequence[int]:
        entered = blobs[: self.tier.admit(self.partition, blobs)]
        for blob in entered:
            self.tier.occupy(self.partition, blob, RESIDENT)
        return entered

    @property
    def held(self) -> set[int]:
        return {blob for blob, slot in enumerate(self.tier.slots) if slot is RESIDENT}


def leavers(cache: CachePolicy, capacity: int, accesses: Sequence[int], **context) -> list[int]:
    memory = Memory(cache, capacity, [[blob] for blob in accesses], **context)
    return [blob for access in accesses for blob in memory.access(access)]


def test_lru_drops_what_was_unused_for_longest():
    assert leavers(Lru(), 3, [0, 1, 2, 0, 3, 4]) == [1, 2]


def test_lru_takes_what_was_fetched_ahead_as_just_used():
    memory = Memory(Lru(), 2)
    memory.access(0)
    memory.prefetch(1)
    assert memory.access(2) == [0]


def test_fifo_drops_what_was_loaded_first_however_much_it_is_used():
    assert leavers(Fifo(), 3, [0, 1, 2, 0, 0, 3, 4]) == [0, 1]


def test_lfu_drops_what_was_used_least_and_of_these_the_longest_unused():
    # uses when 3 comes: 0 twice, 1 and 2 once, 1 before 2; when 4 comes: 2 and 3 once
    assert leavers(Lfu(), 3, [0, 1, 2, 0, 3, 4]) == [1, 2]


@pytest.mark.parametrize(("history", "second"), [(False, 1), (True, 2)])
def test_lfu_forgets_counts_at_eviction_unless_told_to_keep_them(history, second):
    # 1 was used twice when 2 (three uses) and 0 (four) stay and it leaves for 3; back again it counts 1, or 3
    accesses = [0, 0, 0, 0, 2, 2, 2, 1, 1, 3, 1, 4]
    assert leavers(Lfu(history=history), 3, accesses) == [1, 3, second]


def test_lfu_drops_what_was_fetched_ahead_and_never_used_first():
    memory = Memory(Lfu(), 2)
    memory.access(0)
    memory.prefetch(1)
    assert memory.access(2) == [1]


def test_s3fifo_lets_what_was_used_once_leave_before_the_main_queue():
    # 20 bytes would be 2 + 18; here 4: int(0.4) = 0 small, so give it half: 2 small, 2 main.
    # 0 and 1 fill the small queue, 2 and 3 the main one (nothing has left yet); 0 is used twice more: promoted.
    accesses = [0, 1, 2, 3, 0, 0, 4]
    assert leavers(S3Fifo(small_share=0.5), 4, accesses) == [1]


def test_s3fifo_remembers_what_left_the_small_queue_and_admits_it_to_the_main_one():
    cache = S3Fifo(small_share=0.5)
    memory = Memory(cache, 4)
    left = [blob for access in (0, 1, 2, 3, 4, 0, 5, 6) for blob in memory.access(access)]
    # 4 pushes out 0; 0 is remembered and enters the main queue (2 3 0: above its share, so main evicts next)
    assert left == [0, 1, 2, 4]
    assert 0 in memory.held


def test_popularity_drops_what_the_training_requests_chose_least():
    experts = np.array([[[0]], [[0]], [[0]], [[1]], [[2]], [[2]]], dtype=np.int16)
    request = RequestTrace(
        id=1, positions=np.arange(6, dtype=np.int32), phases=np.ones(6, dtype=np.int8), experts=experts
    )
    # selections: 0 three times, 1 once, 2 twice, 3 never
    got = leavers(Popularity(), 2, [3, 1, 2, 0, 1], training=lambda: iter([request]))
    assert got == [3, 1, 2]


def test_belady_drops_what_is_needed_last():
    assert leavers(Belady(), 2, [0, 1, 2, 0, 1]) == [1, 2]  # for 2: 0 is next, 1 after it; then 2 never again


def test_belady_makes_no_room_for_a_prefetch_by_dropping_what_is_needed_before_it():
    future = [[0], [1], [0], [3], [1], [4]]
    memory = Memory(Belady(), 2, future)
    memory.access(0)
    memory.access(1)  # next uses: 0 in group 2, 1 in group 4
    assert memory.prefetch(4) == []  # needed in group 5, after both
    assert memory.held == {0, 1}
    assert memory.prefetch(3) == [1]  # needed in group 3, before 1
    assert memory.held == {0, 3}
    assert memory.access(0) == []


def test_belady_does_not_forget_a_blob_it_spared():
    future = [[0], [1], [0], [3], [1], [4]]
    memory = Memory(Belady(), 2, future)
    memory.access(0)
    memory.access(1)
    memory.prefetch(4)  # refused
    assert memory.access(0) == []
    assert memory.access(3) == [0]  # 0 is not used again, 1 is


def test_random_eviction_drops_every_resident_about_equally_often():
    memory = Memory(RandomEviction(), 8, rng=np.random.default_rng(3))
    for blob in range(8):
        memory.access(blob)
    drawn: list[int] = []
    for _ in range(4000):
        memory.tier.pins = {BLOBS - 1}
        victims = memory.cache.victims(1, [BLOBS - 1], memory.view)
        drawn += victims
    counts = np.bincount(drawn, minlength=8)[:8]
    assert counts.sum() == 4000
    # mean 500, sigma sqrt(4000 * 1/8 * 7/8) = 20.9; four sigma
    assert np.abs(counts - 500).max() < 84


@pytest.mark.parametrize("name", ALL)
def test_no_policy_names_a_pinned_blob_or_one_twice_and_all_stop_when_there_is_enough(name):
    memory = Memory(ALL[name](), 12, [[blob] for blob in range(12)])
    for blob in range(12):
        memory.access(blob)
    memory.tier.pins = {0, 3, 5, 11}
    victims = list(memory.cache.victims(3, [14, 15], memory.view))
    assert len(victims) == len(set(victims)) == 3
    assert set(victims) <= memory.held - {0, 3, 5, 11}


@pytest.mark.parametrize("name", ALL)
def test_a_policy_asked_for_more_than_there_is_names_all_that_may_leave(name):
    memory = Memory(ALL[name](), 4, [[blob] for blob in range(4)])
    for blob in (0, 1, 2, 3, 0):  # the last is a hit: its group's loads have settled
        memory.access(blob)
    memory.tier.pins = {2}
    assert sorted(memory.cache.victims(10, [7], memory.view)) == [0, 1, 3]


@pytest.mark.parametrize("name", ALL)
def test_an_empty_memory_has_no_victims(name):
    memory = Memory(ALL[name](), 4)
    assert list(memory.cache.victims(1, [7], memory.view)) == []


@pytest.mark.parametrize("make_cache", [Lfu, Belady])
def test_the_heap_of_ranks_stays_small_if_nothing_ever_leaves(make_cache):
    memory = Memory(make_cache(), BLOBS, [[0]] * 9000)
    for _ in range(9000):
        memory.access(0)
    assert len(memory.cache._heap) <= 4 * 1 + 1024 + 1


@pytest.mark.parametrize("name", ALL)
def test_a_group_may_be_served_in_pieces_when_it_is_larger_than_the_memory(name):
    """Admission gives room to as many as fit; the rest waits until pins are gone."""
    memory = Memory(ALL[name](), 2, [[0, 1, 2, 3]])
    memory.access(0, 1, 2, 3)
    assert memory.held == {0, 1}
    memory.tier.pins = {2, 3}
    assert memory.tier.admit(memory.partition, [2, 3]) == 2
    assert memory.held == set()


def test_mixed_sizes_free_at_least_what_is_needed():
    block = Block(False, [], [])
    rng = np.random.default_rng(0)
    steps = [
        Step(0, False, 1, [0], [1], [([int(a)], None), ([8 + int(b)], None)], None, 0, block)
        for a, b in rng.integers(8, size=(300, 2))
    ]
    for make_cache in ALL.values():
        small, large = (replay(steps, [3, 5], 8, 1, make_cache, budget).misses.sum() for budget in (10, 64))
        assert small > large == 16  # 8 x 3 + 8 x 5 = 64 bytes: with room for all only the cold misses


def test_lru_of_growing_size_never_hits_less():
    rng = np.random.default_rng(1)
    block = Block(False, [], [])
    steps = [Step(0, False, 1, [0], [1], [([int(a)], None)], None, 0, block) for a in rng.integers(16, size=400)]
    hits = [replay(steps, [1], 16, 1, Lru, budget).hits.sum() for budget in range(1, 17)]
    assert all(smaller <= larger for smaller, larger in pairwise(hits))
