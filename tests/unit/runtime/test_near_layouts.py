"""Units near memory beside other things: layouts, instances, ways of gating."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial

import numpy as np
import pytest

from hwmodels import Platform
from simulator.layout_choice import LayoutChoice
from simulator.model_attention import AttentionSpec
from simulator.plan import Workload
from simulator.policies.attention.near_decode import NearDecode
from simulator.policies.execution.near_all import AllNear
from simulator.policies.execution.near_greedy import NearGreedy
from simulator.policies.pipeline.dynamic_gating import DynamicGating
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.continuous import Continuous
from simulator.result import simulate
from simulator.scenario import Scenario, ScenarioError, Settings, Tenants
from tests.helpers import EXPERT_BYTES, HIDDEN, WIDTH, random_trace, run, system, tiny_model, tiny_platform
from tests.limits.energy_check import priced
from tests.limits.test_near_memory import machine

MODEL = replace(tiny_model(3, 8, 2), attention={"full": AttentionSpec(heads=8, kv_heads=8, head_dim=4)})
BATCH = Workload(requests=4, batch_size=4)


@cache
def two_dies() -> Platform:
    """Two GPUs, each with a unit over its memory."""
    platform = priced(tiny_platform(2, gpu_bytes_per_s=1e9))
    die = replace(machine(own=True).devices["near0"], memory_read_bytes_per_s=3e9, flop_pj={"fp16": 1.0})
    devices = dict(platform.devices)
    for number in (0, 1):
        gpu = devices[f"gpu{number}"]
        devices[gpu.name] = replace(gpu, internal_bytes_per_s=4e9)
        devices[f"die{number}"] = replace(die, name=f"die{number}", memory=gpu.name)
    return replace(platform, devices=devices, units=("die0", "die1"))


def spread(layout: LayoutChoice | None, execution: type = AllNear, **roles: type):
    trace = random_trace(1, 5, 5, 3, 8, 2, prompt=2)
    made = system(execution=execution, placement=PopularFirst, **roles)
    return run(MODEL, trace, two_dies(), made, BATCH, layout, cache_bytes=32 * EXPERT_BYTES)


@pytest.mark.parametrize("execution", [AllNear, NearGreedy])
@pytest.mark.parametrize("attention", [{}, {"attention": NearDecode}])
def test_one_unit_stands_for_those_of_gpus_that_do_the_same(execution, attention):
    one, each = (spread(LayoutChoice(tp=2, mirrored=m), execution, **attention) for m in (True, False))
    assert (len(one.run.workers), len(each.run.workers)) == (1, 2)
    ends = [[record.end_ps for record in result.run.workers[0].records] for result in (one, each)]
    np.testing.assert_allclose(*ends, rtol=1e-7)
    energies = [{name: part.energy_j.sum() for name, part in result.energy.groupby("where")} for result in (one, each)]
    assert energies[0] == pytest.approx(energies[1], rel=1e-6)
    assert energies[0]["die0"] > 0


def test_units_of_a_layout_read_slices_of_experts_and_whole_hidden_vectors():
    whole, half = (spread(layout) for layout in (None, LayoutChoice(tp=2)))
    read = [sum(lane.requested_bytes for lane in r.run.fabric.lanes if lane.category == "ndp") for r in (whole, half)]
    plan = whole.run.plan
    runs, tokens = sum(len(blobs) for step in plan for blobs, _ in step.groups), plan.tokens * 2 * 3
    assert read == [
        runs * EXPERT_BYTES + tokens * (2 * HIDDEN + 2 * WIDTH) * 2,
        runs * EXPERT_BYTES // 2 + tokens * (2 * HIDDEN + WIDTH) * 2,
    ]


def test_what_units_do_not_go_with_is_refused():
    trace = random_trace(1, 5, 5, 3, 8, 2)
    far = replace(two_dies().devices["die0"], name="far", memory="dram")
    away = replace(two_dies(), units=("far",), devices={**two_dies().devices, "far": far})
    with pytest.raises(ScenarioError, match=r"^policy/execution AllNear uses units near memory under a layout.*'far'"):
        run(MODEL, trace, away, system(execution=AllNear), BATCH, LayoutChoice(tp=2))
    with pytest.raises(ScenarioError, match=r"policy/pipeline DynamicGating has none; expected plain\.$"):
        run(MODEL, trace, two_dies(), system(execution=AllNear, pipeline=DynamicGating), BATCH)
    one = machine(own=True, gpu=1e9, units=(4e9,), inside=5e9)
    made = system(attention=NearDecode, scheduling=partial(Continuous, max_batch=4))
    with pytest.raises(ScenarioError, match=r"attention of one model near memory.* the 2 instances\.$"):
        simulate(Scenario(MODEL, trace, one, made, settings=Settings(workspace_bytes=0), tenants=Tenants(2)))
