"""Figures of claims on serving agree with what a run's ledger says."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from experiments.validation.published.machine import scenario_of
from experiments.validation.published.queues import (
    batch_beside,
    experts_per_step,
    free_bytes,
    here_or_coming_gap,
    last_gain,
    memory_bytes,
    percentile_change,
    sorted_share,
)
from simulator.build import build
from simulator.scenario import ScenarioError

TINY = ["model=tiny_moe", "trace=tiny_moe", "platform=rtx_3060"]


def runs(**values):
    return {name: SimpleNamespace(summary=value, requests=value) for name, value in values.items()}


def test_memory_is_that_of_the_ledger_of_a_run():
    batch, context = 3, 48
    lengths = [f"workload.requests={batch}", f"workload.batch_size={batch}", "workload.prompt_tokens=40"]
    scenario = scenario_of([*TINY, *lengths, "workload.decode_tokens=8", "workload.binding=cycle"])
    (memory,) = build(scenario).memories
    held = memory.dense_bytes + memory.kv_bytes + memory.workspace_bytes + memory.cache_bytes
    assert memory_bytes(TINY, 1.0, batch, context) == held
    assert memory_bytes(TINY, 0.5, batch, context) == held - memory.cache_bytes / 2


def test_memory_under_a_layout_is_that_of_all_gpus_and_what_is_free_that_of_one():
    shared = ["model=tiny_moe", "trace=tiny_moe", "platform=two_rtx_3090", "layout.tp=2", "workload.requests=1"]
    lengths = ["workload.prompt_tokens=40", "workload.decode_tokens=8", "workload.binding=cycle"]
    run = build(scenario_of([*shared, *lengths]))
    (memory,) = run.memories
    held = memory.dense_bytes + memory.kv_bytes + memory.workspace_bytes + memory.cache_bytes
    assert memory_bytes(shared, 1.0, 1, 48) == 2 * held
    assert free_bytes(scenario_of(shared), 1.0) == memory.capacity_bytes - (held - memory.kv_bytes)


def test_what_is_free_beside_a_share_of_the_experts_is_just_what_a_run_accepts_as_kv_cache():
    free = free_bytes(scenario_of(TINY), 0.5)
    cache_gib = memory_bytes(TINY, 0.5, 0, 0) - memory_bytes(TINY, 0.0, 0, 0)
    common = [*TINY, "policy/scheduling=continuous", f"cache_gib={cache_gib / 2**30}"]
    build(scenario_of([*common, f"settings.kv_cache_bytes={free}"]))
    with pytest.raises(ScenarioError, match="leave"):
        build(scenario_of([*common, f"settings.kv_cache_bytes={free + 1}"]))


def test_the_batch_grows_as_the_room_does():
    scenario = scenario_of(TINY)
    assert batch_beside(TINY, 1.0, 7) == 7
    assert batch_beside(TINY, 0.5, 1000) == 1000 * free_bytes(scenario, 0.5) // free_bytes(scenario, 1.0)


def test_figures_of_several_runs():
    falling = runs(a={"t": 8.0}, b={"t": 4.0}, c={"t": 4.1}, d={"t": 3.0})
    assert sorted_share(falling, "t") == pytest.approx(2 / 3)
    assert sorted_share(falling, "t", within=0.05) == 1
    assert last_gain(falling, "t") == pytest.approx(1.1 / 5)
    late = runs(a={"latency_s": [1.0, 2.0, 3.0]}, b={"latency_s": [2.0, 4.0, 6.0]})
    assert percentile_change(late, "a", "b", 95) == pytest.approx(-0.5)
    hits = runs(a={"hit_rate": 0.5, "late_rate": 0.25}, b={"hit_rate": 0.5, "late_rate": 0.0})
    assert here_or_coming_gap(hits, "a", "b") == 0.25


def test_a_token_asks_for_its_top_k_experts_in_every_layer():
    one = ["model=gpt_oss_20b", "trace=gpt_oss_20b", "platform=rtx_3090", "cache_gib=4", "workload.requests=1"]
    assert experts_per_step([*one, "workload.max_decode_tokens=4"]) == 4
