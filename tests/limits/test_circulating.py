"""Slices of experts that circulate over chiplets, against closed forms. An expert of the tiny model has 12288 bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import Platform
from simulator.plan import Workload
from simulator.policies.pipeline.expert_streaming import ExpertStreaming
from simulator.policies.placement.popular import PopularFirst
from simulator.runtime.circulating import circulate
from simulator.scenario import ScenarioError
from tests.helpers import EXPERT_BYTES, HIDDEN, WIDTH, run, shipped, system, tiny_model, tiny_platform, tiny_trace

VECTORS = (2 * HIDDEN + 2 * WIDTH) * 2  # bytes of a token at an expert
FLOPS = 2 * 3 * HIDDEN * WIDTH
STREAMING = partial(ExpertStreaming, sram_bytes=4 * 512, slice_bytes=512)


def chips(flop_per_s: float = 1e15, memory: float = 1e9, link: float = 1e15) -> Platform:
    """The four chiplets of the preset with these rates and no latency."""
    found = Platform.from_mapping(shipped("platform", "fse_dp"), "fse_dp")
    chip = {"peak_flop_per_s": {"bf16": flop_per_s}, "memory_read_bytes_per_s": memory}
    devices = {name: replace(d, **chip) if d.kind == "gpu" else d for name, d in found.devices.items()}
    links = [replace(line, bandwidth_bytes_per_s=link, latency_s=0.0) for line in found.links]
    return replace(found, devices=devices, links=tuple(links))


def layer_s(platform: Platform, chosen: list[int], pipeline=STREAMING, experts: int = 4) -> float:
    """What a layer takes in which request i chooses chosen[i], beyond one whose dense part is the same."""
    trace = tiny_trace([[[[expert]]] for expert in chosen], experts)
    model = tiny_model(layers=1, experts=experts, top_k=1)
    choice = system(placement=PopularFirst, pipeline=pipeline) if pipeline else system(placement=PopularFirst)
    found = run(model, trace, platform, choice, Workload(batch_size=len(chosen)))
    mine = list(range(0, len(chosen), 4))
    dense, tail = found.run.workers[0].dense.table(next(iter(found.run.plan)).block, mine)[0]
    return (found.records[0].end_ps - dense[0] - tail[0]) / 1e12


def test_one_expert_streams_from_all_memories_at_once() -> None:
    """Four tokens of four chiplets choose one expert: its bytes in a quarter of the time that its owner takes."""
    own_s, streamed_s = layer_s(chips(), [0] * 4, pipeline=None), layer_s(chips(), [0] * 4)
    assert own_s == pytest.approx((EXPERT_BYTES + 4 * VECTORS) / 1e9, rel=1e-3)
    assert streamed_s == pytest.approx((EXPERT_BYTES / 4 + VECTORS) / 1e9, rel=1e-3)


def test_slow_links_bind_with_three_quarters_of_an_expert_half_in_each_direction() -> None:
    took_s = layer_s(chips(memory=1e12, link=1e8), [0] * 4)
    assert took_s == pytest.approx(3 / 2 * (EXPERT_BYTES / 4) / 1e8, rel=0.01)


def test_slow_arithmetic_binds_with_the_tokens_of_the_busiest_chiplet() -> None:
    """Chiplets have two tokens each; those of the first choose expert 0 both, which sets the pace of its slices."""
    chosen = [0, 0, 1, 1, 0, 1, 0, 1]  # request i is on chiplet i mod 4
    took_s = layer_s(chips(flop_per_s=1e6, memory=1e12), chosen)
    assert took_s == pytest.approx((2 + 2) * FLOPS / 1e6, rel=0.01)


def test_every_byte_of_an_expert_is_read_once_by_all_together() -> None:
    trace = tiny_trace([[[[expert]]] for expert in [0, 1, 0, 3]], 4)
    model = tiny_model(layers=1, experts=4, top_k=1)
    choice = system(placement=PopularFirst, pipeline=STREAMING)
    found = run(model, trace, chips(), choice, Workload(batch_size=4))
    costs = [worker.slices for worker in found.run.workers]
    assert sum(cost.size_bytes[0] for cost in costs) == 3 * EXPERT_BYTES + 4 * VECTORS
    assert sum(cost.flops[0] for cost in costs) == 4 * FLOPS
    assert all(transfer.category != "all_to_all" for transfer in found.run.fabric.lanes if transfer.requested_bytes)


ROUNDS = st.lists(st.tuples(*[st.integers(0, 50)] * 3), min_size=1, max_size=20)


@settings(max_examples=50, deadline=None)
@given(ROUNDS, st.integers(1, 6))
def test_more_room_is_never_slower_and_nothing_beats_what_binds(rounds: list, ahead: int) -> None:
    took = circulate(rounds, ahead)
    assert circulate(rounds, ahead + 1) <= took
    assert took >= max(sum(load for load, _, _ in rounds), sum(max(move, compute) for _, move, compute in rounds))
    if ahead == 1:
        assert took == sum(load + max(move, compute) for load, move, compute in rounds)


def test_what_goes_without_circulation_is_refused() -> None:
    with pytest.raises(ValueError, match="expected room for three slices of at least 256 bytes"):
        ExpertStreaming(sram_bytes=512, slice_bytes=256)
    both = system(placement=type("Cut", (PopularFirst,), {"slices": True}), pipeline=STREAMING)
    with pytest.raises(ScenarioError, match="expected policy/placement of whole experts"):
        run(tiny_model(1, 4, 1), tiny_trace([[[[0]]], [[[1]]]]), tiny_platform(2), both, Workload(batch_size=2))
