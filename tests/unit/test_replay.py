"""Replay: hits and misses of a policy over groups, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.plan import Block, Plan, Step, Workload
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.random_eviction import RandomEviction
from simulator.replay import DECODE, PREFILL, BudgetError, partition_budgets, replay
from simulator.residency import PolicyError
from traces import data_path, open_trace

BLOCK = Block(False, [], [])


def steps(*groups_of_steps: list[list[int]], prefill_steps: int = 0, last: tuple[int, ...] = ()) -> list[Step]:
    """Each argument is a step: the blobs of each layer."""
    return [
        Step(
            batch=0,
            prefill=number < prefill_steps,
            tokens=1,
            requests=[0],
            kv_tokens=[1],
            groups=[(blobs, None) for blobs in groups],
            guesses=None,
            row=0,
            block=BLOCK,
            last=number in last,
        )
        for number, groups in enumerate(groups_of_steps)
    ]


def test_hits_misses_and_bytes_are_counted_by_phase_and_layer():
    # two layers of four experts of 10 and 20 bytes: blobs 0-3 and 4-7; room for everything
    plan = steps([[0, 1], [4]], [[1, 2], [4, 5]], [[0], [6]], prefill_steps=1)
    result = replay(plan, [10, 20], 4, 2, Lru, 1000)
    assert result.hits.tolist() == [[0, 0], [2, 1]]  # decode: 1 and 0 again; 4 again
    assert result.misses.tolist() == [[2, 1], [1, 2]]
    assert result.miss_bytes.tolist() == [[20, 20], [10, 40]]
    assert result.accesses == 9
    assert result.hit_rate() == 3 / 9
    assert (result.hit_rate(PREFILL), result.hit_rate(DECODE)) == (0.0, 3 / 6)


def test_rows_name_step_layer_blob_and_hit_of_every_access():
    result = replay(steps([[1, 0], [4]], [[0, 2], [4]]), [1, 1], 4, 2, Lru, 100, rows=True)
    rows = np.concatenate(result.rows).tolist()
    assert rows == [[0, 0, 1, 0], [0, 0, 0, 0], [0, 1, 4, 0], [1, 0, 0, 1], [1, 0, 2, 0], [1, 1, 4, 1]]


def test_rows_of_a_layer_without_experts_are_none():
    result = replay(steps([[], [4]]), [1, 1], 4, 2, Lru, 100, rows=True)
    assert [rows.shape for rows in result.rows] == [(0, 4), (1, 4)]


def test_a_group_is_looked_up_as_a_whole_before_anything_leaves():
    # room for two: 0 and 1 are there; loading 2 and 3 with 0 may push out 1 only, never 0 of the same group
    result = replay(steps([[0, 1]], [[2, 0]], [[0, 2]]), [1], 4, 2, Lru, 2, rows=True)
    assert np.concatenate(result.rows)[:, 3].tolist() == [0, 0, 0, 1, 1, 1]


def test_a_group_larger_than_the_budget_overflows_it_while_it_runs():
    # room for one: both of a group stay until the next group, which then finds them
    result = replay(steps([[0, 1]], [[0, 1]], [[2]], [[0, 1]]), [1], 4, 2, Lru, 1, rows=True)
    assert np.concatenate(result.rows)[:, 3].tolist() == [0, 0, 1, 1, 0, 0, 0]


def test_layers_with_partitions_of_their_own_do_not_displace_each_other():
    plan = steps([[0], [4, 5]], [[0], [6, 7]], [[0], [4, 5]])
    alone = replay(plan, [1, 1], 4, 1, Lru, 2, scope="layer")
    assert alone.hits.sum(axis=0).tolist() == [2, 0]
    together = replay(plan, [1, 1], 4, 1, Lru, 2, scope="global")
    assert together.hits.sum(axis=0).tolist() == [0, 0]


def test_each_layers_share_is_at_least_one_tokens_experts():
    # 100 bytes over 4 layers is 25 each; two experts of 10 fit, two of 20 need 40
    assert partition_budgets(100, [10, 10, 20, 20], 2, "layer") == [25, 25, 40, 40]
    assert partition_budgets(100, [10, 10, 20, 20], 2, "global") == [100]


def test_a_budget_below_one_expert_is_refused():
    with pytest.raises(BudgetError, match=r"^the cache budget of 19 bytes is smaller than one expert of 20 bytes\.$"):
        partition_budgets(19, [10, 20], 2, "global")
    assert partition_budgets(20, [10, 20], 2, "global") == [20]


def test_an_unknown_scope_is_refused():
    with pytest.raises(BudgetError, match=r"^scope is 'layers'; expected 'global' or 'layer'\.$"):
        replay(steps([[0]]), [1], 4, 1, Lru, 2, scope="layers")


def test_the_policy_hears_of_the_end_of_each_batch_and_of_the_phase():
    heard: list[object] = []

    class Listening(Lru):
        def on_layer(self, blobs, loads, view):
            heard.append((view.group, view.layer, view.prefill, list(blobs), list(loads)))
            super().on_layer(blobs, loads, view)

        def on_sequence_end(self, view):
            heard.append("end")

    replay(steps([[0], [4]], [[0, 1], [4]], prefill_steps=1, last=(1,)), [1, 1], 4, 2, Listening, 9)
    assert heard == [
        (0, 0, True, [0], [0]),
        (1, 1, True, [4], [4]),
        (2, 0, False, [0, 1], [1]),
        (3, 1, False, [4], []),
        "end",
    ]


def test_the_summary_adds_up_and_names_nothing_that_was_not_asked_for():
    summary = replay(steps([[0, 1], []], [[1], []]), [10, 20], 4, 2, Lru, 100).summary()
    assert summary["accesses"] == summary["hits"] + summary["misses"] == 3
    assert summary["loaded_bytes"] == 20
    assert summary["prefill"]["hit_rate"] is None
    assert summary["decode"]["hit_rate"] == 1 / 3
    assert [layer["hit_rate"] for layer in summary["layers"]] == [1 / 3, None]


def test_the_same_seed_gives_the_same_rows_and_another_seed_others():
    rng = np.random.default_rng(0)
    plan = steps(*([rng.permutation(16)[:3].tolist()] for _ in range(200)))

    def rows(seed: int) -> list[list[int]]:
        result = replay(plan, [1], 16, 3, RandomEviction, 8, seed=seed, rows=True)
        return np.concatenate(result.rows).tolist()

    assert rows(5) == rows(5)
    assert rows(5) != rows(6)


def test_a_policy_that_names_no_victim_is_refused_instead_of_overflowing_the_budget():
    class Hoarder(Lru):
        def victims(self, need_bytes, incoming, view):
            return []

    plan = Plan(open_trace(data_path("olmoe_1b_7b.parquet")), Workload())
    with pytest.raises(PolicyError, match=r"policy/cache Hoarder left \d+ bytes more than its budget"):
        replay(plan, [1] * 16, 64, 8, Hoarder, 200)


def test_a_policy_that_forgets_to_forget_still_names_only_what_is_here():
    class Forgetful(Lru):
        def on_evict(self, blob):
            pass

    plan = Plan(open_trace(data_path("olmoe_1b_7b.parquet")), Workload())
    forgetful, lru = (replay(plan, [1] * 16, 64, 8, policy, 200) for policy in (Forgetful, Lru))
    assert forgetful.hits.sum() == lru.hits.sum() > 0
