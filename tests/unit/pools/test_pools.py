"""Pools for prompts and for decoding: closed forms, equality with runs on one pool, and books that balance."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from simulator.layout_choice import LayoutChoice
from simulator.plan import Workload
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.continuous import Continuous
from simulator.pools.spec import Pool, Pools
from simulator.result import simulate
from simulator.scenario import Scenario, Settings
from tests.helpers import random_trace, system, tiny_model, tiny_platform

MODEL = {"layers": 2, "experts": 4, "top_k": 2}
KV_TOKEN_BYTES = 256  # 2 layers, keys and values of 2 heads of 16 numbers of 2 bytes
SOON = [0.0, 0.00001, 0.00002, 0.00002, 0.0005, 0.0005, 0.02]
APART = [0.0, 0.5, 1.0]


def scenario(tmp_path, arrivals_s, pools=None, *, workers=2, name="all", lengths=None, model=None, **more):
    """Requests of 6 prompt tokens and 5, 6, 7, 5 … decoded ones, unless `lengths` says others, of trace requests in
    turn; `more`: of the platform, the workload (a dict), the layout, settings."""
    lengths = lengths or [(6, 5 + n % 3) for n in range(len(arrivals_s))]
    numbers = more.pop("numbers", range(len(arrivals_s)))
    rows = [f"{at},{p},{d},{n % 5}" for at, (p, d), n in zip(arrivals_s, lengths, numbers, strict=True)]
    path = tmp_path / f"{name}.csv"
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens,trace_request", *rows]) + "\n")
    platform = tiny_platform(workers, **more.pop("platform", {}))
    scheduling = more.pop("scheduling", partial(Continuous, max_batch=4, token_budget=8))
    workload = Workload(**{"file": str(path), "binding": "cycle", **more.pop("workload", {})})
    layout = more.pop("layout", LayoutChoice())
    return Scenario(
        model=model or tiny_model(**MODEL),
        trace=random_trace(3, 5, 12, prompt=4, **MODEL),
        platform=platform,
        system=system(placement=PopularFirst, scheduling=scheduling),
        workload=workload,
        settings=Settings(**{"workspace_bytes": 0, "kv_page_tokens": 4, **more}),
        layout=layout,
        pools=pools,
    )


def two(prefill=None, decode=None, replicas=(1, 1), dealing="in_turn"):
    """Pools of the given layouts, by default of one GPU each."""
    layouts = [LayoutChoice(**(layout or {"gpus": 1})) for layout in (prefill, decode)]
    return Pools(Pool(replicas[0], layouts[0]), Pool(replicas[1], layouts[1]), dealing=dealing)


def step_times_ps(*results):
    return [r.end_ps - r.start_ps for result in results for r in result.records]


def test_one_request_takes_its_prompt_then_the_link_then_its_steps(tmp_path):
    result = simulate(scenario(tmp_path, [0.25], two(), lengths=[(6, 5)]))
    row, steps = result.requests.iloc[0], result.steps
    prompt_s = steps[steps.pool == "prefill"].latency_s.sum()
    decode_s = steps[steps.pool == "decode"].latency_s.sum()
    link_s = 1e-6 + 6 * KV_TOKEN_BYTES / 2e9  # latency and rate of the peer link
    assert row.kv_bytes == 6 * KV_TOKEN_BYTES
    assert row.kv_transfer_s == pytest.approx(link_s, abs=1e-12)
    assert row.ttft_s == pytest.approx(prompt_s, abs=1e-12)
    assert row.tpot_s == pytest.approx((link_s + decode_s) / 5, abs=1e-12)
    assert row.latency_s == pytest.approx(prompt_s + link_s + decode_s, abs=1e-12)
    assert row.decode_queued_s == 0
    assert steps[steps.pool == "decode"].context_tokens.tolist() == [7, 8, 9, 10, 11]


@pytest.mark.parametrize("stepwise", [False, True])
@pytest.mark.parametrize("layout", [{"gpus": 1}, {"gpus": 2, "tp": 2}])
def test_one_request_at_a_time_runs_as_on_one_pool(tmp_path, layout, stepwise):
    workers = 2 * layout["gpus"]
    aggregated = simulate(scenario(tmp_path, APART, layout=LayoutChoice(**layout), workers=workers, stepwise=stepwise))
    free = {"peer_bytes_per_s": 1e18}  # for sums too
    aggregated_free, pooled = (
        simulate(
            scenario(
                tmp_path,
                APART,
                pools,
                platform={**free, "peer_latency_s": 0.0},
                workers=workers,
                stepwise=stepwise,
                **own,
            )
        )
        for pools, own in ((None, {"layout": LayoutChoice(**layout)}), (two(layout, layout), {}))
    )
    prefill, decode = (one.result for one in pooled.replicas)
    ours = sorted((r.start_ps, r.end_ps - r.start_ps) for result in (prefill, decode) for r in result.records)
    assert [time_ps for _, time_ps in ours] == step_times_ps(aggregated_free)
    assert len(ours) == len(aggregated.records)
    for mine, other in zip(pooled.request_rows, aggregated_free.request_rows, strict=True):
        assert mine["ttft_s"] == other["ttft_s"]
        assert mine["kv_transfer_s"] == 1e-12  # bytes have to go, in the least of times
        assert mine["latency_s"] == pytest.approx(other["latency_s"] + 1e-12, abs=1e-15)


def test_two_replicas_are_two_runs(tmp_path):
    gap_s = [n * 0.0004 for n in range(8)]
    both = simulate(scenario(tmp_path, gap_s, two(replicas=(2, 2)), workers=4))
    for number in (0, 1):
        mine = list(range(number, 8, 2))
        lengths = [(6, 5 + n % 3) for n in mine]
        alone = simulate(
            scenario(tmp_path, [gap_s[n] for n in mine], two(), name="some", lengths=lengths, numbers=mine)
        )
        for row, n in zip(alone.request_rows, mine, strict=True):
            found = both.request_rows[n]
            assert (found["prefill_replica"], found["decode_replica"]) == (number, number)
            for name in ("ttft_s", "tpot_s", "latency_s", "queued_s", "decode_queued_s", "kv_transfer_s"):
                assert found[name] == row[name], name


@pytest.mark.parametrize("dealing", ["in_turn", "fewest_tokens"])
@pytest.mark.parametrize(
    ("prefill", "decode", "replicas"),
    [
        ({"gpus": 1}, {"gpus": 2, "attention_dp": 2}, (2, 1)),
        ({"gpus": 2, "tp": 2}, {"gpus": 1}, (1, 2)),
        ({"gpus": 2, "attention_dp": 2}, {"gpus": 2, "tp": 2}, (1, 1)),
        ({"gpus": 2, "pp": 2}, {"gpus": 2, "tp": 2}, (1, 1)),
        ({"gpus": 1}, {"gpus": 2, "pp": 2}, (2, 1)),
    ],
)
def test_every_token_is_served_once_and_every_byte_arrives(tmp_path, prefill, decode, replicas, dealing):
    lengths = [(3 + n % 7, n % 4) for n in range(len(SOON))]
    pools = two(prefill, decode, replicas, dealing)
    result = simulate(scenario(tmp_path, SOON, pools, workers=4, lengths=lengths))
    rows, steps, links = result.requests, result.steps, result.links
    assert rows.request.tolist() == list(range(len(SOON)))
    assert rows.decode_tokens.tolist() == [d for _, d in lengths]
    assert rows.context_tokens.tolist() == [p + d for p, d in lengths]
    assert steps[steps.pool == "prefill"].prompt_tokens.sum() == sum(p for p, _ in lengths)
    assert steps[steps.pool == "prefill"].tokens.sum() == sum(p for p, _ in lengths)
    assert steps[steps.pool == "decode"].tokens.sum() == sum(d for _, d in lengths)
    assert steps[steps.pool == "decode"].prompt_tokens.sum() == 0
    assert rows.kv_bytes.fillna(0).tolist() == [p * KV_TOKEN_BYTES * (d > 0) for p, d in lengths]
    kv = links[links.pool == "kv"]
    assert kv.requested_bytes.sum() == kv.delivered_bytes.sum() == rows.kv_bytes.sum()
    assert result.summary["kv_transfer_bytes"] == rows.kv_bytes.sum()
    decoded = rows[rows.decode_tokens > 0]
    assert (decoded.kv_transfer_s > 0).all()
    assert (decoded.decode_queued_s >= 0).all()
    assert decoded.decode_replica.notna().all()
    assert rows[rows.decode_tokens == 0].decode_replica.isna().all()
    assert (decoded.latency_s > decoded.ttft_s + decoded.kv_transfer_s + decoded.decode_queued_s).all()
    sent = {one.order: one for one in result.sent}
    for one in result.replicas:
        for record in one.log:
            if one.pool == "decode":
                assert (sent[record.order].receiver, sent[record.order].group) == (one.number, record.worker)


def test_a_window_sends_no_more_than_it_keeps(tmp_path):
    heads = tiny_model(**MODEL).attention["full"]
    near = replace(heads, window=4)
    model = replace(tiny_model(**MODEL), attention={"full": heads, "near": near}, attention_pattern=["full", "near"])
    result = simulate(scenario(tmp_path, [0.0, 0.1], two(), model=model, lengths=[(3, 2), (9, 2)]))
    layer_bytes = KV_TOKEN_BYTES // 2  # of two layers, one sees 4 tokens
    assert result.requests.kv_bytes.tolist() == [(3 + 3) * layer_bytes, (9 + 4) * layer_bytes]


def test_a_preempted_request_runs_its_prompt_again_where_it_decodes(tmp_path):
    room = 2 * 16 * KV_TOKEN_BYTES  # two requests of 6 + 10 tokens
    lengths = [(6, 10)] * 4
    result = simulate(scenario(tmp_path, [0.0] * 4, two(), lengths=lengths, kv_cache_bytes=room - 4 * KV_TOKEN_BYTES))
    rows, steps = result.requests, result.steps
    lost = rows.preemptions.sum()
    assert lost > 0
    again = steps[(steps.pool == "decode") & (steps.phase == "prefill")]
    assert again.prompt_tokens.sum() >= 6 * lost
    assert rows.decode_tokens.tolist() == [10] * 4
    assert result.summary["kv_transfer_bytes"] == 4 * 6 * KV_TOKEN_BYTES  # sent once


def test_what_waits_for_room_is_told(tmp_path):
    alone = partial(Continuous, max_batch=1, token_budget=8)
    pools = two()
    pools = replace(pools, decode=replace(pools.decode, scheduling=alone))
    result = simulate(scenario(tmp_path, [0.0] * 3, pools, lengths=[(6, 5)] * 3, scheduling=partial(Continuous, 3, 18)))
    rows = result.requests
    assert rows.prefill_replica.tolist() == [0, 0, 0]
    assert rows.ttft_s.nunique() == 1  # one step for all prompts, so that three transfers queue on one lane
    link_s = 1e-6 + 6 * KV_TOKEN_BYTES / 2e9
    assert sorted(rows.kv_transfer_s) == pytest.approx([link_s, 2 * link_s, 3 * link_s], abs=1e-12)
    assert (rows.decode_queued_s > 0).sum() == 2
    assert result.summary["kv_between_peak_bytes"] == 3 * 6 * KV_TOKEN_BYTES


def test_each_pool_has_its_own_scheduler(tmp_path):
    pools = two()
    pools = replace(pools, prefill=replace(pools.prefill, scheduling=partial(Continuous, max_batch=2, token_budget=3)))
    result = simulate(scenario(tmp_path, SOON, pools))
    steps = result.steps
    assert steps[steps.pool == "prefill"].tokens.max() == 3
    assert steps[steps.pool == "prefill"].requests.max() <= 2 < steps[steps.pool == "decode"].requests.max()


def test_requests_that_decode_nothing_end_with_their_prompt(tmp_path):
    result = simulate(scenario(tmp_path, [0.0, 0.1], two(), lengths=[(6, 0), (4, 0)]))
    assert set(result.steps.pool) == {"prefill"}
    assert result.requests.latency_s.tolist() == result.requests.ttft_s.tolist()
    assert result.summary["kv_transfer_bytes"] == 0
    assert result.summary["tpot_mean_s"] is None


def test_the_warm_up_is_left_out_of_the_figures(tmp_path):
    pools = two(replicas=(2, 1))
    result = simulate(scenario(tmp_path, SOON, pools, workers=3, workload={"warmup_requests": 3, "slo_ttft_s": 1.0}))
    rows, summary = result.requests, result.summary
    assert rows.warmup.tolist() == [True] * 3 + [False] * 4
    assert summary["requests"] == 4
    assert summary["ttft_mean_s"] == pytest.approx(rows[~rows.warmup].ttft_s.mean())
    assert summary["slo_attainment"] == 1.0
    steps = result.steps
    assert steps.warmup.tolist() == (steps.batch < 3).tolist()
    assert summary["prefill_tokens"] == steps[~steps.warmup].prompt_tokens.sum()


def test_the_figures_of_all_replicas_add_up(tmp_path):
    result = simulate(scenario(tmp_path, SOON, two({"gpus": 2, "tp": 2}, None, (1, 2)), workers=6))
    summary, devices = result.summary, result.devices.set_index("device")
    assert summary["gpus"] == 4
    assert sum(summary["attribution"].values()) == pytest.approx(1.0)
    assert summary["duration_s"] == pytest.approx(result.steps.latency_s.sum())
    assert summary["hit_rate"] == 1.0
    span_s = result.duration_ps / 1e12
    decode_s = result.steps[result.steps.pool == "decode"].latency_s.sum()
    assert summary["decode_utilisation"] == pytest.approx(decode_s / 2 / span_s)
    assert devices.pool.fillna("none").tolist()[:6] == ["prefill"] * 2 + ["decode"] * 2 + ["none"] * 2
    assert devices.busy_s["gpu0"] == devices.busy_s["gpu1"] > 0
    assert devices.busy_s[["gpu4", "gpu5"]].tolist() == [0, 0]
    assert summary["tokens_per_s"] == pytest.approx(summary["decode_tokens"] / summary["makespan_s"])
    makespan_s = (result.requests.arrival_s + result.requests.latency_s).max()
    assert summary["makespan_s"] == pytest.approx(makespan_s)
    assert len(result.experts) == 3 * 8
    assert len(result.layers) == 3 * 4
    assert len(result.tasks) == 1
    assert result.provenance["pools"]["decode"]["replicas"] == 2


def test_the_same_run_twice_is_the_same_and_so_is_one_of_single_events(tmp_path):
    pools = two(replicas=(1, 2), dealing="fewest_tokens")
    made = [
        simulate(scenario(tmp_path, SOON, pools, workers=3, stepwise=stepwise)) for stepwise in (False, False, True)
    ]
    assert made[0].summary == made[1].summary == made[2].summary
    assert made[0].request_rows == made[1].request_rows == made[2].request_rows


@pytest.mark.parametrize("layout", [{"gpus": 1}, {"gpus": 2, "tp": 2}])
def test_replicas_of_one_pool_are_runs_of_their_own(tmp_path, layout):
    gap_s = [n * 0.0001 for n in range(8)]
    pools = Pools(aggregated=Pool(2, LayoutChoice(**layout)))
    both = simulate(scenario(tmp_path, gap_s, pools, workers=4))
    assert both.requests.kv_bytes.isna().all()
    for number in (0, 1):
        mine = list(range(number, 8, 2))
        lengths = [(6, 5 + n % 3) for n in mine]
        more = {"layout": LayoutChoice(**layout), "name": "some", "workers": 4}
        alone = simulate(scenario(tmp_path, [gap_s[n] for n in mine], lengths=lengths, numbers=mine, **more))
        for row, n in zip(alone.request_rows, mine, strict=True):
            found = both.request_rows[n]
            assert (found["prefill_replica"], found["decode_replica"]) == (number, number)
            for name in ("ttft_s", "tpot_s", "latency_s", "queued_s"):
                assert found[name] == row[name], name


@pytest.mark.parametrize("prompts", [True, False])
def test_one_replica_of_one_pool_is_the_run_without_pools(tmp_path, prompts):
    made = scenario(tmp_path, SOON, layout=LayoutChoice(gpus=1), workers=1)
    if not prompts:
        made = replace(made, trace=random_trace(3, 5, 12, **MODEL), workload=replace(made.workload, slo_tpot_s=4e-5))
    plain = simulate(made)
    pools = Pools(aggregated=Pool(layout=made.layout))
    pooled = simulate(replace(made, layout=LayoutChoice(), pools=pools))
    for key, value in plain.summary.items():
        if key not in ("layout", "gpus_per_worker"):
            assert pooled.summary[key] == (None if value is None else pytest.approx(value, rel=1e-12)), key
    assert pooled.requests[plain.requests.columns].equals(plain.requests)
    assert pooled.provenance["remarks"] == plain.provenance["remarks"]


def test_the_least_loaded_replica_is_the_one_that_was_dealt_the_fewest_prompt_tokens(tmp_path):
    pools = two(replicas=(2, 1), dealing="fewest_tokens")
    lengths = [(20, 1), (6, 50), (6, 50), (6, 50), (6, 50)]
    result = simulate(scenario(tmp_path, [0.0, 0.1, 0.2, 0.3, 0.4], pools, workers=3, lengths=lengths))
    assert result.requests.prefill_replica.tolist() == [0, 1, 1, 1, 1]


def test_stages_send_the_layers_that_they_hold(tmp_path):
    """Of two layers, each stage of the one pool sends one to the same stage of the other, side by side."""
    pools = two({"gpus": 2, "pp": 2}, {"gpus": 2, "pp": 2})
    result = simulate(scenario(tmp_path, [0.0], pools, workers=4))
    kv = result.links[result.links.pool == "kv"]
    assert kv.lane.tolist() == ["KV gpu0->gpu2", "KV gpu1->gpu3"]
    assert kv.delivered_bytes.tolist() == [6 * KV_TOKEN_BYTES // 2] * 2
    assert result.requests.kv_transfer_s[0] == pytest.approx(1e-6 + 3 * KV_TOKEN_BYTES / 2e9, abs=1e-12)
