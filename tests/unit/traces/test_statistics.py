"""Statistics on traces so small that the numbers can be worked out in view."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from traces import RequestTrace, TraceError, TraceMeta, TraceWriter, open_trace
from traces.statistics import BY_LAYER, KEYS, summarise
from traces.statistics.belady import BeladyDepths, FirstUses
from traces.statistics.counting import expert_counts, places, shared_mass
from traces.statistics.load import gini, max_over_mean, variation
from traces.statistics.lru import LruDepths
from traces.statistics.overlap import chance_overlap, common
from traces.statistics.reuse import reuse_distances
from traces.statistics.transitions import mutual_information_bits, transition_counts
from traces.statistics.weights import concentration


def request(experts: Any, number: int = 0, **fields: Any) -> RequestTrace:
    """A request of decode tokens from nested lists [tokens][layers][slots]."""
    ids = np.asarray(experts, dtype=np.int16)
    tokens = len(ids)
    phases = np.ones(tokens, dtype=np.int8)
    return RequestTrace(
        **{"id": number, "positions": np.arange(tokens, dtype=np.int32), "phases": phases, "experts": ids, **fields}
    )


@pytest.fixture
def statistics(tmp_path: Path) -> Callable[..., dict[str, Any]]:
    """Statistics of a trace with these requests (and their tasks)."""

    def make(
        requests: Sequence[RequestTrace], num_experts: int, tasks: Sequence[str | None] | None = None, **fields: Any
    ) -> dict[str, Any]:
        _, layers, top_k = requests[0].experts.shape
        meta = TraceMeta(
            model="toy", num_experts=num_experts, top_k=top_k, native_top_k=top_k, layers=tuple(range(layers)), **fields
        )
        with TraceWriter(tmp_path / "toy.parquet", meta) as writer:
            for index, one in enumerate(requests):
                writer.write(one, tasks[index] if tasks else None)
        return summarise(open_trace(tmp_path / "toy.parquet"))

    return make


def random_experts(tokens: int, layers: int, slots: int, num_experts: int, seed: int, empty: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    ids = rng.random((tokens, layers, num_experts)).argsort(axis=2)[:, :, :slots].astype(np.int16)
    ids[rng.random(ids.shape) < empty] = -1
    return ids


def test_equal_loads_are_even_and_a_single_loaded_expert_is_as_uneven_as_can_be() -> None:
    counts = np.array([[5, 5, 5, 5], [20, 0, 0, 0]])
    assert variation(counts) == pytest.approx([0.0, 3**0.5])  # of four, one has it all: sqrt(E - 1)
    assert max_over_mean(counts) == pytest.approx([1.0, 4.0])
    assert gini(counts) == pytest.approx([0.0, 3 / 4])  # 1 - 1 / E


def test_experts_of_equal_score_rank_by_id_and_an_empty_slot_comes_last() -> None:
    scores = np.array([[1.0], [3.0], [1.0], [2.0]])
    assert places(scores, np.array([[1], [3], [0], [2], [-1]])).ravel().tolist() == [0, 1, 2, 3, 4]


def test_similarity_is_one_for_the_same_shares_and_zero_for_other_experts() -> None:
    counts = np.array([[2, 2, 0, 0]])
    assert shared_mass(counts, 3 * counts) == pytest.approx(1.0)
    assert shared_mass(counts, counts[:, ::-1]) == pytest.approx(0.0)
    assert shared_mass(counts, np.array([[1, 0, 1, 0]])) == pytest.approx(0.5)


def test_shared_experts_are_counted_whatever_their_slot_and_empty_slots_share_nothing() -> None:
    earlier = np.array([[[0, 1]], [[2, -1]], [[-1, -1]]])
    later = np.array([[[1, 3]], [[-1, 2]], [[4, 5]]])
    shared, asked = common(earlier, later)
    assert (shared.tolist(), asked.tolist()) == ([2], [3])  # 1 of two, 2 of one; the third pair has no earlier experts


def test_the_expected_overlap_of_shuffled_tokens_is_the_mean_over_all_permutations() -> None:
    experts = random_experts(200, 3, 2, 7, seed=1)
    counts, tokens = expert_counts(experts, 7), np.full(3, 200)
    rng = np.random.default_rng(2)
    drawn = []
    for _ in range(200):
        mixed = experts[rng.permutation(200)]
        shared, asked = common(mixed[:-1], mixed[1:])
        drawn.append(shared / asked)
    assert chance_overlap(counts, tokens) == pytest.approx(np.mean(drawn, axis=0), abs=0.004)


def test_reuse_distances_are_in_positions_and_first_uses_have_none() -> None:
    experts = np.array([[0, 1], [1, 2], [0, -1], [0, 2]])
    distances = reuse_distances(experts, np.array([0, 1, 2, 9]))
    assert sorted(distances.tolist()) == [1, 2, 7, 8]  # expert 1: 1; expert 0: 2, 7; expert 2: 8


def hits_of(policy: str, ids: Sequence[int], size: int) -> int:
    """Hits of one cache, by the book: a list in order of recency, or of what is needed last."""
    cache: list[int] = []
    hits = 0
    for now, expert in enumerate(ids):
        hits += expert in cache
        if expert in cache:
            cache.remove(expert)
        elif len(cache) == size:
            ahead = list(ids[now + 1 :])
            if policy == "lru":
                cache.pop(0)
            else:
                cache.remove(max(cache, key=lambda held: ahead.index(held) if held in ahead else len(ahead)))
        cache.append(expert)
    return hits


@pytest.mark.parametrize(
    ("tokens", "layers", "slots", "num_experts"), [(60, 2, 2, 5), (90, 1, 1, 8), (40, 3, 3, 9), (3, 2, 1, 6)]
)
@pytest.mark.parametrize("empty", [0.0, 0.15])
def test_hits_of_every_size_are_those_of_caches_by_the_book_however_the_trace_is_cut(
    tokens: int, layers: int, slots: int, num_experts: int, empty: float
) -> None:
    experts = random_experts(tokens, layers, slots, num_experts, seed=3, empty=empty)
    for block in (7, tokens):
        pieces = [experts[start : start + block] for start in range(0, tokens, block)]
        lru, first = LruDepths(layers, num_experts), FirstUses(layers, num_experts)
        for piece in pieces:
            lru.add(piece)
            first.add(piece)
        belady = BeladyDepths(layers, num_experts, first.after())
        for piece in pieces:
            belady.add(piece)
        found = {"lru": lru.counts, "belady": belady.counts()}
        for layer in range(layers):
            ids = [int(expert) for expert in experts[:, layer].ravel() if expert >= 0]
            assert lru.accesses[layer] == len(ids)
            for policy, counts in found.items():
                hits = counts[layer].cumsum().tolist()
                assert hits == [hits_of(policy, ids, size) for size in range(1, num_experts + 1)]


def test_a_cycle_longer_than_the_cache_never_hits_with_lru_and_mostly_with_belady(statistics: Callable) -> None:
    cycle = np.arange(80)[:, None, None] % 4  # experts 0 1 2 3 0 1 2 3 ... of one layer
    found = statistics([request(cycle)], 4)
    assert found["lru_hit_rate"]["0.75"] == 0.0
    assert found["lru_hit_rate"]["1"] == pytest.approx(76 / 80)
    # with room for three, Belady misses every third access once it is warm: C - 1 hits of E - 1
    assert found["belady_hit_rate"]["0.75"] == pytest.approx(2 / 3, abs=0.03)
    assert (found["consecutive_overlap"], found["overlap_by_lag"]["4"]) == (0.0, 1.0)
    assert found["reuse_within"]["2"] == 0.0
    assert found["reuse_within"]["4"] == pytest.approx(76 / 80)


def test_information_is_the_entropy_of_a_copied_layer_and_nothing_of_an_independent_one() -> None:
    assert mutual_information_bits(np.diag([5, 5, 5, 5])) == pytest.approx(2.0)
    assert mutual_information_bits(np.full((4, 4), 3)) == pytest.approx(0.0)
    assert np.isnan(mutual_information_bits(np.zeros((4, 4))))
    counts = transition_counts(np.array([[0, 1], [2, -1]]), np.array([[1, 2], [0, -1]]), 3)
    assert counts.tolist() == [[0, 1, 1], [0, 1, 1], [1, 0, 0]]


def test_a_layer_that_copies_the_one_before_is_foreseen_by_its_table_and_not_by_popularity(
    statistics: Callable,
) -> None:
    first = [random_experts(50, 1, 1, 8, seed) for seed in range(4)]
    found = statistics([request(np.concatenate([ids, (ids + 3) % 8], axis=1), n) for n, ids in enumerate(first)], 8)
    assert found["next_layer_recall"] == 1.0
    assert found["popularity_recall"] < 0.3  # one of eight
    assert found["next_layer_information_bits"] == pytest.approx(3.0, abs=0.1)  # log2 8
    assert found["next_layer_information_bits_shuffle"] < 0.4


def test_a_request_is_guessed_from_the_others_only(statistics: Callable) -> None:
    own = [request(np.full((5, 2, 1), number), number) for number in range(3)]  # each has an expert to itself
    found = statistics(own, 4)
    assert found["next_layer_recall"] == pytest.approx(1 / 3)  # nothing is known: expert 0 is guessed for all
    assert statistics(own[:1], 4)["next_layer_recall"] is None
    assert found["request_similarity"] == 1.0
    assert found["other_request_similarity"] == 0.0


def test_requests_of_a_task_are_alike_where_the_task_decides_the_expert(statistics: Callable) -> None:
    requests = [request(np.full((6, 1, 1), number % 2), number) for number in range(4)]
    found = statistics(requests, 4, tasks=["even", "odd", "even", "odd"])
    assert (found["same_task_similarity"], found["other_task_similarity"]) == (1.0, 0.0)
    assert found["other_request_similarity"] == pytest.approx(4 / 12)  # 4 of 12 ordered pairs share a task
    assert statistics(requests, 4)["same_task_similarity"] is None


def test_a_request_that_changes_its_experts_half_way_drifts_and_its_shuffle_does_not(statistics: Callable) -> None:
    found = statistics([request(np.repeat([0, 1], 40).reshape(80, 1, 1))], 4)
    assert found["quarter_similarity"] == {"2": 1.0, "3": 0.0, "4": 0.0}
    assert found["quarter_similarity_shuffle"]["4"] > 0.5
    assert (found["request_similarity"], found["request_similarity_shuffle"] > 0.5) == (0.0, True)


def test_perfect_guesses_have_recall_one_and_those_of_other_tokens_less(statistics: Callable) -> None:
    experts = random_experts(40, 3, 2, 8, seed=5)
    guesses = np.full((40, 3, 2, 2), -1, dtype=np.int16)
    guesses[:, :2, 0] = experts[:, 1:]
    guesses[:, 0, 1] = experts[:, 2, ::-1]
    found = statistics([request(experts, guesses=guesses)], 8, guess_distances=2, guess_width=2)
    assert found["look_ahead_recall"] == {"1": 1.0, "2": 1.0}
    assert max(found["look_ahead_recall_shuffle"].values()) < 0.5
    assert len(found["by_layer"]["look_ahead_recall"]) == 2


def test_weights_are_concentrated_by_their_largest_share_and_entropy(statistics: Callable) -> None:
    share, bits = concentration(np.array([[2.0, 2.0], [1.0, 0.0], [3.0, 1.0]]))
    assert share == pytest.approx([0.5, 1.0, 0.75])
    assert bits == pytest.approx([1.0, 0.0, 2 - 0.75 * np.log2(3)])
    weights = np.array([[[0.75, 0.25]], [[np.nan, 0.5]]], dtype=np.float32)
    found = statistics([request([[[0, 1]], [[1, 2]]], weights=weights)], 4, has_weights=True)
    assert found["weight_top_share"] == 0.75  # the token with an unknown weight does not count


def test_prefill_and_decode_are_told_apart_where_both_exist(statistics: Callable) -> None:
    experts = np.array([0, 0, 0, 1, 2, 1]).reshape(6, 1, 1)
    found = statistics([request(experts, phases=np.array([0, 0, 0, 1, 1, 1], dtype=np.int8))], 4)
    assert found["phases"]["prefill"]["consecutive_overlap"] == 1.0
    assert found["phases"]["decode"]["consecutive_overlap"] == 0.0
    assert found["phases"]["decode"]["consecutive_overlap_within_request_shuffle"] == pytest.approx(1 / 3)
    assert found["phase_similarity"] == 0.0
    assert statistics([request(experts)], 4)["phases"] is None


def test_tokens_that_are_not_neighbours_are_no_consecutive_tokens(statistics: Callable) -> None:
    found = statistics([request([[[0]], [[0]], [[1]]], positions=np.array([0, 5, 6], dtype=np.int32))], 2)
    assert found["consecutive_overlap"] == 0.0  # of the one pair at positions 5 and 6


def test_every_key_is_explained_and_every_explained_key_is_there(statistics: Callable) -> None:
    found = statistics([request(random_experts(9, 2, 2, 5, seed), seed) for seed in range(2)], 5)
    assert set(found) == set(KEYS)
    assert set(found["by_layer"]) <= set(KEYS) | set(BY_LAYER)


def test_the_smallest_trace_has_no_value_where_there_is_nothing_to_compare(statistics: Callable) -> None:
    found = statistics([request([[[1]]])], 2)
    assert found["consecutive_overlap"] is None
    assert found["lru_hit_rate"]["1"] == 0.0
    assert found["consecutive_overlap_uniform"] == 0.5
    assert (found["next_layer_information_bits"], found["quarter_similarity"]) == (None, None)


def test_what_cannot_be_read_is_refused(toy_trace: Path) -> None:
    trace = open_trace(toy_trace)
    with pytest.raises(TraceError, match="requests is 0; expected at least 1"):
        summarise(trace, requests=0)
    with pytest.raises(TraceError, match="seed is -1; expected at least 0"):
        summarise(trace, seed=-1)


def test_the_first_requests_alone_are_a_trace_of_these_alone(statistics: Callable, tmp_path: Path) -> None:
    requests = [request(random_experts(20, 2, 2, 6, seed), seed) for seed in range(3)]
    alone = statistics(requests[:2], 6)
    statistics(requests, 6)
    some = summarise(open_trace(tmp_path / "toy.parquet"), requests=2)
    assert {**some, "digest": ""} == {**alone, "digest": ""}
