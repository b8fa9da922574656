"""Energy: sums close exactly, amounts are those of the run, and small runs worked out by hand."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings

from hwmodels import Platform
from simulator.batching.run_ahead import RunAhead
from simulator.energy import PARTS, PHASES
from simulator.energy.account import Entry, by, total_pj
from simulator.engine import Fabric, Lane, Medium, Transfer
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.attention.last_layers import LastLayers
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.precision.expert_bits import ExpertBits
from simulator.policies.scheduling.continuous import Continuous
from simulator.result import Result
from simulator.runtime.processed import kinds_of_layers
from simulator.scenario import ScenarioError
from tests.helpers import (
    CONF,
    EXPERT_BYTES,
    HIDDEN,
    WIDTH,
    random_trace,
    run,
    shipped,
    system,
    tiny_model,
    tiny_phone,
    tiny_platform,
    tiny_trace,
)
from tests.limits.energy_check import FLOP_PJ, IDLE_W, LINK_PJ, READ, WRITE, priced, walked
from tests.limits.random_runs import Case, cases
from tests.limits.test_serving_invariants import Case as ServingCase
from tests.unit.runtime.test_batching import BURST, serve

EXAMPLES = settings(max_examples=60, deadline=None, derandomize=True)


def simulated(case: Case, **changes: bool) -> Result:
    """A run of a random case on its platform with prices."""
    layers, experts, top_k = case.shape
    platform = tiny_platform(case.workers, **case.platform) if case.workers else tiny_phone(**case.platform)
    return run(
        tiny_model(layers, experts, top_k),
        random_trace(layers=layers, experts=experts, top_k=top_k, **case.trace),
        priced(platform),
        system(**case.roles),
        case.workload,
        **{**case.settings, **changes},
    )


@EXAMPLES
@given(cases())
def test_the_account_of_any_run_closes(case: Case):
    result = simulated(case)
    entries = result.energy_report.entries
    sums_close(result, entries)
    amounts_are_those_of_the_run(result, entries)
    background_is_power_times_time(result, entries)


def sums_close(result: Result, entries: list[Entry]) -> None:
    total = total_pj(entries)
    for key, known in (("part", PARTS), ("phase", PHASES), ("where", None), ("by", None)):
        sums = by(entries, key)
        assert sum(sums.values()) == total
        assert known is None or set(sums) <= set(known)
    assert all(entry.energy_pj >= 0 for entry in entries)
    summary = result.summary
    assert summary["energy_j"] == summary["energy_bottom_up_j"] == total / 1e12
    tokens = summary["decode_tokens"] + summary["prefill_tokens"]
    parts = sum(summary[f"energy_{part}_per_token_j"] for part in PARTS)
    assert parts == pytest.approx(total / 1e12 / tokens, rel=1e-12)
    assert result.energy.energy_j.sum() == pytest.approx(total / 1e12, rel=1e-12)


def amounts_are_those_of_the_run(result: Result, entries: list[Entry]) -> None:
    moved = Counter()
    for entry in entries:
        if entry.by != "background":
            moved[entry.where, entry.by, entry.part, entry.phase] += entry.amount
    expected = walked(result)
    if result.run.workers[0].uses_cpu:  # which experts ran there is not in the plan; all operations are
        for name in ("experts",):
            done = sum(n for (_, what, part, _), n in moved.items() if (what, part) == ("compute", name))
            asked = sum(n for (_, what, part, _), n in expected.items() if (what, part) == ("compute", name))
            assert done == pytest.approx(asked, rel=1e-9)
        expected = {key: n for key, n in expected.items() if key[2] != "experts"}
    for key, amount in expected.items():
        assert moved[key] == pytest.approx(amount, rel=1e-9), key
    for lane in result.run.fabric.lanes:
        assert lane.delivered_bytes <= lane.moved_bytes(result.duration_ps) <= lane.requested_bytes
    links = Counter()
    for lane in result.run.fabric.lanes:
        if lane.name in result.run.lane_ends:
            for link in result.run.scenario.platform.route(*result.run.lane_ends[lane.name]):
                links[link.name] += lane.moved_bytes(result.duration_ps)
    if not result.run.workers[0].uses_cpu:
        for name, size_bytes in links.items():
            assert sum(entry.amount for entry in entries if entry.where == name) == size_bytes


def background_is_power_times_time(result: Result, entries: list[Entry]) -> None:
    for name, device in result.run.scenario.platform.devices.items():
        spent = [entry for entry in entries if (entry.where, entry.by) == (name, "background")]
        assert sum(entry.energy_pj for entry in spent) == round(IDLE_W.get(device.kind, 0.0)) * result.duration_ps


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cases())
def test_an_event_for_every_operation_changes_nothing(case: Case):
    assert simulated(case).energy_report.entries == simulated(case, stepwise=True).energy_report.entries


@pytest.mark.parametrize("seed", range(16))
def test_requests_that_come_and_go_cost_the_same_in_haste(seed, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.limits.test_serving_invariants.tiny_platform", lambda n: priced(tiny_platform(n)))
    case = ServingCase(seed, tmp_path)
    fast, slow = case.run(), case.run(stepwise=True)
    entries = fast.energy_report.entries
    assert entries == slow.energy_report.entries
    assert sum(by(entries, "phase").values()) == total_pj(entries)
    operations = {part: sum(e.amount for e in entries if (e.by, e.part) == ("compute", part)) for part in PARTS}
    tokens, model = sum(r.tokens for r in fast.records), fast.run.scenario.model
    assert operations["experts"] == tokens * case.top_k * len(model.moe_layers) * 6 * HIDDEN * WIDTH
    if not fast.requests.preemptions.sum():  # logits after each prompt, and of each token after it
        prompts = len(case.prompts) if case.trace["prompt"] or case.workload.synthetic_prefill else 0
        sampled = prompts + int(case.decodes.sum())
        assert operations["head"] == sampled * (2 * HIDDEN * model.vocab + 4 * HIDDEN)


@pytest.mark.parametrize("max_batch", [1, 3, 8])
def test_steps_that_are_simulated_together_cost_what_they_cost_one_by_one(max_batch, tmp_path, monkeypatch):
    monkeypatch.setattr("tests.unit.runtime.test_batching.tiny_platform", lambda n: priced(tiny_platform(n)))
    monkeypatch.setattr(RunAhead.__init__, "__defaults__", (7,))  # records are written several times in a run
    scheduling = partial(Continuous, max_batch=max_batch, token_budget=9)
    made = partial(serve, tmp_path, BURST, scheduling=scheduling, roles={"placement": PopularFirst}, prompt=11)
    fast, slow, summed = made(), made(stepwise=True), made(step_records=False)
    assert fast.run.workers[0].stretches is not None
    assert slow.run.workers[0].stretches is None
    assert {entry.phase for entry in fast.energy_report.entries} == set(PHASES)
    assert fast.energy_report.entries == slow.energy_report.entries == summed.energy_report.entries


# ---- small runs by hand

ONE = tiny_model(1, 4, 1)


def one_token(tokens: int = 1, **changes: object) -> Result:
    """One request on a model of one layer with one expert for each token, which is loaded once."""
    trace = tiny_trace([[[[2]]] * tokens])
    return run(ONE, trace, priced(tiny_platform()), system(), cache_bytes=4 * EXPERT_BYTES, **changes)


def test_one_transfer_by_hand():
    entries = one_token().energy_report.entries
    transfers = {(e.where, e.by): e.energy_pj for e in entries if e.part == "transfers"}
    bits = EXPERT_BYTES * 8  # 12288 bytes of gate, up and down
    assert transfers == {
        ("dram", "read"): bits * 20,
        ("pcie0", "link"): bits * 6,
        ("gpu0", "write"): bits * 4,
    }
    experts = {(e.where, e.by): e.energy_pj for e in entries if e.part == "experts"}
    activation_bytes = (2 * HIDDEN + 2 * WIDTH) * 2
    assert experts == {
        ("gpu0", "read"): (EXPERT_BYTES + activation_bytes) * 8 * 3,
        ("gpu0", "compute"): 2 * 3 * HIDDEN * WIDTH // 2,  # half a pJ each
    }


def test_the_documentation_has_these_numbers():
    page = (Path(__file__).resolve().parents[2] / "docs" / "energy.md").read_text(encoding="utf-8")
    example = page[page.index("## One transfer by hand") :]
    entries = [e for e in one_token().energy_report.entries if e.part in ("transfers", "experts")]
    assert len(entries) == 5
    for entry in entries:
        assert f" {entry.energy_pj:,} pJ |" in example


def test_carbon_is_the_energy_at_the_grids_intensity():
    result = one_token(carbon_g_per_kwh="360")
    assert result.summary["carbon_g"] == pytest.approx(result.summary["energy_j"] / 1e4, rel=1e-12)  # 3.6e6 J / 360 g
    assert one_token().summary["carbon_g"] is None


def test_an_intensity_that_cannot_be_read_is_refused_before_the_run():
    with pytest.raises(ScenarioError, match=r"settings.carbon_g_per_kwh=nowhere.csv"):
        one_token(carbon_g_per_kwh="nowhere.csv")


@pytest.mark.parametrize("name", sorted(path.stem for path in (CONF / "model").glob("*.yaml")))
def test_all_but_attention_costs_something_once_and_something_per_token(name):
    """What the account rests on: steps and tokens are all that need be counted."""
    model = ModelSpec.from_mapping(shipped("model", name))
    tokens = np.array([1.0, 2.0, 5.0, 40.0])
    works = [model.embedding_work(tokens), *model.head_work(tokens), model.expert_work(tokens)]
    for layer in kinds_of_layers(model):
        works += [work for work in model.layer_dense_work(layer, tokens, tokens) if work.kind != "attention"]
    for work in works:
        for one, two, *more in (work.flops, work.size_bytes):
            assert more == pytest.approx([two + (n - 2) * (two - one) for n in (5, 40)], rel=1e-12), work.name
    assert sum(kinds_of_layers(model).values()) == model.layers


def test_an_expert_that_is_here_is_read_again_but_not_copied_again():
    once, twice = ({e.part: 0 for e in one_token(n).energy_report.entries} for n in (1, 2))
    assert set(once) == set(twice)
    first, second = (by(one_token(n).energy_report.entries, "part") for n in (1, 2))
    assert second["transfers"] == first["transfers"]
    assert second["experts"] == 2 * first["experts"]


def test_twice_the_run_costs_twice():
    model = tiny_model(2, 4, 2)
    ids = [[[0, 1], [2, 3]], [[1, 2], [0, 1]], [[0, 3], [2, 3]]]
    place = system(placement=PopularFirst)
    one, two = (
        run(model, tiny_trace([ids] * 3), priced(tiny_platform()), place, Workload(requests=n), cache_bytes=10**6)
        for n in (1, 2)
    )
    assert two.duration_ps == 2 * one.duration_ps
    assert total_pj(two.energy_report.entries) == pytest.approx(2 * total_pj(one.energy_report.entries), abs=20)


def test_while_nothing_runs_only_the_background_counts(tmp_path):
    path = tmp_path / "requests.csv"
    path.write_text("arrival_s,prompt_tokens,decode_tokens\n0.0,2,2\n0.5,2,2\n")
    result = run(
        tiny_model(2, 4, 2), random_trace(1, 2, 8, 2, 4, 2, prompt=2), priced(tiny_platform()),
        system(scheduling=Continuous), Workload(file=str(path), binding="cycle"), cache_bytes=10**6,
    )  # fmt: skip
    idle = [entry for entry in result.energy_report.entries if entry.phase == "idle"]
    busy_ps = sum(r.end_ps - r.start_ps for r in result.records)
    assert {entry.part for entry in idle} == {"background"}
    assert sum(entry.energy_pj for entry in idle) == (5 + 7 + 2) * (result.duration_ps - busy_ps)
    assert result.duration_ps - busy_ps > 0.4 * 10**12


def test_an_expert_on_the_host_reads_its_weights_there_and_sends_activations():
    result = run(
        ONE, tiny_trace([[[[2]]]]), priced(tiny_platform()), system(execution=partial(CpuInPlace, 32)),
        cache_bytes=EXPERT_BYTES,
    )  # fmt: skip
    found = {(e.where, e.by, e.part): e.energy_pj for e in result.energy_report.entries}
    assert ("gpu0", "compute", "experts") not in found
    assert found["cpu", "compute", "experts"] == 2 * 3 * HIDDEN * WIDTH * 8  # in fp32, as it has no bf16
    entries = result.energy_report.entries
    weights = sum(e.amount for e in entries if (e.where, e.by, e.part) == ("dram", "read", "experts"))
    assert weights == EXPERT_BYTES + (2 * HIDDEN + 2 * WIDTH) * 2
    there_and_back = 2 * HIDDEN * 2
    assert sum(e.amount for e in entries if e.where == "pcie0") == there_and_back
    sent = HIDDEN * 2 * 8
    assert sum(e.energy_pj for e in entries if e.part == "transfers") == sent * (
        READ["gpu"] + WRITE["dram"] + READ["dram"] + WRITE["gpu"] + 2 * LINK_PJ["pcie"]
    )


def test_experts_in_fewer_bits_move_fewer_bytes():
    model, trace = tiny_model(1, 4, 2), tiny_trace([[[[0, 3]], [[0, 1]]]])
    levels = [[0, 1, 0, 1]]  # experts 1 and 3 in 8 bits
    precision = partial(ExpertBits, bits=[16.0, 8.0], shares=[0.5, 0.5], levels=levels)
    result = run(model, trace, priced(tiny_platform()), system(precision=precision), cache_bytes=4 * EXPERT_BYTES)
    entries = result.energy_report.entries
    weights = 2 * EXPERT_BYTES + 2 * EXPERT_BYTES // 2  # two tokens: 0 and 3, 0 and 1
    moved = sum(e.amount for e in entries if (e.by, e.part) == ("read", "experts"))
    assert moved == weights + 4 * (2 * HIDDEN + 2 * WIDTH) * 2
    assert sum(e.amount for e in entries if e.where == "pcie0") == EXPERT_BYTES + 2 * EXPERT_BYTES // 2


def test_layers_on_the_host_are_paid_there():
    model, trace = tiny_model(2, 4, 2), tiny_trace([[[[0, 1], [2, 3]]] * 3])
    here, there = (
        run(model, trace, priced(tiny_platform()), system(**roles), cache_bytes=10**6).energy_report.entries
        for roles in ({}, {"attention": partial(LastLayers, gpu_layers=1)})
    )

    def operations(entries: list[Entry], where: str) -> float:
        return sum(e.amount for e in entries if (e.where, e.by) == (where, "compute") and e.part != "experts")

    assert operations(here, "cpu") == 0
    assert operations(there, "cpu") > 0
    assert operations(there, "cpu") + operations(there, "gpu0") == operations(here, "gpu0")


def test_a_copy_under_way_at_the_end_counts_as_far_as_it_came():
    fabric = Fabric()
    lane = fabric.add_lane(Lane("copy", [fabric.add_medium(Medium("link", 1e9))]))  # a byte in 1000 ps
    fabric.submit(lane, Transfer(0, 1000, True), 0)
    assert [lane.moved_bytes(ps) for ps in (0, 250_000, 999_999)] == [0, 250, 999]
    fabric.advance(1_000_000)
    assert lane.moved_bytes(1_000_000) == lane.moved_bytes(2_000_000) == 1000


# ---- without prices


def test_without_a_price_the_summary_goes_by_power_and_says_what_is_missing():
    platform = tiny_platform()
    gpu = replace(platform.devices["gpu0"], idle_power_w=10.0, tdp_w=30.0)
    platform = replace(platform, devices={**platform.devices, "gpu0": gpu})
    result = run(ONE, tiny_trace([[[[2]]]]), platform, system(), cache_bytes=4 * EXPERT_BYTES)
    summary = result.summary
    busy_s = result.run.workers[0].busy_ps / 1e12
    assert summary["energy_bottom_up_j"] is None
    assert summary["energy_j"] == summary["energy_by_power_j"] == 10 * result.duration_ps / 1e12 + 20 * busy_s
    assert summary["energy_experts_per_token_j"] is None
    assert len(result.energy) == 0
    assert "device 'gpu0'" in result.provenance["energy"]
    assert "flop_pj" in result.provenance["energy"]


def test_without_a_price_or_a_power_there_is_no_energy_in_the_summary_rather_than_none_spent():
    summary = run(ONE, tiny_trace([[[[2]]]]), tiny_platform(), system(), cache_bytes=4 * EXPERT_BYTES).summary
    assert (summary["energy_j"], summary["energy_per_token_j"], summary["energy_by_power_j"]) == (None, None, 0)


def test_only_what_the_run_needs_must_have_a_price():
    """The SSD of a platform whose experts start in DRAM does nothing."""
    platform = priced(tiny_platform())
    ssd = replace(platform.devices["ssd"], memory_read_pj_per_bit=0.0, memory_technology="", kind="ssd")
    platform: Platform = replace(platform, devices={**platform.devices, "ssd": ssd})
    result = run(ONE, tiny_trace([[[[2]]]]), platform, system(), cache_bytes=4 * EXPERT_BYTES)
    assert result.energy_report.missing == ""
    assert "ssd" not in set(result.energy["where"])
    assert FLOP_PJ["gpu"]["bf16"] in set(result.energy.price)
