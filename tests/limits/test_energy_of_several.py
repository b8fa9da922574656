"""Energy where several processors share the work: GPUs of a layout, and units near memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial

import pytest

from hwmodels import Platform
from simulator.energy.account import Entry, total_pj
from simulator.layout_choice import LayoutChoice
from simulator.model_attention import AttentionSpec
from simulator.plan import Workload
from simulator.policies.attention.near_decode import NearDecode
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.execution.near_all import AllNear
from simulator.policies.pipeline.dynamic_gating import DynamicGating
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.continuous import Continuous
from simulator.result import Result, simulate
from tests.helpers import (
    EXPERT_BYTES,
    HIDDEN,
    WIDTH,
    random_trace,
    run,
    shipped,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)
from tests.limits.energy_check import priced
from tests.limits.test_near_memory import machine
from tests.unit.pools.test_pools import scenario, two

MODEL = replace(tiny_model(4, 8, 2), attention={"full": AttentionSpec(heads=8, kv_heads=8, head_dim=4)})
BATCH = Workload(requests=4, batch_size=4)
DIE_PJ, BUFFER_PJ = 1.0, 2.0  # of a unit near memory: an operation, a bit


def spread(gpus: int, layout: LayoutChoice | None, cache: int = 12, **roles: object) -> Result:
    trace = random_trace(1, 5, 5, 4, 8, 2, prompt=2)
    room = {"cache_bytes": cache * EXPERT_BYTES}
    return run(MODEL, trace, priced(tiny_platform(gpus)), system(**roles), BATCH, layout, **room)


def amounts(result: Result, *fields: str) -> Counter[tuple[str, ...]]:
    """Operations and bytes by these fields of the entries."""
    assert result.energy_report.missing == ""
    found: Counter[tuple[str, ...]] = Counter()
    for entry in result.energy_report.entries:
        if entry.by != "background":
            found[tuple(getattr(entry, field) for field in fields)] += entry.amount
    return found


def close(one: Counter[tuple[str, ...]], other: Counter[tuple[str, ...]]) -> None:
    assert set(one) == set(other)
    for key, amount in one.items():
        assert other[key] == pytest.approx(amount, rel=1e-9), key


@pytest.mark.parametrize("gpus", [2, 4])
@pytest.mark.parametrize("choice", [{"tp": 0}, {"tp": 0, "moe_ep": 2}, {"tp": 2, "attention_dp": 0}, {"pp": 2}])
@pytest.mark.parametrize("execution", [None, partial(CpuInPlace, 32)])
def test_one_gpu_pays_for_those_that_do_the_same(gpus, choice, execution):
    choice = {key: value or (gpus if key == "tp" else gpus // 2) for key, value in choice.items()}
    roles = {} if execution is None else {"execution": execution, "placement": PopularFirst}
    cache = 12 if execution is None else 3
    one, each = (spread(gpus, LayoutChoice(**choice, mirrored=m), cache, **roles) for m in (True, False))
    if execution is not None:  # the host is asked once for what GPUs that do the same are missing
        for result in (one, each):
            assert amounts(result, "where", "by")["cpu", "compute"] > 0
        assert amounts(one, "by", "part")["compute", "experts"] == amounts(each, "by", "part")["compute", "experts"]
        return
    close(amounts(one, "where", "by", "part", "phase"), amounts(each, "where", "by", "part", "phase"))
    assert total_pj(one.energy_report.entries) == pytest.approx(total_pj(each.energy_report.entries), rel=1e-6)


@pytest.mark.parametrize("choice", [{"tp": 2}, {"attention_dp": 2}, {"pp": 2}, {"tp": 4}, {"tp": 2, "pp": 2}])
def test_gpus_together_compute_what_one_does(choice):
    """Widths divide: operations of products, attention and experts are the same; all experts are read once."""
    gpus = 4 if 4 in choice.values() or len(choice) > 1 else 2
    alone, several = spread(1, None, 32, placement=PopularFirst), spread(4, LayoutChoice(gpus=gpus, **choice), 32)
    keys = [("compute", part, phase) for part in ("attention", "experts") for phase in ("decode", "prefill")]
    one, many = (amounts(result, "by", "part", "phase") for result in (alone, several))
    for key in keys:
        assert many[key] == pytest.approx(one[key], rel=1e-9), key
    routed = amounts(several, "where", "by", "part")
    assert {where for where, by, part in routed if (by, part) == ("compute", "experts")} == {
        f"gpu{number}" for number in range(gpus)
    }


def test_stages_of_a_pipeline_compute_each_layer_once():
    """Four GPUs, one layer each: nothing is divided, so that every amount is that of one GPU."""
    one, four = (spread(gpus, layout, 32) for gpus, layout in ((1, None), (4, LayoutChoice(pp=4))))
    keys = ("by", "part", "phase")
    alone, several = (amounts(result, *keys) for result in (one, four))
    for key, amount in alone.items():
        if key[0] == "compute" or key[1] in ("attention", "gemm", "head", "experts"):
            assert several[key] == pytest.approx(amount, rel=1e-9), key
    heads = {where for where, part in amounts(four, "where", "part") if part == "head"}
    assert heads == {"gpu0", "gpu3"}  # the first looks tokens up, the last has the logits


def test_the_background_of_overlapping_steps_is_paid_once():
    trace, roles = random_trace(1, 8, 5, 4, 8, 2, prompt=2), {"placement": PopularFirst, "scheduling": Continuous}
    result = run(MODEL, trace, priced(tiny_platform(2)), system(**roles), Workload(), LayoutChoice(pp=2))
    records = result.records
    assert sum(records.column("end_ps") - records.column("start_ps")) > result.duration_ps
    spent = [entry for entry in result.energy_report.entries if (entry.where, entry.by) == ("cpu", "background")]
    assert {entry.phase for entry in spent} == {"prefill", "decode"}  # there is always a step
    assert sum(entry.energy_pj for entry in spent) == 7 * result.duration_ps  # watts


@pytest.mark.parametrize("scheduling", [None, partial(Continuous, max_batch=4)])
def test_sums_with_fitted_times_send_what_they_would_on_the_links(scheduling):
    platform = Platform.from_mapping(shipped("platform", "dgx_h100"))
    trace = random_trace(1, 4, 6, 4, 8, 2, prompt=2)
    roles = {"placement": PopularFirst, **({"scheduling": scheduling} if scheduling else {})}
    workload = Workload(requests=4) if scheduling else BATCH
    on_links, fitted = (
        run(MODEL, trace, platform, system(**roles), workload, LayoutChoice(tp=8), collectives=how, timeline=False)
        for how in ("links", "calibrated")
    )
    sent = [
        sum(n for (by, part), n in amounts(result, "by", "part").items() if (by, part) == ("link", "transfers"))
        for result in (on_links, fitted)
    ]
    assert sent[0] > 0
    assert sent[1] == pytest.approx(sent[0], rel=1e-3)  # each sum is rounded up to whole bytes


def test_what_is_not_counted_is_said():
    h100 = Platform.from_mapping(shipped("platform", "dgx_h100"))
    trace = random_trace(1, 4, 6, 4, 8, 2)
    exchanged = run(
        MODEL, trace, h100, system(), BATCH, LayoutChoice(attention_dp=8), collectives="calibrated", timeline=False
    )
    assert "messages to experts are not counted" in exchanged.provenance["energy"]
    gated = spread(2, None, pipeline=DynamicGating)
    assert "kernels that move rows to experts and back" in gated.provenance["energy"]
    for result in (exchanged, gated):
        assert result.summary["energy_bottom_up_j"] is None


def test_pools_go_by_power(tmp_path, monkeypatch):
    monkeypatch.setattr("tests.unit.pools.test_pools.tiny_platform", lambda n: priced(tiny_platform(n)))
    result = simulate(scenario(tmp_path, [0.0, 0.5], two(), carbon_g_per_kwh="360"))
    summary = result.summary
    watts = 2 * 5 + 7 + 2  # idle; none states more while it is busy
    assert "in pools of several runs" in result.provenance["energy"]
    assert len(result.energy) == 0
    assert summary["energy_j"] == summary["energy_by_power_j"]
    assert summary["energy_bottom_up_j"] is None
    assert summary["carbon_g"] == pytest.approx(summary["energy_j"] / 1e4, rel=1e-12)
    assert summary["energy_j"] == pytest.approx(watts * result.duration_ps / 1e12, rel=1e-9)


# ---- units near memory


def near(own: bool, **prices: float) -> Platform:
    """The machine of tests/limits/test_near_memory.py with prices; those of the unit's bits as given."""
    platform = machine(own=own, units=(4e9,), inside=5e9, gpu=1e9)
    devices = dict(priced(replace(platform, links=())).devices)
    devices["near0"] = replace(devices["near0"], flop_pj={"fp16": DIE_PJ}, **prices)
    links = tuple(replace(link, pj_per_bit=6.0) for link in platform.links)
    return replace(platform, devices=devices, links=links)


