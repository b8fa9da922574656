"""Layouts: what GPUs hold, what they send, and that one simulated GPU stands for those that do the same."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from hwmodels import Platform
from hwmodels.collectives import all_reduce_s
from hwmodels.datasheet import datasheet
from simulator.layout import Layout
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelError, ModelSpec
from simulator.model_attention import AttentionSpec
from simulator.plan import Workload
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.scheduling.continuous import Continuous
from simulator.scenario import ScenarioError
from simulator.serving import StepCost, precision_of
from tests.helpers import (
    EXPERT_BYTES,
    HIDDEN,
    random_trace,
    real_trace,
    run,
    shipped,
    steps_of,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)

MODEL = replace(tiny_model(3, 8, 2), attention={"full": AttentionSpec(heads=8, kv_heads=8, head_dim=4)})
BATCH = Workload(requests=4, batch_size=4)


def tiny(gpus, layout, *, roles=None, workload=BATCH, model=MODEL, cache=4, seed=1, platform=None, **settings):
    trace = random_trace(seed, 5, 5, 3, 8, 2, prompt=2)
    room = {} if cache is None else {"cache_bytes": cache * EXPERT_BYTES}
    machine = tiny_platform(gpus, **(platform or {}))
    return run(model, trace, machine, system(**(roles or {})), workload, layout, **room, **settings)


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"tp": 8}, Layout(8, 1, 8, 1)),
        ({"tp": 4}, Layout(4, 2, 1, 8)),
        ({"attention_dp": 8}, Layout(1, 8, 1, 8)),
        ({"gpus": 4}, Layout(1, 4, 1, 4)),
        ({"tp": 8, "moe_ep": 8}, Layout(8, 1, 1, 8)),
        ({"tp": 8, "moe_tp": 2}, Layout(8, 1, 2, 4)),
        ({"pp": 2, "tp": 4}, Layout(4, 1, 4, 1, 2)),
        ({"attention_dp": 2, "moe_tp": 4}, Layout(4, 2, 4, 2)),
        ({}, None),
    ],
)
def test_what_is_not_given_follows(given, found):
    assert LayoutChoice(**given).resolve(8, 16) == found


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tp": 3}, r"layout\.tp is 3; expected a divisor of the 8 GPUs of a stage\."),
        (
            {"tp": 2, "attention_dp": 2},
            r"layout\.tp \* layout\.attention_dp is 2 \* 2; expected the 8 GPUs of a stage\.",
        ),
        ({"tp": 0}, r"layout\.tp is 0; expected at least 1, or null\."),
        ({"gpus": 9}, r"layout\.gpus is 9; the platform has 8 workers\."),
        ({"pp": 3}, r"layout\.pp is 3; expected a divisor of the 8 GPUs\."),
        ({"moe_ep": 8}, r"layout\.moe_ep is 8; expected a divisor of the 12 distinct experts of a layer\."),
    ],
)
def test_what_does_not_multiply_up_is_refused(given, message):
    with pytest.raises(ModelError, match=f"^{message}$"):
        LayoutChoice(**given).resolve(8, 12)


@pytest.mark.parametrize("gpus", [1, 2, 4])
def test_one_group_on_each_gpu_is_what_there_is_without_a_layout(gpus):
    roles = {"prediction": partial(OraclePrediction, 2)}
    plain, same = (tiny(gpus, layout, roles=roles) for layout in (None, LayoutChoice(tp=1)))
    assert steps_of(plain) == steps_of(same)
    assert plain.summary == {key: value for key, value in same.summary.items() if key in plain.summary} or gpus > 1
    assert plain.links.equals(same.links)


@pytest.mark.parametrize("gpus", [2, 4])
@pytest.mark.parametrize("cache", [3, 8, 24])
@pytest.mark.parametrize("prediction", [1, 2])
@pytest.mark.parametrize("moe_ep", [1, 2])
def test_one_gpu_stands_for_those_that_do_the_same(gpus, cache, prediction, moe_ep):
    roles = {"prediction": partial(OraclePrediction, prediction)}
    choice = {"tp": gpus, "moe_ep": moe_ep}
    one, each = (tiny(gpus, LayoutChoice(**choice, mirrored=m), cache=cache, roles=roles) for m in (True, False))
    assert (len(one.run.workers), len(each.run.workers)) == (moe_ep, gpus)
    times = [[(r.start_ps, r.end_ps, r.waited_ps) for r in result.run.workers[0].records] for result in (one, each)]
    np.testing.assert_allclose(*[[end for _, end, _ in rows] for rows in times], rtol=1e-7)  # rates are whole bytes/s
    assert one.summary["load_bytes"] == each.summary["load_bytes"]
    assert one.summary["cache_bytes"] == each.summary["cache_bytes"]
    assert one.summary["hit_rate"] == each.summary["hit_rate"]


def test_gpus_share_the_uplink_whether_or_not_each_is_simulated():
    """Two GPUs load halves of an expert over one uplink: as long as one GPU that loads it whole."""
    slow = {"link_bytes_per_s": 1e6, "link_latency_s": 0}
    whole = tiny(2, LayoutChoice(tp=1, gpus=1), platform=slow)
    halves = tiny(2, LayoutChoice(tp=2), platform=slow, cache=2)
    assert halves.summary["load_bytes"] == whole.summary["load_bytes"]
    assert halves.summary["tpot_mean_s"] == pytest.approx(whole.summary["tpot_mean_s"], rel=0.01)


def test_memory_is_that_of_one_gpu():
    result = tiny(4, LayoutChoice(tp=4), cache=None)
    (memory,) = result.run.memories
    part = Layout(4, 1, 4, 1).of(MODEL)
    assert memory.dense_bytes == part.dense_bytes < MODEL.dense_bytes
    assert memory.cache_bytes == 3 * 8 * EXPERT_BYTES // 4
    lengths = result.run.plan.context_limits()[0]
    assert memory.kv_bytes == sum(MODEL.kv_bytes(length) for length in lengths) // 4


def test_stages_divide_layers_among_them():
    result = tiny(3, LayoutChoice(pp=3), cache=None)
    first, middle, last = result.run.memories
    assert [m.cache_bytes for m in (first, middle, last)] == [8 * EXPERT_BYTES] * 3
    assert first.dense_bytes + middle.dense_bytes + last.dense_bytes == MODEL.dense_bytes
    assert middle.dense_bytes == MODEL.layer_dense_bytes(1)
    assert sum(m.kv_bytes for m in result.run.memories) == sum(
        MODEL.kv_bytes(length) for length in result.run.plan.context_limits()[0]
    )


def test_stages_take_as_long_as_one_gpu_and_the_way_between_them():
    """Each step crosses two borders: latency 1 us, and 32 values of 2 bytes for each token at 2 GB/s."""
    roles = {"placement": PopularFirst}
    alone = tiny(1, None, cache=None, roles=roles)
    stages = tiny(3, LayoutChoice(pp=3), cache=None, roles=roles)
    for one, three in zip(alone.records, stages.records, strict=True):
        way_ps = 2 * (10**6 + three.tokens * HIDDEN * 2 * 500)
        assert three.end_ps - three.start_ps == one.end_ps - one.start_ps + way_ps


@pytest.mark.parametrize("tp", [2, 4])
@pytest.mark.parametrize("mirrored", [True, False])
def test_a_ring_moves_twice_what_each_gpu_lacks(tp, mirrored):
    """Sums after attention and after experts of 3 layers, and the logits gathered: T = 2 (n - 1) (a + S / n / b)."""
    result = tiny(tp, LayoutChoice(tp=tp, mirrored=mirrored), cache=None, roles={"placement": PopularFirst})
    lane = next(lane for lane in result.run.fabric.lanes if lane.name.startswith("ring"))
    summed = gathered = time_ps = 0
    for step in result.run.plan:
        size, logits = step.tokens * HIDDEN * 2, len(step.requests) * 64 * 2
        sums = [2 * (tp - 1) * size // tp] * 6
        summed += sum(sums)
        gathered += (tp - 1) * logits // tp
        starts = 7 * 10**6 + 6 * 2 * (tp - 1) * 10**6 + (tp - 1) * 10**6
        time_ps += starts + 500 * (sum(sums) + (tp - 1) * logits // tp)
    assert lane.delivered_bytes == summed + gathered
    assert sum(result.attribution_ps[name] for name in ("all_reduce",)) == time_ps


SIZES = np.array([2.0**10, 2.0**14, 2.0**26, 2.0**28])


@pytest.mark.parametrize("gpus", [2, 4, 8])
def test_the_ring_and_the_fitted_sum_agree_on_nvlink(gpus):
    """Large messages within 30 %; small ones, which engines send in one shot, within a factor of 3.5."""
    platform = Platform.from_mapping(shipped("platform", "dgx_h100"))
    hop_s = sum(link.latency_s for link in platform.route("gpu0", "gpu1"))
    rate = min(rate for _, rate in platform.media("gpu0", "gpu1"))
    steps = 2 * (gpus - 1)
    ring = platform.device("gpu0").launch_overhead_s + steps * (hop_s + SIZES / gpus / rate)
    ratio = ring / all_reduce_s(datasheet("h100_sxm"), "VLLM", gpus, SIZES)
    assert ratio[2:] == pytest.approx([1, 1], abs=0.3)
    assert (ratio[:2] < 3.5).all()
    assert (ratio[:2] > 1 / 3.5).all()


def test_the_busiest_gpu_sets_the_pace():
    """Four tokens ask for eight of 32 experts, two on each of four GPUs, or all on one: that one runs six more, each of
    which reads its weights at 85 % of 10 GB/s."""

    def steps(rows):
        trace = tiny_trace([[[[*pair]]] for pair in rows], 32)
        platform = tiny_platform(4, peer_latency_s=0, peer_bytes_per_s=1e12)
        workload, layout = Workload(batch_size=4), LayoutChoice(attention_dp=4)
        model, choice = tiny_model(1, 32, 2), system(placement=PopularFirst)
        made = run(model, trace, platform, choice, workload, layout, cache_bytes=8 * EXPERT_BYTES)
        return [worker.busy_ps for worker in made.run.workers], made.summary["duration_s"]

    even, even_s = steps([(0, 1), (2, 3), (4, 5), (6, 7)])
    skewed, skewed_s = steps([(0, 4), (8, 12), (16, 20), (24, 28)])
    assert len(set(even)) == 1
    assert skewed[0] > skewed[1] == skewed[2] == skewed[3]
    assert skewed_s - even_s == pytest.approx(6 * EXPERT_BYTES / (1e10 * 0.85), rel=0.05)


@pytest.mark.parametrize(
    "choice",
    [
        {"tp": 2},
        {"tp": 2, "attention_dp": 2, "moe_tp": 2},
        {"attention_dp": 2, "moe_tp": 4},
        {"tp": 4, "moe_ep": 4},
        {"tp": 4, "moe_tp": 2},
        {"attention_dp": 4, "moe_tp": 2},
        {"tp": 2, "pp": 2},
        {"attention_dp": 2, "pp": 2, "tp": 1},
    ],
)
@pytest.mark.parametrize("stepwise", [False, True])
def test_books_balance_under_any_layout(choice, stepwise):
    result = tiny(4, LayoutChoice(**choice), cache=8, stepwise=stepwise)  # attribution and lanes are checked inside
    asked = sum(len(blobs) for step in result.run.plan for blobs, _ in step.groups)
    counted = sum(sum(sum(row) for row in worker.layer_counts[p]) for worker in result.run.workers for p in (0, 1))
    layout, ranks = result.run.ranks.layout, result.run.ranks
    assert counted == asked * layout.moe_tp // ranks.each
    assert len(ranks.gpus) == 4
    assert result.summary["gpus"] == 4
    assert sum(result.records.column("tokens")) == result.run.plan.tokens


def nvlink_pair(layout, **settings):
    """gpt-oss-20b, all experts resident, requests that come and go."""
    roles = {"placement": PopularFirst, "scheduling": partial(Continuous, max_batch=3, token_budget=64)}
    return run(
        ModelSpec.from_mapping(shipped("model", "gpt_oss_20b")),
        real_trace("gpt_oss_20b"),
        Platform.from_mapping(shipped("platform", "dgx_h100")),
        system(**roles),
        Workload(requests=5, max_decode_tokens=6),
        layout,
        timeline=False,
        **settings,
    )


def test_many_steps_at_once_give_what_each_step_gives_under_tensor_parallelism():
    fast, slow = (nvlink_pair(LayoutChoice(tp=4, gpus=4), stepwise=stepwise) for stepwise in (False, True))
    assert fast.run.workers[0].stretches is not None
    assert steps_of(fast) == steps_of(slow)
    assert fast.summary["attribution"]["all_reduce"] > 0


@pytest.mark.parametrize("mirrored", [True, False])
def test_sums_on_the_links_are_not_lost_where_steps_could_be_taken_at_once(mirrored):
    free, slow = (
        nvlink_pair(LayoutChoice(tp=4, gpus=4, mirrored=mirrored), stepwise=stepwise, collectives="links")
        for stepwise in (False, True)
    )
    assert steps_of(free) == steps_of(slow)
    assert free.summary["attribution"]["all_reduce"] > 0


def test_groups_with_their_own_requests_run_where_these_come_and_go():
    result = nvlink_pair(LayoutChoice(tp=2, gpus=4))
    assert {worker.rank for worker in result.run.workers} == {0, 1, 2, 3}
    assert result.summary["requests"] == 5


def test_calibrated_messages_take_the_busiest_gpus_bytes():
    result = nvlink_pair(LayoutChoice(attention_dp=4, gpus=4), collectives="calibrated")
    assert not any(lane.transfers for lane in result.run.fabric.lanes if lane.category == "all_to_all")
    assert result.summary["attribution"]["all_to_all"] > 0


def test_a_step_takes_about_as_long_as_the_closed_form_of_a_layout_says():
    """TP 4 on H100, 16 sequences that decode. Both take the same kernels; experts are those of the trace here and of a
    power law there, and a worker's launches come from its host, which a CUDA graph there does not wait for."""
    spec = ModelSpec.from_mapping(shipped("model", "qwen3_30b_a3b"))
    cost = StepCost(spec, "h100_sxm", "VLLM", Layout(4, 1, 4, 1), precision_of(spec))
    tokens = np.array([16.0])
    messages = float(cost.parts_s(tokens)["messages"][0])
    trace = random_trace(3, 16, 2, len(spec.moe_layers), spec.experts, spec.top_k, guesses=False)
    result = run(
        spec,
        trace,
        Platform.from_mapping(shipped("platform", "dgx_h100")),
        system(placement=PopularFirst),
        Workload(batch_size=16, max_decode_tokens=1),
        LayoutChoice(tp=4, gpus=4),
        timeline=False,
    )
    (record, *_) = result.records
    logits_s = float(cost.head_s(tokens)[0])
    assert abs(record.waited_ps["all_reduce"] / 1e12 - messages) < logits_s
    ours, theirs = (
        (record.end_ps - record.start_ps) / 1e12,
        messages
        + float(sum(v[0] for k, v in cost.parts_s(tokens).items() if k != "messages"))
        + logits_s
        + float(cost.decode_s(tokens, np.array([2.0]))[0]),
    )
    assert 0.8 < ours / theirs < 1.4  # 1.17


def test_what_layouts_do_not_go_with_is_one_sentence():
    with pytest.raises(ScenarioError, match=r"^settings\.collectives is links, but there is no layout"):
        tiny(2, None, collectives="links")
    with pytest.raises(ScenarioError, match=r"^settings\.collectives is 'ring'; expected links, calibrated, or null"):
        tiny(2, LayoutChoice(tp=2), collectives="ring")
    with pytest.raises(ModelError, match=r"^settings\.collectives=calibrated asks for the datasheet of 'gpu0'"):
        tiny(2, LayoutChoice(tp=2), collectives="calibrated")
