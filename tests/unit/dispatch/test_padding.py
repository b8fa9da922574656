"""Capacity, what goes beyond it, and the work and memory of both implementations, worked out by hand."""

import numpy as np
import pytest

from simulator.dispatch import DynamicDispatch, StaticDispatch
from simulator.dispatch.capacity import beyond_capacity, capacity_rows, waste_factor
from simulator.dispatch.work import dynamic_bytes, einsum_works, mask_work, scatter_works, static_bytes
from simulator.plan import Workload
from simulator.policies.pipeline.static_capacity import StaticCapacity
from tests.helpers import HIDDEN, WIDTH, random_trace, run, system, tiny_model, tiny_platform, tiny_trace


def test_padded_rows_over_routed_ones_are_those_of_the_publication():
    assert waste_factor(512, 2, 0.05) == pytest.approx(12.8)
    assert waste_factor(128, 2, 1.0) == 64
    rows = 512 * capacity_rows(4000, 0.05)  # 200 each
    assert rows / (2 * 4000) == pytest.approx(12.8)


def test_capacity_is_a_share_of_all_tokens_rounded_up():
    assert [capacity_rows(tokens, 0.05) for tokens in (0, 1, 20, 21, 4096)] == [0, 1, 1, 2, 205]


def test_first_choices_take_their_places_before_second_ones():
    """Expert 0: first choices of tokens 1 and 2, then the second of token 0. Expert 1: token 0's first, 1's second."""
    ids = np.array([[1, 0], [0, 1], [0, 3], [2, -1]])
    assert beyond_capacity(ids, 2).tolist() == [[False, True], [False, False], [False, False], [False, False]]
    assert beyond_capacity(ids, 1).tolist() == [[False, True], [False, True], [True, False], [False, False]]


def test_what_is_beyond_is_load_less_capacity():
    rng = np.random.default_rng(3)
    ids = np.argsort(rng.random((50, 6)), axis=1)[:, :2]
    loads = np.bincount(ids.ravel(), minlength=6)
    for capacity in (0, 5, 17, 100):
        assert beyond_capacity(ids, capacity).sum() == np.maximum(loads - capacity, 0).sum()


def test_einsums_are_dense_and_masks_are_passed_over_seven_times():
    into, back = einsum_works(tokens=10, experts=4, capacity=3, hidden=8, dtype="fp16")
    assert into.flops == back.flops == 2 * 10 * 4 * 3 * 8
    assert into.size_bytes == back.size_bytes == 2 * (10 * 8 + 4 * 3 * 8 + 4 * 3 * 10)
    # two products written, both read and their sum written, compared, both masks cast to half precision
    assert mask_work(10, 4, 3, 2, "fp16").size_bytes == 120 * (8 + 8 + 4 + 4 + 1 + 4 + 2 + 1 + 2)


def test_rows_moved_by_index_are_read_and_written_once():
    into, back = scatter_works(tokens=10, rows=12, top_k=2, hidden=8, dtype="fp16")
    assert into.size_bytes == (20 + 12) * 16
    assert back.size_bytes == (20 + 10) * 16


def test_activation_memory_of_the_published_language_model():
    """8 sequences of 512 tokens, 512 experts, capacity 205: three fp32 masks are the peak; dynamic, 4 x 8192 rows."""
    static = static_bytes(4096, 512, 205, 2, 1024, 4096, 8)
    assert static == 3 * 4 * 4096 * 512 * 205
    assert dynamic_bytes(4096, 2, 1024, 4096, 64) == 4 * 8192 * 1024 * 2 + 2 * 128 * 4096 * 2
    without = static_bytes(4096, 512, 205, 2, 1024, 4096, 8, einsum=False)
    assert without == 3 * 512 * 205 * 1024 * 2 + 2 * 8 * 205 * 4096 * 2


@pytest.mark.parametrize("workers", [1, 2])
def test_a_run_reserves_the_activations_of_its_largest_step(workers):
    """Three prompts of 5 tokens: 15 on one GPU, or 10 on the first of two."""
    trace = random_trace(1, 3, 5, 2, 4, 2, prompt=5)
    result = run(tiny_model(), trace, tiny_platform(workers), system(pipeline=StaticCapacity), Workload(batch_size=3))
    tokens = 15 if workers == 1 else 10
    expected = static_bytes(tokens, 4, tokens, 2, HIDDEN, WIDTH, workers)
    assert result.run.memories[0].workspace_bytes == expected


def test_dropped_weight_is_that_of_choices_beyond_the_capacity():
    """One worker, four tokens at once, all with expert 0 first (weight 0.75) and another expert (0.25): one place each
    with a factor of 0.25, so three of the four lose their first choice and two of three lose expert 1."""
    ids = [[[[0, 1]], [[0, 1]], [[0, 1]], [[0, 2]]]]
    weights = [[[[0.75, 0.25]]] * 4]
    trace = tiny_trace(ids, prompts=[4], weights=weights)
    choice = system(pipeline=lambda: StaticCapacity(0.25))
    result = run(tiny_model(layers=1), trace, tiny_platform(), choice)
    assert result.summary["dropped_weight_share"] == pytest.approx((3 * 0.75 + 2 * 0.25) / 4)


def test_capacity_counts_for_each_worker_apart():
    """Two workers with one token each: a place for each of them, though both choose expert 0."""
    trace = tiny_trace([[[[0, 1]]], [[[0, 1]]]])
    choice = system(pipeline=lambda: StaticCapacity(1.0))
    result = run(tiny_model(layers=1), trace, tiny_platform(2), choice, Workload(batch_size=2))
    assert result.summary["dropped_weight_share"] == 0
    assert sum(record.hits + record.loads for record in result.records) == 4


def test_a_factor_must_be_a_share():
    for factor in (0.0, 1.5):
        with pytest.raises(ValueError, match=r"policy\.pipeline\.capacity_factor"):
            StaticCapacity(factor)


def test_both_say_what_they_do():
    model = tiny_model()
    assert "2 times the routed rows" in StaticDispatch(model, 1, 1.0).remark()
    assert "dynamic gating" in DynamicDispatch(model, 1).remark()
