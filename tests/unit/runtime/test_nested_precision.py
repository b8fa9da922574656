"""Experts that are kept whole and read in part."""

from __future__ import annotations

from functools import partial

import pytest

from hwmodels import time_s
from simulator.plan import Workload
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.precision.read_by_score import ReadByScore
from simulator.scenario import ScenarioError
from tests.helpers import EXPERT_BYTES, run, system, tiny_model, tiny_platform, tiny_trace

IDS = [[[[0, 1]], [[2, 3]]]]  # two tokens of one request, one layer
WEIGHTS = [[[[0.7, 0.3]], [[0.4, 0.6]]]]


def test_the_lighter_expert_of_a_token_is_read_at_half_its_bytes() -> None:
    """The share of weight before it is above 0.5: half of its bytes; nothing is loaded or kept twice."""
    model, platform = tiny_model(layers=1), tiny_platform(launch_s=0.0)
    trace = tiny_trace(IDS, weights=WEIGHTS)
    halves = system(placement=PopularFirst, precision=partial(ReadByScore, low_bits=8.0, high_below=0.5))
    plain = run(model, trace, platform, system(placement=PopularFirst))
    found = run(model, trace, platform, halves)
    gpu = platform.device("gpu0")
    saved_s = float(time_s(model.expert_work(1), gpu) - time_s(model.with_experts_bits(8).expert_work(1), gpu))
    for before, after in zip(plain.records, found.records, strict=True):
        shorter_ps = before.end_ps - before.start_ps - (after.end_ps - after.start_ps)
        assert shorter_ps == pytest.approx(saved_s * 1e12, abs=2)
        assert (after.hits, after.loads) == (2, 0)
    tier = found.run.tiers[0]
    assert sum(tier.sizes[blob] for blob, slot in enumerate(tier.slots) if slot is not None) == 4 * EXPERT_BYTES
    assert found.run.memories[0].cache_bytes == 4 * EXPERT_BYTES
    assert found.run.workers[0].processed.expert_bytes[0] == 2 * (EXPERT_BYTES + EXPERT_BYTES // 2)
    assert found.summary["low_precision_weight_share"] == pytest.approx((0.3 + 0.4) / 2)


def test_an_expert_is_read_whole_if_it_matters_to_one_of_its_tokens() -> None:
    """Both requests choose experts 0 and 1, which each matter to one of them."""
    model, platform, both = tiny_model(layers=1), tiny_platform(launch_s=0.0), Workload(batch_size=2)
    trace = tiny_trace([[[[0, 1]]], [[[0, 1]]]], weights=[[[[0.7, 0.3]]], [[[0.3, 0.7]]]])
    plain = run(model, trace, platform, system(placement=PopularFirst), both)
    found = run(model, trace, platform, system(placement=PopularFirst, precision=ReadByScore), both)
    assert [r.end_ps for r in found.records] == [r.end_ps for r in plain.records]


def test_where_experts_may_run_elsewhere_reading_in_part_is_refused() -> None:
    elsewhere = system(execution=CpuInPlace, precision=ReadByScore)
    with pytest.raises(ScenarioError, match="expected policy/execution=fetch"):
        run(tiny_model(layers=1), tiny_trace(IDS, weights=WEIGHTS), tiny_platform(), elsewhere)
