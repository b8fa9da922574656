"""Many steps at once give what the worker gives step by step, to the picosecond."""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from hwmodels import Platform
from simulator.batching.dense_tables import DenseTables
from simulator.batching.stretches import Stretches
from simulator.model import ModelSpec
from simulator.plan import Block, Workload
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.continuous import Continuous
from simulator.runtime.costs import DenseCosts, ExpertCosts
from tests.helpers import real_trace, run, shipped, steps_of, system, tiny_model, tiny_phone, tiny_platform
from tests.unit.runtime.test_batching import BURST, MODEL, serve

COLUMNS = ("batch", "tokens", "prompt_tokens", "requests", "kv_tokens", "last", "prefill", "busy_ps")


def same(make):
    """The run of `make(stepwise=...)` with and without the fast path."""
    fast, slow = make(stepwise=False), make(stepwise=True)
    assert fast.run.workers[0].stretches is not None
    assert slow.run.workers[0].stretches is None
    assert steps_of(fast) == steps_of(slow)
    for one, other in zip(fast.records, slow.records, strict=True):
        assert [getattr(one, name) for name in COLUMNS] == [getattr(other, name) for name in COLUMNS]
    assert fast.request_rows == slow.request_rows
    assert fast.layers.equals(slow.layers)
    left_out = {"energy_j"}
    assert {k: v for k, v in fast.summary.items() if k not in left_out} == {
        k: v for k, v in slow.summary.items() if k not in left_out
    }
    return fast


def resident(tmp_path, **changes):
    changes = {"roles": {"placement": PopularFirst}, **changes}
    return partial(serve, tmp_path, BURST, **changes)


@pytest.mark.parametrize("max_batch", [1, 2, 8])
@pytest.mark.parametrize("framework_s", [0.0, 3e-6])
def test_short_requests_in_bursts(tmp_path, max_batch, framework_s):
    scheduling = partial(Continuous, max_batch=max_batch, token_budget=8)
    same(resident(tmp_path, scheduling=scheduling, framework_layer_s=framework_s))


@pytest.mark.parametrize("preempt", ["recompute", "swap"])
def test_under_pressure_on_the_kv_cache(tmp_path, preempt):
    scheduling = partial(Continuous, max_batch=4, token_budget=8, preempt=preempt)
    fast = same(resident(tmp_path, scheduling=scheduling, kv_cache_bytes=5 * 4 * 256))
    assert fast.requests.preemptions.sum() > 0


def test_experts_that_are_loaded_once_and_stay(tmp_path):
    fast = same(resident(tmp_path, roles={}))
    assert 0 < fast.layers.loads.sum() <= 8


def test_warm_up_is_left_out(tmp_path):
    same(resident(tmp_path, workload={"warmup_requests": 3}))


def lists(tmp_path, **columns):
    path = tmp_path / "list.csv"
    lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("platform", ["a100_host", "rtx_3090"])
@pytest.mark.parametrize("token_budget", [300, 2048])
def test_real_routing_with_windows_that_contexts_outgrow(tmp_path, platform, token_budget):
    rng = np.random.default_rng(1)
    count = 10
    path = lists(
        tmp_path,
        arrival_s=np.cumsum(rng.exponential(0.05, count)).tolist(),
        prompt_tokens=rng.integers(20, 400, count).tolist(),
        decode_tokens=rng.integers(1, 40, count).tolist(),
    )

    def make(stepwise):
        return run(
            ModelSpec.from_mapping(shipped("model", "gpt_oss_20b")),
            real_trace("gpt_oss_20b"),
            Platform.from_mapping(shipped("platform", platform)),
            system(
                scheduling=partial(Continuous, max_batch=64, token_budget=token_budget),
                placement=PopularFirst,
            ),
            Workload(file=path, binding="resample", synthetic_prefill=True),
            timeline=False,
            stepwise=stepwise,
            reference=False,
        )

    fast = same(make)
    assert fast.summary["hit_rate"] == 1.0


