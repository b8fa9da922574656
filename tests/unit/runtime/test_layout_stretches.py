"""Many steps at once on several GPUs of a layout give what their workers give step by step, to the picosecond."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from hwmodels import Platform
from simulator.batching.dense_tables import StretchTables
from simulator.batching.meetings import CAUSES, MESSAGES, SUMS, Costs, Meetings
from simulator.batching.placed import ExpertParts, Placed
from simulator.layout import Layout
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelSpec
from simulator.plan import Block, Workload
from simulator.policies.placement.cold import ColdStart
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.scheduling.continuous import Continuous
from simulator.runtime.busiest import busiest_bytes
from simulator.runtime.collectives import CollectiveTimes
from simulator.runtime.costs import DenseCosts
from simulator.runtime.exchange import Exchange
from simulator.runtime.ranks import Place, Ranks
from tests.helpers import EXPERT_BYTES, random_trace, real_trace, run, shipped, steps_of, system
from tests.helpers import tiny_platform as plain_platform

CASES = 20
COLUMNS = ("batch", "tokens", "prompt_tokens", "requests", "kv_tokens", "last", "prefill", "busy_ps")
LAYOUTS = (
    {"attention_dp": 4},
    {"attention_dp": 2, "tp": 2},
    {"attention_dp": 2, "tp": 2, "moe_tp": 2},
    {"attention_dp": 2, "tp": 2, "moe_tp": 4},
    {"attention_dp": 2, "gpus": 2, "moe_tp": 2},
    {"attention_dp": 3, "gpus": 3, "moe_tp": 3},
    {"tp": 4, "moe_ep": 4},
    {"tp": 4, "moe_ep": 2},
    {"tp": 4, "mirrored": False},
    {"attention_dp": 2, "tp": 2, "moe_tp": 2, "mirrored": False},
)
FULL = {"heads": 4, "kv_heads": 4, "head_dim": 8}
KINDS = (
    {},
    {"attention": {"full": FULL, "near": {**FULL, "window": 6}}, "attention_pattern": ["full", "near"]},
    {"shared_intermediate": 32},
    {"layers": 4, "first_dense_layers": 1, "dense_intermediate": 64},
)


def tiny_platform(gpus):
    """With the datasheet that fitted collectives ask for."""
    platform = plain_platform(gpus)
    alike = {name: replace(platform.devices[name], datasheet="h100_sxm") for name in platform.workers}
    return replace(platform, devices={**platform.devices, **alike})


def same(make):
    """The run of `make(stepwise=...)` with and without the fast path."""
    fast, slow = make(stepwise=False), make(stepwise=True)
    assert all(worker.stretches is not None for worker in fast.run.workers)
    assert all(worker.stretches is None for worker in slow.run.workers)
    assert len(fast.run.workers) > 1
    assert steps_of(fast) == steps_of(slow)
    for one, other in zip(fast.run.workers, slow.run.workers, strict=True):
        assert one.layer_counts == other.layer_counts
        assert one.busy_ps == other.busy_ps
        assert counted_work(one.processed) == pytest.approx(counted_work(other.processed), rel=1e-9)
        for mine, its in zip(one.records, other.records, strict=True):
            assert [getattr(mine, name) for name in COLUMNS] == [getattr(its, name) for name in COLUMNS]
    assert fast.request_rows == slow.request_rows
    for name, value in slow.summary.items():
        energy = value is not None and "_j" in name
        assert fast.summary[name] == (pytest.approx(value, rel=1e-9) if energy else value)
    assert fast.steps.equals(slow.steps)
    return fast


def counted_work(processed):
    """What the account of energy takes from a worker."""
    names = ("steps", "tokens", "headed", "sampled", "shared_tokens")
    attention = [processed.attention(phase, 0, single) for phase in (0, 1) for single in (True, False)]
    sums = [amount for by_dtype in attention for _, amounts in sorted(by_dtype.items()) for amount in amounts]
    return [number for name in names for number in getattr(processed, name)] + sums


def tiny(seed, folder):
    """A run drawn from a seed: any layout and kind of model, bursts, prompts in chunks, much or little KV cache."""
    rng = np.random.default_rng(seed)

    def pick(*options):
        return options[rng.integers(len(options))]

    count = int(rng.integers(3, 14))
    prompts, decodes = rng.integers(1, pick(3, 12, 30), count), rng.integers(1, pick(2, 8, 20), count)
    gaps_s = rng.exponential(pick(1e-6, 3e-5, 1e-3), count) * rng.integers(0, 2, count)
    rows = zip(np.cumsum(gaps_s).tolist(), prompts, decodes, rng.integers(0, 2, count), strict=True)
    path = folder / "requests.csv"
    lines = [f"{at!r},{p},{d},prefix{name},{p}" for at, p, d, name in rows]
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens,prefix,prefix_tokens", *lines]))
    kind = LAYOUTS[seed % len(LAYOUTS)]
    experts = 12
    model = ModelSpec.from_mapping(
        {
            **{"name": "tiny", "source": "made up", "layers": 3, "hidden": 32, "vocab": 64, "experts": experts},
            **{"top_k": 2, "expert_intermediate": 64, "attention": {"full": FULL}},
            **pick(*KINDS),
        }
    )
    max_batch, page = int(pick(1, 4, 20)), int(pick(1, 4))
    longest = max(-(-(p + d) // page) * page for p, d in zip(prompts, decodes, strict=True))
    longest_bytes = longest * model.kv_bytes(1) // kind.get("tp", 1)
    settings = {"kv_cache_bytes": int(longest_bytes * pick(1, 1.5))} if pick(True, False) else {}
    preempt = pick("recompute", "swap")
    if preempt == "recompute" and pick(True, False):
        settings = {"prefix_cache": True, "kv_cache_bytes": 4 * longest_bytes}
    prompt = int(pick(0, 3))
    roles = {
        "scheduling": partial(
            Continuous,
            max_batch=max_batch,
            token_budget=max(max_batch, int(pick(4, 9, 50))),
            preempt=preempt,
        ),
        "placement": pick(PopularFirst, PopularFirst, ColdStart),
    }
    workload = Workload(
        file=str(path),
        binding=pick("cycle", "resample"),
        synthetic_prefill=not prompt and pick(True, False),
        warmup_requests=int(pick(0, 2)),
    )
    return partial(
        run,
        model,
        random_trace(seed, 4, 10, 3, experts, 2, prompt=prompt),
        tiny_platform(kind.get("gpus", 4)),
        system(**roles),
        workload,
        LayoutChoice(**kind),
        timeline=False,
        collectives="calibrated",
        kv_page_tokens=page,
        seed=seed,
        framework_layer_s=pick(0.0, 2e-6),
        cache_bytes=3 * experts * EXPERT_BYTES,
        **settings,
    )


@pytest.mark.parametrize("seed", range(CASES))
def test_haste_changes_nothing(seed, tmp_path):
    same(tiny(seed, tmp_path))


def test_the_cases_are_not_all_easy(tmp_path):
    results = [tiny(seed, tmp_path)() for seed in range(CASES)]
    assert sum(result.summary["preemptions"] > 0 for result in results) >= 3
    assert sum(result.summary["prefill_tokens"] > 0 for result in results) >= 10
    assert sum(result.layers.loads.sum() > 0 for result in results) >= 5
    assert sum(result.summary.get("reused_tokens", 0) > 0 for result in results) >= 2
    assert sum("all_to_all" in result.summary["attribution"] for result in results) >= 10


def nodes(folder, layout, prompts, count=8, **settings):
    """gpt-oss-20b on GPUs of a DGX H100, with fitted kernels."""
    rng = np.random.default_rng(1)
    path = folder / "requests.csv"
    sizes = rng.integers(20, 400, count), rng.integers(1, 30, count)
    rows = zip(np.cumsum(rng.exponential(0.01, count)).tolist(), *sizes, strict=True)
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens", *(f"{a!r},{p},{d}" for a, p, d in rows)]))
    return partial(
        run,
        ModelSpec.from_mapping(shipped("model", "gpt_oss_20b")),
        real_trace("gpt_oss_20b"),
        Platform.from_mapping(shipped("platform", "dgx_h100")),
        system(scheduling=partial(Continuous, max_batch=64, token_budget=300), placement=PopularFirst),
        Workload(file=str(path), binding="resample", synthetic_prefill=prompts),
        LayoutChoice(**layout),
        timeline=False,
        reference=False,
        **{"collectives": "calibrated", **settings},
    )


@pytest.mark.parametrize("layout", [{"attention_dp": 4, "gpus": 4}, {"tp": 4, "gpus": 4, "moe_ep": 4}])
@pytest.mark.parametrize("prompts", [False, True])
def test_real_routing_and_fitted_kernels(tmp_path, layout, prompts):
    fast = same(nodes(tmp_path, layout, prompts))
    assert fast.summary["hit_rate"] == 1.0


def test_workers_do_not_meet_where_all_steps_are_known(tmp_path, monkeypatch):
    monkeypatch.setattr(Exchange, "meet", None)
    result = nodes(tmp_path, {"attention_dp": 8}, False)()
    assert result.summary["decode_tokens"] > 100


def test_fitted_sums_alone_are_enough_for_one_group(tmp_path):
    fast = same(nodes(tmp_path, {"tp": 4, "gpus": 4, "moe_ep": 4}, False, 3, collectives=None))
    assert fast.summary["attribution"]["all_reduce"] > 0


def test_sums_in_place_of_records_tell_the_same(tmp_path):
    kept, summed = (nodes(tmp_path, {"attention_dp": 4, "gpus": 4}, False)(step_records=keep) for keep in (True, False))
    assert len(summed.records) < len(kept.records)
    assert summed.request_rows == kept.request_rows
    one, other = summed.summary, kept.summary
    assert one["attribution"] == pytest.approx(other["attribution"])
    for name in set(one) - {"attribution", "layout"}:
        assert one[name] == (None if other[name] is None else pytest.approx(other[name], rel=1e-12)), name


def test_messages_on_links_and_whoever_observes_go_step_by_step(tmp_path):
    make = nodes(tmp_path, {"attention_dp": 2, "gpus": 2}, False, 1)
    guess = system(scheduling=Continuous, placement=PopularFirst, prediction=TransitionPrediction)
    for changes in ({"collectives": None}, {"collectives": "links"}, {"timeline": True}):
        assert all(worker.stretches is None for worker in make(**changes).run.workers)
    args = (*make.args[:3], guess, *make.args[4:])
    assert run(*args, **make.keywords).run.workers[0].stretches is None
    platform = make.args[2]
    other = replace(platform.devices["gpu1"], memory_read_bytes_per_s=1e12)
    unlike = replace(platform, devices={**platform.devices, "gpu1": other})
    args = (*make.args[:2], unlike, *make.args[3:])
    assert run(*args, **make.keywords).run.workers[0].stretches is None


# ---- the pieces


@pytest.mark.parametrize("seed", range(20))
def test_meetings_are_what_workers_that_wait_for_each_other_see(seed):
    """Against workers one by one, each with the path it has followed; small numbers, so that many come together."""
    rng = np.random.default_rng(seed)
    steps, groups, parts, layers, most = 5, 2, 3, 3, int(rng.integers(1, 4))
    at = rng.integers(0, 2, layers + 1)
    pairs = [(group, part) for group in range(groups) for part in range(parts)]
    back = SUMS if seed % 2 else MESSAGES
    costs = Costs(
        rng.integers(0, most + 1, (steps, groups, 2, 3)),
        rng.integers(0, most + 1, (steps, groups, layers + 1)),
        rng.integers(0, most + 1, (steps, layers)),
        rng.integers(0, most + 1, (steps, parts, layers, 3)),
        rng.integers(0, most + 1, (steps, layers)),
    )
    meetings = Meetings(at, [group for group, _ in pairs], [part for _, part in pairs], back)
    for step in range(steps):
        sums = costs.sums[step]
        paths, busy = [np.zeros(CAUSES, dtype=int) for _ in pairs], [0] * len(pairs)

        def meet(paths):
            times = [path.sum() for path in paths]
            first = times.index(max(times))
            return [path if path.sum() == max(times) else paths[first] for path in paths]

        for layer in range(layers + 1):
            for rank, (group, part) in enumerate(pairs):
                own = np.array([*costs.dense[step, group, at[layer]], sums[group, layer], 0])
                if layer < layers:
                    own[MESSAGES] += costs.out[step, layer]
                    busy[rank] += costs.experts[step, part, layer].sum() + costs.back[step, layer]
                paths[rank] = paths[rank] + own
                busy[rank] += own.sum()
            paths = meet(paths)
            if layer < layers:
                for rank, (_, part) in enumerate(pairs):
                    own = np.array([*costs.experts[step, part, layer], 0, 0])
                    own[back] += costs.back[step, layer]
                    paths[rank] = paths[rank] + own
                paths = meet(paths)
        assert meetings.causes_ps(costs)[step].tolist() == [path.tolist() for path in paths]
        assert meetings.lasts_ps(costs)[step] == paths[0].sum()
        assert meetings.busy_ps(costs)[step].tolist() == busy


@pytest.mark.parametrize("layout", [Layout(1, 4, 1, 4), Layout(2, 4, 2, 4), Layout(2, 2, 4, 1), Layout(4, 2, 2, 4)])
def test_the_busiest_gpu_as_the_messages_of_all_pairs_say(layout):
    rng = np.random.default_rng(3)
    each = int(np.gcd(layout.tp, layout.moe_tp))
    places = tuple(
        Place(0, first // layout.tp, first // layout.moe_tp, tuple(f"gpu{first + n}" for n in range(each)))
        for first in range(0, layout.gpus, each)
    )
    ranks = Ranks(layout, places, layout.attention_dp, layout.moe_ep, each)
    layers, experts = 3, 16
    owners = rng.integers(0, layout.moe_ep, (layers, experts))
    owners[:, : layout.moe_ep] = np.arange(layout.moe_ep)
    slots = [0, 1, 1, 0, layout.attention_dp - 1]
    rows = [rng.integers(-1, experts, (int(rng.integers(1, 6)), layers, 3)) for _ in slots]
    exchange = Exchange(None, None, ranks, owners, {}, 6, {})
    expected = exchange.busiest_bytes(0, SimpleNamespace(block=SimpleNamespace(slots=slots), rows=rows))
    where, reached = ExpertParts(owners, layout.moe_ep), np.zeros((layers, layout.attention_dp, layout.moe_ep), int)
    for slot, some in zip(slots, rows, strict=True):
        reached[:, slot] += Placed(some, 0, where).reached(0, len(some))
    assert busiest_bytes(ranks, reached, 6).tolist() == expected
    assert max(expected) > 0


def test_tokens_of_experts_are_counted_where_they_lie():
    rng = np.random.default_rng(5)
    layers, experts, parts = 3, 10, 4
    owners = rng.integers(0, parts - 1, (layers, experts))  # the last part holds none
    rows = rng.integers(-1, experts, (7, layers, 3))
    where = ExpertParts(owners, parts)
    counts = Placed(rows, 2, where).counts(1, 6)
    for layer in range(layers):
        for part in range(parts):
            served = [int((rows[1:6, layer] == expert).sum()) for expert in np.flatnonzero(owners[layer] == part)]
            assert counts[part, layer].tolist() == served + [0] * (where.shape[2] - len(served))


def test_many_messages_take_what_each_takes():
    platform = Platform.from_mapping(shipped("platform", "dgx_h100"))
    model = ModelSpec.from_mapping(shipped("model", "gpt_oss_20b"))
    stretches = DenseCosts(model, platform.device("gpu0")).stretches
    one, many = (CollectiveTimes(Layout(1, 8, 1, 8), model, stretches, platform.device("gpu0")) for _ in range(2))
    sizes = np.random.default_rng(1).integers(0, 500, (6, 7)) * model.hidden * 2
    sizes[0, 0] = 0
    for phase in ("dispatch", "combine"):
        for decode in (True, False):
            found = many.exchanges_ps(sizes, phase, decode)
            assert found.tolist() == [[one.exchange_ps(size, phase, decode) for size in row] for row in sizes.tolist()]


@pytest.mark.parametrize("name", ["gpt_oss_20b", "deepseek_v2_lite", "qwen3_next_80b_a3b"])
@pytest.mark.parametrize("groups", [1, 3])
def test_dense_costs_of_a_group_stretch_by_stretch(name, groups):
    model = ModelSpec.from_mapping(shipped("model", name))
    costs = DenseCosts(model, Platform.from_mapping(shipped("platform", "dgx_h100")).device("gpu0"))
    tables = StretchTables(costs, 1000)
    contexts, chunks = [300, 70, 2000], ((100, 100), (64, 700))
    mine = [2] if groups == 3 else [0, 1, 2]
    own = [contexts[place] for place in mine]

    def rows(block, mine):
        table = np.array([[part[1] for part in row] for row in costs.table(block, mine)])
        table[:, :-1, 0] += 1000
        return table.tolist()

    decode = Block(False, [[1] * 3] * 4, [[context + n for context in contexts] for n in range(4)])
    assert tables.decode(own, 4)[:, tables.at].tolist() == rows(decode, mine)
    mixed = Block(True, [[1, 1, 1, 100, 64]], [[*contexts, 100, 700]], mixed=True)
    assert [tables.mixed(own, chunks, 4)[tables.at].tolist()] != [tables.decode(own, 1)[0, tables.at].tolist()]
    assert [tables.mixed(own, chunks, len(own) + 2)[tables.at].tolist()] == rows(mixed, [*mine, 3, 4])
    assert [tables.mixed([], chunks, 2)[tables.at].tolist()] == rows(mixed, [3, 4])
    assert tables.decode(own, 1)[:, tables.at].tolist() == rows(mixed, mine)
    assert [tables.idle()[tables.at].tolist()] == rows(mixed, [])