def entries(result: Result, part: str) -> dict[tuple[str, str], int]:
    found: Counter[tuple[str, str]] = Counter()
    for entry in result.energy_report.entries:
        if entry.part == part:
            found[entry.where, entry.by] += entry.energy_pj
    return dict(found)


def test_an_expert_in_a_memory_device_by_hand():
    """Its weights stay; the token's hidden vector crosses the link there and back."""
    result = run(tiny_model(1, 4, 1), tiny_trace([[[[2]]]]), near(False), system(execution=AllNear))
    read = (EXPERT_BYTES + (2 * HIDDEN + 2 * WIDTH) * 2) * 8
    assert entries(result, "experts") == {
        ("module", "read"): read * 20,
        ("near0", "compute"): 6 * HIDDEN * WIDTH * DIE_PJ,
    }
    sent = HIDDEN * 2 * 8
    assert entries(result, "transfers") == {
        ("gpu0", "read"): sent * 3,
        ("gpu0", "write"): sent * 4,
        ("module", "read"): sent * 20,
        ("module", "write"): sent * 21,
        ("cable", "link"): 2 * sent * 6,
    }


def test_a_unit_over_the_workers_memory_pays_its_own_price_for_bits():
    model, trace = tiny_model(1, 4, 1), tiny_trace([[[[2]]]])
    platform = near(True, memory_read_pj_per_bit=BUFFER_PJ)
    result = run(model, trace, platform, system(execution=AllNear, placement=PopularFirst), cache_bytes=10**6)
    read = (EXPERT_BYTES + (2 * HIDDEN + 2 * WIDTH) * 2) * 8
    assert entries(result, "experts") == {
        ("near0", "read"): read * BUFFER_PJ,
        ("near0", "compute"): 6 * HIDDEN * WIDTH * DIE_PJ,
    }
    assert entries(result, "transfers") == {}


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("attention", [False, True])
def test_units_compute_what_the_worker_does_not(own, attention):
    model, trace = tiny_model(3, 8, 2), random_trace(2, 3, 5, 3, 8, 2, prompt=3)
    roles = {"placement": PopularFirst}
    helped = {**roles, "execution": AllNear, **({"attention": NearDecode} if own and attention else {})}
    alone, both = (
        run(model, trace, near(own), system(**some), Workload(batch_size=3), cache_bytes=20 * EXPERT_BYTES)
        for some in (roles, helped)
    )
    close(*(amounts_of(result, "compute") for result in (alone, both)))
    there = {(e.part, e.phase) for e in both.energy_report.entries if (e.where, e.by) == ("near0", "compute")}
    experts = {("experts", "decode"), ("experts", "prefill")}
    assert there == experts | ({("attention", "decode")} if own and attention else set())


def amounts_of(result: Result, by: str) -> Counter[tuple[str, ...]]:
    found = amounts(result, "by", "part", "phase")
    return Counter({key: amount for key, amount in found.items() if key[0] == by})


def test_sums_close_with_units():
    model, trace = tiny_model(3, 8, 2), random_trace(2, 3, 5, 3, 8, 2, prompt=3)
    found: list[Entry] = run(model, trace, near(False), system(execution=AllNear)).energy_report.entries
    assert sum(entry.energy_pj for entry in found) == total_pj(found)
    assert all(entry.energy_pj > 0 for entry in found)
