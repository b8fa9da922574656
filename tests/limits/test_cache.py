"""What must hold for any stream of groups, whatever it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.plan import Block, Plan, Step, Workload
from simulator.policies.cache.base import CachePolicy
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.fifo import Fifo
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.popularity import Popularity
from simulator.policies.cache.random_eviction import RandomEviction
from simulator.policies.cache.s3fifo import S3Fifo
from simulator.replay import ReplayResult, partition_budgets, replay
from traces import data_path, open_trace

ONLINE: dict[str, Callable[[], CachePolicy]] = {
    "lru": Lru,
    "lfu": Lfu,
    "lfu with history": lambda: Lfu(history=True),
    "fifo": Fifo,
    "s3fifo": S3Fifo,
    "popularity": Popularity,
    "random": RandomEviction,
}
ALL = {**ONLINE, "belady": Belady}
LAYERS, EXPERTS = 2, 8
Stream = list[list[list[int]]]  # steps, layers, blobs

EXAMPLES = settings(max_examples=40, deadline=None, derandomize=True)
groups = st.lists(st.integers(0, EXPERTS - 1), max_size=4, unique=True)
streams = st.lists(st.tuples(groups, groups), min_size=1, max_size=40).map(
    lambda pairs: [[first, [blob + EXPERTS for blob in second]] for first, second in pairs]
)
single_accesses = st.lists(st.integers(0, 11), min_size=1, max_size=150)
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))


def run(
    stream: Stream, layer_bytes: Any, make_cache: Callable[[], CachePolicy], budget: int, **options
) -> ReplayResult:
    block = Block(False, [], [])
    steps = [Step(0, False, 1, [0], [1], [(list(blobs), None) for blobs in step], None, 0, block) for step in stream]
    experts = EXPERTS if len(layer_bytes) == LAYERS else 12
    return replay(steps, layer_bytes, experts, 4, make_cache, budget, rows=True, **options)


def hits_of(result: ReplayResult) -> np.ndarray:
    return np.concatenate(result.rows)[:, 3].astype(bool)


@EXAMPLES
@given(streams, st.integers(1, 16))
def test_belady_hits_at_least_as_often_as_any_policy_if_all_experts_are_of_one_size(stream, budget):
    best = run(stream, (1, 1), Belady, budget).hits.sum()
    for make_cache in ONLINE.values():
        assert run(stream, (1, 1), make_cache, budget).hits.sum() <= best


@pytest.mark.parametrize("scope", ["global", "layer"])
@pytest.mark.parametrize("name", ALL)
@EXAMPLES
@given(stream=streams, layer_bytes=sizes, extra=st.integers(0, 60))
def test_after_a_group_the_bytes_held_are_within_the_budget_or_the_group_is_alone(
    name, scope, stream, layer_bytes, extra
):
    budget = max(layer_bytes) + extra
    budgets = partition_budgets(budget, layer_bytes, 4, scope)
    watched = []

    class Watched(type(ALL[name]())):  # type: ignore[misc]
        """Keeps its own books of what is there, and what is never told twice."""

        def __init__(self) -> None:
            super().__init__()
            self.held: set[int] = set()
            self.last_group: set[int] = set()
            self.capacity = budgets[len(watched)]
            watched.append(self)

        def check(self):
            used = sum(layer_bytes[blob // EXPERTS] for blob in self.held)
            assert used <= self.capacity or self.held == self.last_group

        def on_layer(self, blobs, loads, view):
            self.check()
            assert not self.held & set(loads)
            assert set(blobs) - set(loads) <= self.held
            self.held |= set(loads)
            self.last_group = set(blobs) or self.last_group
            super().on_layer(blobs, loads, view)

        def on_evict(self, blob):
            self.held.remove(blob)
            super().on_evict(blob)

    result = run(stream, layer_bytes, Watched, budget, scope=scope)
    for cache in watched:
        cache.check()
    accesses = sum(len(blobs) for step in stream for blobs in step)
    assert int(result.hits.sum() + result.misses.sum()) == accesses == result.accesses


@EXAMPLES
@given(single_accesses, st.integers(1, 11))
def test_a_larger_lru_hits_wherever_a_smaller_one_does(accesses, capacity):
    """The stack property (Mattson et al., IBM Systems Journal 9, 1970), one access at a time."""
    stream = [[[blob]] for blob in accesses]
    small = hits_of(run(stream, (1,), Lru, capacity))
    large = hits_of(run(stream, (1,), Lru, capacity + 1))
    assert not (small & ~large).any()


@EXAMPLES
@given(single_accesses, st.integers(1, 11))
def test_lru_hits_exactly_where_the_reuse_distance_is_below_the_capacity(accesses, capacity):
    """Reuse distance: different blobs accessed since the last access to this one."""
    expected = []
    for index, blob in enumerate(accesses):
        before = accesses[:index]
        since = before[len(before) - before[::-1].index(blob) :] if blob in before else None
        expected.append(since is not None and len(set(since)) < capacity)
    assert hits_of(run([[[blob]] for blob in accesses], (1,), Lru, capacity)).tolist() == expected


@pytest.mark.parametrize("name", ALL)
@EXAMPLES
@given(stream=streams)
def test_a_cache_with_room_for_all_misses_each_expert_exactly_once(name, stream):
    result = run(stream, (1, 1), ALL[name], LAYERS * EXPERTS)
    assert result.misses.sum() == len({blob for step in stream for blobs in step for blob in blobs})


@pytest.mark.parametrize("name", ALL)
@EXAMPLES
@given(stream=streams, budget=st.integers(1, 16), seed=st.integers(0, 2**32))
def test_the_same_stream_and_seed_give_the_same_rows(name, stream, budget, seed):
    first, second = (run(stream, (1, 1), ALL[name], budget, seed=seed) for _ in range(2))
    assert np.array_equal(np.concatenate(first.rows), np.concatenate(second.rows))


@given(st.integers(20, 10**6), st.lists(st.integers(1, 20), min_size=1, max_size=60), st.integers(1, 8))
def test_a_partition_is_the_larger_of_its_share_and_one_tokens_experts(budget, layer_bytes, top_k):
    budgets = partition_budgets(budget, layer_bytes, top_k, "layer")
    assert budgets == [max(budget // len(layer_bytes), top_k * size) for size in layer_bytes]


def test_a_global_lru_below_the_other_layers_sweep_never_hits():
    """24 layers, 4 of 32 experts each: between two uses of an expert lie 23 x 4 = 92 others at least.

    With room for 92 it has left when it is used again. With room for one more, the last slot of a layer, if it
    comes first at the next token, is the first to be found again.
    """
    trace = open_trace(data_path("gpt_oss_20b.parquet"))
    steps = list(Plan(trace, Workload(requests=3)))
    ones = [1] * 24
    for capacity in (1, 50, 92):
        assert replay(steps, ones, 32, 4, Lru, capacity).hit_rate() == 0.0
    # 93: still less than one token's own sweep of 96
    assert replay(steps, ones, 32, 4, Lru, 93).hits.sum() > 0
