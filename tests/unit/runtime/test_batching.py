"""Requests that come and go: the books balance, whatever arrives, however little KV cache there is."""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from pathlib import Path

import pytest

from simulator.plan import Workload
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.scheduling.base import SchedulingPolicy, Turn
from simulator.policies.scheduling.continuous import Continuous
from simulator.residency import PolicyError
from simulator.scenario import ScenarioError
from tests.helpers import EXPERT_BYTES, random_trace, run, steps_of, system, tiny_model, tiny_platform

MODEL = {"layers": 2, "experts": 4, "top_k": 2}
KV_TOKEN_BYTES = 256  # 2 layers, keys and values of 2 heads of 16 numbers of 2 bytes
ALL = 8 * EXPERT_BYTES


def requests_file(tmp_path, arrivals_s, prompt=6, decode=5):
    path = tmp_path / "requests.csv"
    rows = [f"{at},{prompt},{decode + n % 3}" for n, at in enumerate(arrivals_s)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens", *rows]) + "\n")
    return str(path)


def serve(tmp_path, arrivals_s, *, workers=1, roles=None, scheduling=None, prompt=6, workload=None, **settings):
    scheduling = scheduling or partial(Continuous, max_batch=4, token_budget=8)
    return run(
        tiny_model(**MODEL),
        random_trace(3, 5, 12, prompt=4, **MODEL),
        tiny_platform(workers),
        system(scheduling=scheduling, **(roles or {})),
        Workload(**{"file": requests_file(tmp_path, arrivals_s, prompt), "binding": "cycle", **(workload or {})}),
        **{"timeline": False, "cache_bytes": ALL, "kv_page_tokens": 4, **settings},
    )


BURST = [0.0, 0.0, 0.00001, 0.00002, 0.00002, 0.0005, 0.0005, 0.02]


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("prediction", [None, TransitionPrediction, OraclePrediction])
@pytest.mark.parametrize("room", [3, 8])
def test_every_token_is_processed_once_and_in_order(tmp_path, workers, prediction, room):
    roles = {} if prediction is None else {"prediction": prediction}
    result = serve(tmp_path, BURST, workers=workers, roles=roles, cache_bytes=room * EXPERT_BYTES)
    rows = result.requests
    assert rows.request.tolist() == list(range(len(BURST)))
    assert rows.decode_tokens.tolist() == [5 + n % 3 for n in range(len(BURST))]
    assert (rows.context_tokens == 6 + rows.decode_tokens).all()
    assert (rows.start_s >= rows.arrival_s).all()
    assert (rows.ttft_s > rows.queued_s).all()
    assert (rows.latency_s > rows.ttft_s).all()
    assert rows.arrival_s.tolist() == pytest.approx(BURST)
    summary = result.summary
    assert summary["decode_tokens"] == rows.decode_tokens.sum()
    assert summary["prefill_tokens"] == 6 * len(BURST)
    for record in result.records:
        assert record.tokens <= 8
        assert len(record.requests) <= 4
    context = Counter()
    for record in result.records:
        for request, after in zip(record.requests, record.kv_tokens, strict=True):
            assert after > context[request]
            context[request] = after


def test_a_step_may_hold_decoding_requests_and_a_chunk_of_a_prompt(tmp_path):
    result = serve(tmp_path, [0.0, 0.00002], prompt=20)
    mixed = [r for r in result.records if r.prompt_tokens and r.tokens > r.prompt_tokens]
    assert mixed
    chunks = [r.prompt_tokens for r in result.records if r.prompt_tokens]
    assert max(chunks) <= 8
    assert sum(chunks) == 40


def test_nothing_runs_before_it_arrives_and_the_worker_idles(tmp_path):
    result = serve(tmp_path, [0.5, 2.0])
    assert result.records[0].start_ps == 500_000_000_000
    assert result.requests.queued_s.tolist() == [0.0, 0.0]
    assert result.summary["duration_s"] < 0.1 < result.summary["makespan_s"]


@pytest.mark.parametrize("prediction", [None, TransitionPrediction])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_event_for_every_operation_gives_the_same_run(tmp_path, workers, prediction):
    roles = {} if prediction is None else {"prediction": prediction}
    one, other = (
        serve(tmp_path, BURST, workers=workers, roles=roles, cache_bytes=3 * EXPERT_BYTES, stepwise=stepwise)
        for stepwise in (False, True)
    )
    assert steps_of(one) == steps_of(other)
    assert one.request_rows == other.request_rows


def test_the_same_run_twice_is_the_same(tmp_path):
    one, other = (serve(tmp_path, BURST, cache_bytes=3 * EXPERT_BYTES) for _ in range(2))
    assert steps_of(one) == steps_of(other)
    assert one.summary == other.summary


@pytest.mark.parametrize("preempt", ["recompute", "swap"])
@pytest.mark.parametrize("workers", [1, 2])
def test_under_pressure_requests_are_preempted_and_finish(tmp_path, workers, preempt):
    pages = 5  # of 4 tokens; a request needs up to four
    result = serve(
        tmp_path,
        BURST,
        workers=workers,
        scheduling=partial(Continuous, max_batch=4, token_budget=8, preempt=preempt),
        kv_cache_bytes=pages * 4 * KV_TOKEN_BYTES,
    )
    rows, batcher = result.requests, result.run.batcher
    assert len(rows) == len(BURST)
    assert rows.preemptions.sum() > 0
    assert max(batcher.pages.peak_bytes) <= pages * 4 * KV_TOKEN_BYTES
    assert batcher.pages.free_bytes == [pages * 4 * KV_TOKEN_BYTES] * workers
    assert result.summary["decode_tokens"] == rows.decode_tokens.sum()
    assert rows.decode_tokens.tolist() == [5 + n % 3 for n in range(len(BURST))]
    prompts = result.summary["prefill_tokens"]
    moved = result.links.set_index("lane").requested_bytes
    if preempt == "swap":
        assert prompts == 6 * len(BURST)
        assert moved["gpu0->dram"] > 0
        assert moved.filter(like="->dram").sum() % (4 * KV_TOKEN_BYTES) == 0
    else:
        assert prompts > 6 * len(BURST)


def test_kv_cache_is_never_above_what_there_is(tmp_path):
    for pages in (4, 6, 9):
        result = serve(tmp_path, BURST, kv_cache_bytes=pages * 4 * KV_TOKEN_BYTES)
        assert result.run.batcher.pages.peak_bytes[0] <= pages * 4 * KV_TOKEN_BYTES
        assert result.run.memories[0].kv_bytes == pages * 4 * KV_TOKEN_BYTES


def test_a_request_that_never_fits_is_refused_before_the_run(tmp_path):
    with pytest.raises(ScenarioError, match="bytes of KV cache for its 13 tokens"):
        serve(tmp_path, BURST, kv_cache_bytes=3 * 4 * KV_TOKEN_BYTES)


def test_experts_on_the_host_cpu_serve_a_batch_too(tmp_path):
    result = serve(tmp_path, BURST, roles={"execution": partial(CpuInPlace, 2)}, cache_bytes=3 * EXPERT_BYTES)
    assert result.layers.on_cpu.sum() > 0
    assert len(result.requests) == len(BURST)


def test_slo_decides_the_goodput(tmp_path):
    free = serve(tmp_path, BURST)
    assert free.summary["goodput_requests_per_s"] is None
    limit_s = float(free.requests.ttft_s.median())
    held = serve(tmp_path, BURST, workload={"slo_ttft_s": limit_s, "slo_tpot_s": 1.0})
    met = (free.requests.ttft_s <= limit_s).sum()
    assert 0 < met < len(BURST)
    assert held.summary["slo_attainment"] == met / len(BURST)
    assert held.summary["goodput_requests_per_s"] == pytest.approx(met / held.summary["makespan_s"])


def test_each_request_is_held_to_its_own_slo_and_the_others_to_that_of_the_run(tmp_path):
    free = serve(tmp_path, BURST)
    worst_s, own = float(free.requests.ttft_s.max()), ["", "1e-9", "", "9", "1e-9", "", "", ""]
    path = tmp_path / "slo.csv"
    rows = [f"{at},6,{5 + n % 3},{own[n]},{'ab'[n % 2]}" for n, at in enumerate(BURST)]
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens,slo_ttft_s,tenant", *rows]) + "\n")
    held = serve(tmp_path, BURST, workload={"slo_ttft_s": worst_s, "file": str(path)})
    assert held.requests.slo_met.tolist() == [limit != "1e-9" for limit in own]
    assert held.requests.slo_ttft_s.tolist()[3] == 9
    assert held.requests.ttft_s.tolist() == free.requests.ttft_s.tolist()
    (row,) = held.tasks.to_dict("records")
    assert (row["requests"], row["slo_attainment"]) == (8, 0.75)
    assert row["goodput_requests_per_s"] == held.summary["goodput_requests_per_s"]
    assert free.tasks.slo_attainment.tolist() == [None]


def test_clients_of_a_closed_loop_think_between_requests(tmp_path):
    path = tmp_path / "loop.csv"
    lines = ["arrival_s,prompt_tokens,decode_tokens,client,think_s"]
    lines += [f"{'0.001' if n < 2 else ''},6,4,{n % 2},0.001" for n in range(6)]
    path.write_text("\n".join(lines) + "\n")
    result = run(
        tiny_model(**MODEL),
        random_trace(3, 5, 12, prompt=4, **MODEL),
        tiny_platform(),
        system(scheduling=Continuous),
        Workload(file=str(path), binding="cycle"),
        timeline=False,
        cache_bytes=ALL,
    )
    rows = result.requests
    ends = rows.arrival_s + rows.latency_s
    for n in range(2, 6):
        assert rows.arrival_s[n] == pytest.approx(ends[n - 2] + 0.001, abs=1e-12)


class Greedy(SchedulingPolicy):
    """Names the first waiting request with more tokens than it has."""

    def next_turn(self, view):
        return Turn({view.waiting[0]: view.waiting[0].prompt_left + 1} if view.waiting else {})


class Idle(SchedulingPolicy):
    """Never runs anything."""

    def next_turn(self, view):
        return Turn()


@pytest.mark.parametrize(("policy", "words"), [(Greedy, "7 tokens; expected from 1 to 6"), (Idle, "runs nothing")])
def test_a_scheduler_that_breaks_its_contract_is_told(tmp_path, policy, words):
    with pytest.raises(PolicyError, match=words):
        serve(tmp_path, BURST, scheduling=policy)


def test_the_scheduler_of_the_guide_runs(tmp_path):
    page = Path(__file__).parents[3] / "docs" / "serving_runtime.md"
    (example,) = re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.S)
    names = {}
    exec(example, names)
    result = serve(tmp_path, BURST, scheduling=names["ShortestFirst"])
    assert len(result.requests) == len(BURST)
    assert result.requests.preemptions.sum() == 0


@pytest.mark.parametrize(
    ("values", "words"), [({"max_batch": 0}, "at least 1"), ({"preempt": "drop"}, "recompute or swap")]
)
def test_wrong_parameters_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        Continuous(**values)


def test_batches_in_lockstep_and_continuous_batching_exclude_each_other(tmp_path):
    with pytest.raises(ScenarioError, match=r"workload\.batch_size is 2"):
        serve(tmp_path, BURST, workload={"batch_size": 2})
