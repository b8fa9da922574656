"""Several units near one memory, regions and tiers of it, and the rules that use them, against closed forms."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hwmodels import Platform, PlatformError
from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.policies.execution.near_all import AllNear
from simulator.policies.execution.near_busiest import NearBusiest
from simulator.policies.execution.near_fractions import NearFractions, fractions
from simulator.policies.execution.near_hot_warm_cold import NearHotWarmCold
from simulator.policies.execution.near_local import NearLocal
from simulator.policies.execution.near_makespan import NearMakespan
from simulator.policies.placement.popular import PopularFirst
from simulator.residency import PolicyError
from simulator.runtime.near_divided import DIVIDED
from simulator.runtime.near_tiers import tier_costs
from simulator.timeline import timeline_of
from tests.helpers import EXPERT_BYTES, HIDDEN, counts, random_trace, run, system, tiny_model
from tests.limits.test_near_memory import FREE, READ_BYTES, Shared, layer_s, machine

VECTOR_BYTES = HIDDEN * 2


def changed(platform: Platform, device: str, **fields: object) -> Platform:
    return replace(platform, devices={**platform.devices, device: replace(platform.device(device), **fields)})


class Divided(ExecutionPolicy):
    """All experts on all units, with these shares of each (None: even ones)."""

    uses_units = True
    always = True

    def __init__(self, shares: list[float] | None = None) -> None:
        self._shares = shares

    def split(self, work):
        blobs = work.runs_on(DIVIDED)
        return Split((), units={DIVIDED: blobs}, shares=dict.fromkeys(blobs, self._shares) if self._shares else {})


@pytest.mark.parametrize(("units", "experts"), [(4, 1), (4, 3), (2, 5)])
def test_divided_experts_keep_all_units_busy_and_whole_ones_the_most_loaded(units, experts) -> None:
    """k experts on n units: k/n of an expert's time, and ceil(k/n) of it: a gain of n over k/ceil(k/n)."""
    platform = machine(own=True, inside=1e9 * units, units=(1e9,) * units)
    divided_s, whole_s = (layer_s(platform, choice, experts, resident=True) for choice in (Divided, NearLocal))
    assert divided_s == pytest.approx(READ_BYTES * experts / units / 1e9, rel=0.001)
    assert whole_s == pytest.approx(READ_BYTES * -(-experts // units) / 1e9)


def test_inputs_cross_once_and_every_unit_returns_its_sums() -> None:
    """Over a link so slow that nothing else counts: one way there, one back from each of three units; whole: one."""
    platform = machine(link=1e5, inside=FREE, units=(FREE,) * 3)
    assert layer_s(platform, Divided, 1) == pytest.approx((1 + 3) * VECTOR_BYTES / 1e5, rel=1e-3)
    assert layer_s(platform, NearLocal, 1) == pytest.approx(2 * VECTOR_BYTES / 1e5, rel=1e-3)


@pytest.mark.parametrize("own", [False, True])
def test_the_largest_share_ends_last(own) -> None:
    platform = machine(link=FREE, inside=4e9, units=(1e9,) * 3, own=own)
    took_s = layer_s(platform, Divided([0.5, 0.5, 0.0]), 2, resident=own)
    assert took_s == pytest.approx(2 * READ_BYTES * 0.5 / 1e9, rel=0.02)
    whole_s = layer_s(platform, Divided([0.0, 1.0, 0.0]), 2, resident=own)
    assert whole_s == pytest.approx(2 * READ_BYTES / 1e9, rel=0.02)


def test_shares_that_are_no_expert_are_refused() -> None:
    platform = machine(units=(1e9, 1e9))
    for shares in ([0.5, 0.6], [1.5, -0.5], [1.0]):
        with pytest.raises(PolicyError, match=r"expected 2 shares of at least 0 that sum to 1\."):
            layer_s(platform, Divided(shares), 2)
    with pytest.raises(ValueError, match=r"expected one of near0, or divided where all units are of one memory\."):
        layer_s(machine(), NearMakespan("far"), 2)
    assert layer_s(machine(), AllNear(DIVIDED)) == layer_s(machine(), AllNear())  # one unit: nothing to divide


def test_what_divided_experts_read_and_compute_is_counted_once() -> None:
    """Parts of units sum to the whole experts, in bytes on lanes and in the account's weights and tokens."""
    model, trace = tiny_model(2, 6, 2), random_trace(0, 2, 6, 2, 6, 2)
    results = {
        choice: run(model, trace, machine(units=(1e9,) * 3), system(execution=lambda choice=choice: choice()))
        for choice in (Divided, NearLocal)
    }
    totals = []
    for result in results.values():
        near = result.run.workers[0].processed.near
        totals.append([sum(sum(unit[part]) for unit in near.values()) for part in (0, 1)])
        assert counts(result)["on_cpu"] == sum(counts(result).values())
    assert totals[0] == totals[1]


@pytest.mark.parametrize(("regions", "factor"), [(0, 1.0), (1, 2.0), (2, 1.0), (4, 1.0)])
def test_a_region_is_read_by_one_at_a_time(regions, factor) -> None:
    """Worker and unit take two experts each, 0 and 2, 1 and 3, at equal speed. In one region they take turns; in two,
    and in four, neither meets the other."""
    platform = machine(own=True, gpu=4e9, units=(4e9,), inside=8e9)
    took_s = layer_s(changed(platform, "gpu0", regions=regions), Shared(kept=1), resident=True)
    assert took_s == pytest.approx(factor * 2 * READ_BYTES / 4e9)


def test_the_fullest_region_bounds_a_layer() -> None:
    """Experts 0 to 3 in three regions: 0 and 3 share one. The worker reads 0 and 2, a unit of half its speed 1 and 3:
    w = (1, 0, 1), u = (2, 2, 0): max(sum w, sum u, w_r + u_r) = 4, of the unit; of twice its speed 2, of the worker;
    of equal speed with all on the unit but 0: u = (1, 1, 1), w_0 = 1, 3."""
    for unit, expected in ((2e9, 4), (8e9, 2)):
        platform = machine(own=True, gpu=4e9, units=(unit,), inside=FREE)
        took_s = layer_s(changed(platform, "gpu0", regions=3), Shared(kept=1), resident=True)
        assert took_s == pytest.approx(expected * READ_BYTES / 4e9)
    alone_s = layer_s(changed(platform, "gpu0", regions=1), AllNear, resident=True)
    assert alone_s == layer_s(platform, AllNear, resident=True)  # nobody to wait for


@given(st.integers(0, 3), st.sampled_from([1, 2, 3, 5]))
@settings(max_examples=10, deadline=None)
def test_regions_never_help_and_cost_at_most_one_after_the_other(seed, regions) -> None:
    model, trace = tiny_model(2, 6, 3), random_trace(seed, 1, 6, 2, 6, 3)
    plain = machine(own=True, gpu=2e9, units=(3e9,), inside=5e9)
    ends = []
    for platform in (plain, changed(plain, "gpu0", regions=regions), changed(plain, "gpu0", regions=1)):
        parts = system(execution=lambda: Shared(kept=1), placement=PopularFirst)
        result = run(model, trace, platform, parts)
        for record in result.records:
            assert sum(record.waited_ps.values()) == record.end_ps - record.start_ps
        ends.append(result.records[-1].end_ps)
    assert ends[0] <= ends[1] <= ends[2]


def test_the_experts_most_wanted_lie_in_the_fast_tiers() -> None:
    """Two tiers of two experts: sum of bytes over each tier's rate; without an order by number."""
    plain = machine(link=FREE, inside=4e9, units=(4e9,))
    tiered = changed(
        changed(plain, "near0", tier_bytes_per_s=[4e9, 1e9]), "module", memory_capacity_bytes=4 * EXPERT_BYTES
    )
    assert layer_s(tiered, AllNear, 4) == pytest.approx(READ_BYTES * (2 / 4e9 + 2 / 1e9), rel=0.02)
    memory, unit = tiered.device("module"), tiered.device("near0")
    costs, tier_of = tier_costs(tiny_model(1, 4, 1), [EXPERT_BYTES], unit, memory, [EXPERT_BYTES] * 4, [3, 1])
    assert tier_of == [1, 0, 1, 0]
    assert costs[1].alone_ps(0, 1) == 4 * costs[0].alone_ps(0, 1)


def test_a_memory_that_is_slow_to_write_takes_inputs_slowly() -> None:
    """Inputs are written at 1 MB/s and results read at the link's 1 GB/s."""
    plain = machine(link=1e9, inside=4e9, units=(4e9,))
    slow = changed(plain, "module", memory_write_bytes_per_s=1e6)
    gap_s = layer_s(slow, AllNear, 4) - layer_s(plain, AllNear, 4)
    assert gap_s == pytest.approx(4 * VECTOR_BYTES * (1 / 1e6 - 1 / 1e9), rel=1e-3)
    assert [name for name, _ in slow.media("gpu0", "module")] == ["cable:up", "module", "module:write"]
    assert [name for name, _ in slow.media("module", "gpu0")] == ["module", "cable:down"]


def test_fields_that_cannot_be_are_refused() -> None:
    from experiments.catalogue import load

    base = OmegaConf.to_container(OmegaConf.create(load("platform", "monde")))
    for device, key, value, said in (
        ("module", "regions", 4, "is only for a gpu"),
        ("near", "tier_bytes_per_s", ["600 GB/s"], "must be at most what module gives inside"),
        ("near", "tier_bytes_per_s", [0.0], "must hold rates above zero"),
        ("module", "tier_bytes_per_s", ["1 GB/s"], "is only for an ndp"),
    ):
        fields = {**base, "devices": {**base["devices"], device: {**base["devices"][device], key: value}}}
        with pytest.raises(PlatformError, match=rf"devices.{device}.{key}' {said}"):
            Platform.from_mapping(fields, "monde")


class Fake:
    """A layer of missing and resident experts: times per token on worker, host CPU and modules."""

    layer = 0
    queued_ps = 0
    divides = False

    def __init__(self, layer, fetch: int, cpu: int, module: int, modules: int = 3) -> None:
        self.tokens = {blob: tokens for blob, (tokens, _) in enumerate(layer)}
        self.blobs, self.experts = list(self.tokens), len(layer)
        self.hits = [blob for blob, (_, here) in enumerate(layer) if here]
        self.misses = [blob for blob, (_, here) in enumerate(layer) if not here]
        self.units = ("cpu", *(f"dimm{number}" for number in range(modules)))
        self._fetch, self._per_token = fetch, {"cpu": cpu, **dict.fromkeys(self.units[1:], module)}

    def runs_on(self, unit):
        return self.blobs

    def fetch_ps(self, blob):
        return self._fetch

    def unit_ps(self, unit, blob, tokens=1):
        return self._per_token[unit] * (max(8, tokens) if unit == "cpu" else tokens)

    def activations_ps(self, unit, tokens):
        return 5 + tokens

    def run_ps(self, blob, tokens=1):
        return 40

    def run_together_ps(self, layer, tokens):
        return 40 * len(tokens)


LAYERS = st.lists(st.tuples(st.integers(1, 60), st.booleans()), min_size=1, max_size=12)


def makespan_ps(work: Fake, split: Split) -> int:
    near = {blob for blobs in split.units.values() for blob in blobs}
    fetched = sum(max(40, work.fetch_ps(blob)) for blob in split.fetch)
    ends = [fetched + 40 * sum(blob not in near for blob in work.hits)]
    for unit, blobs in split.units.items():
        ends.append(sum(work.unit_ps(unit, blob, work.tokens[blob]) + work.tokens[blob] for blob in blobs) + 5)
    return max(ends)


@given(LAYERS, st.integers(1, 900), st.integers(1, 9), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_three_sides_name_every_expert_once_and_no_single_move_ends_sooner(layer, fetch, cpu, module) -> None:
    work = Fake(layer, fetch, cpu, module)
    split = NearHotWarmCold().split(work)
    near = [blob for blobs in split.units.values() for blob in blobs]
    assert sorted([*split.fetch, *near, *set(work.hits).difference(near)]) == work.blobs
    for unit, blobs in split.units.items():
        assert unit == "cpu" or all(blob % work.experts % 3 == int(unit[4:]) for blob in blobs)
    ends_ps = makespan_ps(work, split)
    for blob in near:
        units = {unit: [one for one in blobs if one != blob] for unit, blobs in split.units.items()}
        fetched = [*split.fetch, *({blob} & set(work.misses))]
        assert makespan_ps(work, Split(fetched, units=units)) >= ends_ps


@given(LAYERS, st.integers(1, 900), st.integers(1, 30))
@settings(max_examples=60, deadline=None)
def test_the_busiest_unit_sheds_until_the_worker_would_be_slower(layer, fetch, module) -> None:
    work = Fake(layer, fetch, 1, module)
    work.units = work.units[1:]
    split, whole = NearBusiest().split(work), NearLocal().split(work)
    near = [blob for blobs in split.units.values() for blob in blobs]
    assert sorted([*split.fetch, *near, *set(work.hits).difference(near)]) == work.blobs
    for unit, blobs in split.units.items():  # what stays are those of fewest tokens
        assert blobs == whole.units[unit][len(whole.units[unit]) - len(blobs) :]
    assert makespan_ps(work, split) <= makespan_ps(work, whole)


@given(st.lists(st.integers(0, 500), min_size=4, max_size=40), st.sampled_from([2, 3, 4]))
@settings(max_examples=30, deadline=None)
def test_fractions_balance_all_units_and_divide_few_experts(chosen, units) -> None:
    shares = fractions(np.array(chosen), units)
    load = (np.array(chosen) + 1) @ shares
    assert shares.sum(axis=1) == pytest.approx(1.0)
    assert load == pytest.approx(load.sum() / units, rel=1e-6)
    assert np.count_nonzero(shares) <= len(chosen) + units - 1


def test_fractions_run_every_expert_and_are_the_even_ones_for_even_loads() -> None:
    """As many tokens of each of 4 experts on 4 units: whole experts, so no slower than whole ones where they lie."""
    platform = machine(link=FREE, inside=FREE, units=(1e9,) * 4)
    took_s = layer_s(platform, NearFractions, 4)
    assert took_s == pytest.approx(READ_BYTES / 1e9, rel=0.02)


RULES = {
    "divided": lambda: NearMakespan(DIVIDED),
    "local": NearLocal,
    "busiest": NearBusiest,
    "fractions": NearFractions,
    "hot_warm_cold": lambda: NearHotWarmCold(warm=None),
}


@given(st.integers(0, 3), st.sampled_from(sorted(RULES)), st.booleans())
@settings(max_examples=20, deadline=None)
def test_every_expert_runs_once_whatever_the_rule(seed, rule, own) -> None:
    platform = machine(own=own, gpu=1e9, units=(3e9, 3e9), inside=5e9)
    platform = changed(changed(platform, "gpu0", regions=2), "near0", tier_bytes_per_s=[3e9, 2e9])
    model, trace = tiny_model(3, 6, 2), random_trace(seed, 2, 6, 3, 6, 2, prompt=3)
    settings_ = {"cache_bytes": 7 * EXPERT_BYTES, "seed": seed}
    result = run(model, trace, platform, system(execution=RULES[rule]), **settings_)
    asked = sum(len(blobs) for step in result.run.plan for blobs, _ in step.groups)
    assert sum(counts(result).values()) == asked
    for record in result.records:
        assert sum(record.waited_ps.values()) == record.end_ps - record.start_ps
    timeline_of(result.run)
    for lane in result.run.fabric.lanes:
        assert lane.requested_bytes == lane.delivered_bytes + lane.cancelled_bytes + lane.pending_bytes
    stepwise = run(model, trace, platform, system(execution=RULES[rule]), **settings_, stepwise=True)
    assert [r.end_ps for r in stepwise.records] == [r.end_ps for r in result.records]