@pytest.mark.parametrize("name", ["gpt_oss_20b", "deepseek_v2_lite", "qwen3_next_80b_a3b", "gemma_4_26b_a4b"])
@pytest.mark.parametrize("count", [1, 3, 40])
def test_dense_tables_say_what_dense_costs_say(name, count):
    model = ModelSpec.from_mapping(shipped("model", name))
    costs = DenseCosts(model, Platform.from_mapping(shipped("platform", "a100_host")).device("gpu0"))
    contexts = np.random.default_rng(count).integers(1, 3000, count).tolist()
    tables, steps = DenseTables(costs), 5
    rows = [[context + n for context in contexts] for n in range(steps)]
    exact = [[sum(column) for column in zip(*(part[1] for part in row), strict=True)] for row in _dense(costs, rows)]
    assert tables.decode(contexts, steps)[:, :3].tolist() == exact
    chunks = ((100, 100), (64, 700))
    block = Block(True, [[1] * count + [100, 64]], [[*contexts, 100, 700]], mixed=True)
    (row,) = costs.table(block)
    for _ in range(3):  # the second time it is tabulated
        mixed = tables.mixed(contexts, chunks, count + 2)[:3].tolist()
        assert mixed == [sum(column) for column in zip(*(part[1] for part in row), strict=True)]


def _dense(costs, rows):
    return costs.table(Block(False, [[1] * len(rows[0])] * len(rows), rows))


@pytest.mark.parametrize("platform", ["a100_host", "oneplus_15r"])
def test_many_launches_cost_what_each_costs(platform):
    model = ModelSpec.from_mapping(shipped("model", "gpt_oss_20b"))
    machine = Platform.from_mapping(shipped("platform", platform))
    costs = ExpertCosts(model, [model.expert_bytes] * 2, machine.device(machine.workers[0]))
    counts = np.random.default_rng(0).integers(0, 90, (5, 2, 32)) * np.random.default_rng(1).integers(0, 2, (5, 2, 32))
    counts[0, 0] = 0
    found = costs.launches(counts)
    for at in np.ndindex(5, 2):
        assert tuple(found[at]) == costs.together(at[1], counts[at][counts[at] > 0].tolist())[1]


@pytest.mark.parametrize("requests", [1, 2, 5, 16])
def test_what_decoding_requests_cost_by_distinct_experts(requests):
    model = ModelSpec.from_mapping(shipped("model", "gpt_oss_20b"))
    device = Platform.from_mapping(shipped("platform", "a100_host")).device("gpu0")
    costs = ExpertCosts(model, [model.expert_bytes], device)
    table = costs.by_active(requests, 32)
    assert table is not None
    rng = np.random.default_rng(requests)
    for _ in range(200):
        popular = rng.random(32) ** rng.integers(1, 20)
        chosen = np.stack([rng.choice(32, 4, replace=False, p=popular / popular.sum()) for _ in range(requests)])
        counts = np.bincount(chosen.ravel(), minlength=32)
        served = counts[counts > 0].tolist()
        total, parts = costs.together(0, served)
        assert table[len(served)].tolist() == [*parts, total]


def test_sums_in_place_of_records_tell_the_same(tmp_path):
    kept, summed = (resident(tmp_path, workload={"warmup_requests": 2})(step_records=keep) for keep in (True, False))
    assert len(summed.records) < len(kept.records)
    assert summed.request_rows == kept.request_rows
    one, other = summed.summary, kept.summary
    assert one["attribution"] == pytest.approx(other["attribution"])
    for name in set(one) - {"attribution"}:
        assert one[name] == (None if other[name] is None else pytest.approx(other[name], rel=1e-12)), name


def test_whoever_observes_or_meets_others_goes_step_by_step(tmp_path):
    def made(**changes):
        return resident(tmp_path, **changes)().run.workers[0].stretches

    assert isinstance(made(), Stretches)
    assert made(timeline=True) is None
    assert made(workers=2) is None


def test_a_phone_computes_where_it_reads(tmp_path):
    from tests.helpers import random_trace

    path = lists(tmp_path, arrival_s=[0.0, 0.0, 0.001], prompt_tokens=[6, 6, 6], decode_tokens=[5, 6, 7])

    def make(stepwise):
        return run(
            tiny_model(**MODEL),
            random_trace(3, 5, 12, prompt=4, **MODEL),
            tiny_phone(),
            system(scheduling=Continuous),
            Workload(file=path, binding="cycle"),
            timeline=False,
            stepwise=stepwise,
        )

    same(make)


def test_attention_of_decoding_and_of_prompts_are_two_launches():
    costs = DenseCosts(tiny_model(**MODEL), tiny_platform(launch_s=1e-6).device("gpu0"))

    def total(tokens, contexts, mixed):
        return sum(part[0] for part in costs.table(Block(True, [tokens], [contexts], mixed=mixed))[0])

    apart = total([1, 8], [9, 8], True)
    together = total([1, 8], [9, 8], False)
    assert apart - together == 2 * 1_000_000  # one launch more in each of two layers
