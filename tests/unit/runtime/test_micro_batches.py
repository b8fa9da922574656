"""Layers that stream through a GPU for micro-batches: order of jobs, closed forms, books, planner, refusals."""

from __future__ import annotations

from collections import defaultdict
from functools import cache, partial
from itertools import pairwise

import numpy as np
import pytest

from simulator.chrome_trace import chrome_trace
from simulator.engine import PS_PER_S, Clock, Fabric, Lane, Medium
from simulator.plan import Workload
from simulator.policies.pipeline.micro_batches import MicroBatches
from simulator.policies.pipeline.stream_graph import STREAM_OF, Kind
from simulator.result import Result
from simulator.scenario import ScenarioError, Settings
from simulator.streaming.costs import MicroBatchCosts, balanced
from simulator.streaming.memory import Rooms, resident_share
from simulator.streaming.planner import Machine, search
from simulator.streaming.streams import Job, Streams, critical
from tests.helpers import EXPERT_BYTES, random_trace, run, system, tiny_model, tiny_platform

LAYERS, EXPERTS, REQUESTS = 4, 4, 12
MODEL = tiny_model(LAYERS, EXPERTS, 2)
FLEXGEN = {"attention": "gpu", "look_ahead": 0, "paged": False, "staged": False, "pageable_kv": True}
KINDS = {
    "cgopipe": {},
    "unpaged": {"paged": False},
    "flexgen": FLEXGEN,
    "flexgen_cpu_attention": {"look_ahead": 0, "paged": False, "staged": False},
}


@cache
def trace(tokens: int = 8, prompt: int = 4):
    return random_trace(1, REQUESTS, tokens, LAYERS, EXPERTS, 2, prompt)


def streamed(platform=None, batch_size=REQUESTS, prompt=4, settings=None, **parameters) -> Result:
    parameters = {"micro_batch": 3, "resident_weights": 0.0, **parameters}
    choice = system(pipeline=partial(MicroBatches, **parameters))
    workload = Workload(batch_size=batch_size)
    return run(MODEL, trace(8, prompt), platform or tiny_platform(), choice, workload, **(settings or {}))


def layer_bytes(model=MODEL) -> int:
    return model.layer_dense_bytes(0) + model.experts * model.expert_bytes


# ---- streams


@pytest.mark.parametrize("seed", range(6))
def test_jobs_end_when_a_recursion_over_streams_and_needs_says(seed):
    """With a medium for each lane: end = latest of what is needed and of the stream's last job + its own duration."""
    rng = np.random.default_rng(seed)
    clock, fabric = Clock(), Fabric()
    lanes = [None] + [
        fabric.add_lane(Lane(f"lane {n}", [fabric.add_medium(Medium(f"medium {n}", 10**9 * n))], 1000 * n))
        for n in (1, 2)
    ]
    streams = Streams(clock, fabric, 0, lanes)
    jobs: list[Job] = []
    expected: list[int] = []
    free = [0, 0, 0]
    for number in range(200):
        stream = int(rng.integers(3))
        needed = sorted({int(n) for n in rng.integers(number, size=2)}) if number else []
        after = [jobs[n] for n in needed]
        amount = int(rng.integers(0, 50))
        if stream == 0:
            job, duration = Job("", after, cost=(amount, (amount, 0, 0))), amount
        else:
            size = amount * 100
            job = Job("", after, size_bytes=size)
            duration = 1000 * stream + size * 1000 // stream if size else 0
        start = max([free[stream], *(expected[n] for n in needed)])
        free[stream] = start + duration
        expected.append(start + duration)
        jobs.append(job)
        streams.add(stream, job)
    last = Job("last", jobs, cost=(1, (1, 0, 0)))
    streams.add(0, last)
    clock.run(until=clock.process(streams.run(last, 0)))
    assert [job.end_ps for job in jobs] == expected
    assert all(job.cause is None or job.start_ps in (0, job.cause.end_ps) for job in jobs)
    path = critical(last, 0)
    assert all(before.end_ps == after.start_ps for before, after in pairwise(path))
    assert path[0].start_ps == 0


@pytest.mark.parametrize("prefill", [False, True])
@pytest.mark.parametrize("parts", [1, 2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_before_its_weights_and_no_page_overwrites_a_layer_in_use(kind, parts, prefill):
    """By what has to have ended before each task, through needs and the order of its stream."""
    tasks = MicroBatches(**KINDS[kind]).stream_tasks(LAYERS, parts, prefill, 0, True, 0.2)
    before: list[set[int]] = []
    latest: dict[int, int] = {}
    for place, task in enumerate(tasks):
        direct = [*task.after, *([latest[STREAM_OF[task.kind]]] if STREAM_OF[task.kind] in latest else [])]
        before.append(set(direct).union(*(before[n] for n in direct)))
        latest[STREAM_OF[task.kind]] = place

    def places(layer, *kinds):
        return {n for n, task in enumerate(tasks) if task.layer == layer and task.kind in kinds}

    for place, (what, layer, part, _, _) in enumerate(tasks):
        pages = places(layer, Kind.WEIGHTS)
        if what in (Kind.BACK, Kind.WHOLE):
            assert pages <= before[place]
        if what is Kind.FRONT:
            assert min(pages) in before[place]
            assert {n for n in places(layer - 1, Kind.BACK) if tasks[n].part == part} <= before[place]
        if what is Kind.WEIGHTS:
            assert places(layer - 2, Kind.FRONT, Kind.BACK, Kind.WHOLE) <= before[place]
    assert len(places(LAYERS, Kind.WEIGHTS)) == (parts if kind == "cgopipe" else 1)  # of the next step


# ---- whole runs


@pytest.mark.parametrize("kind", KINDS)
def test_books_balance_and_nothing_does_two_things_at_once(kind):
    """Attribution and bytes are checked by the run itself; here: slices of one track, and what crossed the link."""
    result = streamed(**KINDS[kind])
    segments = result.run.recorder.segments
    assert all(before.end_ps <= after.begin_ps for before, after in pairwise(segments))
    busy = defaultdict(list)
    for name, _, _, begin, end, _ in result.run.recorder.log:
        busy[name].append((begin, end))
    for spans in busy.values():
        assert all(before[1] <= after[0] for before, after in pairwise(sorted(spans)))
    steps = len(result.records)
    lane = next(lane for lane in result.run.fabric.lanes if lane.name == "dram->gpu0")
    weights = steps * LAYERS * layer_bytes()
    kv_or_hidden = lane.delivered_bytes - weights
    assert lane.pending_bytes == 0
    decoded = sum(record.tokens for record in result.records if not record.prefill)
    if kind == "flexgen":  # the cache before each token
        length = sum(sum(r.kv_tokens) - r.tokens for r in result.records if not r.prefill)
        assert kv_or_hidden == sum(MODEL.kv_bytes(1, [layer]) for layer in range(LAYERS)) * length
    else:
        assert kv_or_hidden == decoded * LAYERS * 32 * 2
    assert sum(record.busy_ps for record in result.records) == sum(s.end_ps - s.begin_ps for s in segments)


@pytest.mark.parametrize("kind", KINDS)
def test_an_event_for_every_action_changes_nothing(kind):
    one, other = (streamed(settings={"stepwise": stepwise}, **KINDS[kind]) for stepwise in (False, True))
    assert [(r.start_ps, r.end_ps, r.waited_ps) for r in one.records] == [
        (r.start_ps, r.end_ps, r.waited_ps) for r in other.records
    ]


def test_behind_a_slow_link_a_step_is_its_bytes_over_the_rate():
    """12 requests, 2 bytes per value; between steps nothing is waited for, as pages of the next one come meanwhile."""
    slow = tiny_platform(link_bytes_per_s=1e6, link_latency_s=0.0)
    result = streamed(slow)
    lengths = [r.end_ps - r.start_ps for r in result.records if not r.prefill and r.tokens == REQUESTS]
    moved = LAYERS * (layer_bytes() + REQUESTS * 32 * 2)
    assert lengths[1:3] == pytest.approx([moved / 1e6 * PS_PER_S] * 2, rel=0.01)


def test_behind_a_fast_link_a_step_is_what_the_gpu_computes():
    fast = tiny_platform(link_bytes_per_s=1e14, link_latency_s=0.0, dram_bytes_per_s=1e15, gpu_bytes_per_s=1e8)
    result = streamed(fast)
    record = next(record for record in result.records if not record.prefill)
    assert record.busy_ps == pytest.approx(record.end_ps - record.start_ps, rel=0.02)


def test_behind_a_slow_cpu_a_step_is_its_attention():
    """2 heads of 16, keys and values: 128 operations for each key of each request; the CPU reaches half its peak."""
    slow = tiny_platform(link_bytes_per_s=1e13, link_latency_s=0.0, dram_bytes_per_s=1e15, cpu_flop_per_s=1e6)
    result = streamed(slow)
    record = next(record for record in result.records if not record.prefill)
    expected_s = LAYERS * sum(record.kv_tokens) * 128 / 0.5e6
    assert record.end_ps - record.start_ps == pytest.approx(expected_s * PS_PER_S, rel=0.01)
    assert record.waited_ps["cpu"] == pytest.approx(record.end_ps - record.start_ps, rel=0.01)


@pytest.mark.parametrize(("staged", "passes"), [(False, 1), (True, 3)])
def test_behind_slow_host_memory_a_step_is_all_that_passes_it(staged, passes):
    """Weights are read once by the link; staged, they have been read and written once before."""
    slow = tiny_platform(link_bytes_per_s=1e13, link_latency_s=0.0, dram_bytes_per_s=1e6)
    record = streamed(slow, staged=staged).records[3]  # the third token of all requests
    assert (record.prefill, record.tokens) == (False, REQUESTS)
    kv = sum(MODEL.kv_bytes(length) for length in record.kv_tokens)
    token = REQUESTS * LAYERS * 32 * 2 * (3 + 1)  # queries, keys and values to the host, outputs back
    expected_s = (passes * LAYERS * layer_bytes() + kv + token) / 1e6
    assert record.end_ps - record.start_ps == pytest.approx(expected_s * PS_PER_S, rel=1e-4)


def test_a_recorded_run_is_a_chrome_trace_with_its_streams():
    trace_ = chrome_trace(streamed().run)
    names = {event["name"] for event in trace_["traceEvents"]}
    assert {"front 0/0", "experts 3/3", "layer 0/0", "activations", "prefetch 1/0"} <= names


def test_one_copy_of_a_layer_that_activations_wait_for_costs_its_time_and_pages_do_not():
    """Balanced link and GPU: in pages both work side by side, in one copy one after the other, all but the first
    micro-batch (arXiv 2411.11217, figure 6)."""
    weights_s = layer_bytes() / 1e9
    gpu = tiny_platform(
        link_latency_s=0.0, launch_s=0.0, dram_bytes_per_s=1e15, gpu_bytes_per_s=layer_bytes() * 5 / weights_s
    )
    whole, paged = (streamed(gpu, micro_batch=2, paged=paged) for paged in (False, True))
    steps = [next(r for r in result.records if not r.prefill and r.tokens == REQUESTS) for result in (whole, paged)]
    times, work = [r.end_ps - r.start_ps for r in steps], [r.busy_ps for r in steps]
    assert times[0] > 1.3 * times[1]
    link = LAYERS * weights_s * PS_PER_S
    assert max(link, work[1]) <= times[1] <= 1.25 * max(link, work[1])
    assert times[0] >= 0.9 * (link + work[0] * 5 / 6)


def test_what_all_stays_on_the_gpu_is_copied_never():
    result = streamed(resident_weights=None)
    moved = result.links.set_index("lane").delivered_bytes["dram->gpu0"]
    decoded = sum(record.tokens for record in result.records if not record.prefill)
    assert moved == decoded * LAYERS * 32 * 2  # attention's outputs alone
    assert result.summary["hit_rate"] == 1.0
    assert result.summary["prefetch_bytes"] == 0


def test_a_share_that_stays_is_not_copied():
    whole, less = (streamed(resident_weights=share).summary["prefetch_bytes"] for share in (0.0, 0.25))
    assert less == pytest.approx(0.75 * whole, rel=1e-3)


def test_prompts_run_in_micro_batches_and_leave_their_keys_in_host_memory():
    result = streamed()
    first = result.records[0]
    assert (first.prefill, first.prompt_tokens) == (True, 4 * REQUESTS)
    out = result.links.set_index("lane").delivered_bytes["gpu0->dram"]
    decoded = sum(record.tokens for record in result.records if not record.prefill)
    keys, queries = MODEL.kv_bytes(1), LAYERS * 32 * 2
    assert out == 4 * REQUESTS * keys + decoded * (keys + queries)
    held = result.run.host.peak_bytes()
    assert held == MODEL.dense_bytes + LAYERS * EXPERTS * EXPERT_BYTES + sum(8 + n for n in range(REQUESTS)) * keys


def test_a_second_batch_finds_its_first_layer_coming():
    one, two = (streamed(batch_size=size) for size in (REQUESTS, REQUESTS // 2))
    assert two.summary["decode_tokens"] == one.summary["decode_tokens"]
    assert {record.batch for record in two.records} == {0, 1}


# ---- parts


def test_the_longest_request_goes_to_the_emptiest_micro_batch():
    assert balanced([9, 8, 3, 2, 1, 1], 2).tolist() == [0, 1, 2, 2, 1, 0]
    parts = balanced([7] * 10, 4)
    assert sorted(np.bincount(parts).tolist()) == [3, 3, 4]


def test_pages_of_a_layer_are_the_layer():
    rooms = Rooms(dense=(10,), experts=(95,), fixed=1, resident=0.1)
    pages = [rooms.page_bytes(0, page, 4) for page in range(4)]
    assert sum(pages) == 105 - 10
    assert max(pages) - min(pages) <= 1


def test_what_stays_and_two_buffers_of_the_rest_fill_the_room():
    share = resident_share(400, [100] * 10)
    assert share * 1000 + 2 * (1 - share) * 100 == pytest.approx(400)
    assert resident_share(1000, [100] * 10) == 1.0
    assert resident_share(199, [100] * 10) < 0


@pytest.mark.parametrize("kind", ["cgopipe", "flexgen"])
def test_the_planned_micro_batch_is_as_good_as_the_best_by_simulation(kind):
    """All micro-batches of 12 equal requests are tried; a GPU as slow as the link makes the choice matter."""
    platform = tiny_platform(gpu_bytes_per_s=1e9, link_latency_s=0.0)
    same = random_trace(2, REQUESTS, 1, LAYERS, EXPERTS, 2)
    workload = Workload(batch_size=REQUESTS, decode_tokens=6, prompt_tokens=32, binding="resample")

    def seconds(micro_batch: int | None) -> Result:
        choice = system(pipeline=partial(MicroBatches, micro_batch, resident_weights=0.0, **KINDS[kind]))
        return run(MODEL, same, platform, choice, workload, timeline=False)

    times = {size: seconds(size).summary["duration_s"] for size in range(1, REQUESTS + 1)}
    chosen = seconds(None)
    assert max(times.values()) > 1.5 * min(times.values())
    assert chosen.summary["duration_s"] <= 1.1 * min(times.values())
    assert any("planned micro-batches of" in remark for remark in chosen.run.remarks)


def test_the_search_takes_no_more_requests_than_host_memory_holds_and_no_more_than_help():
    platform = tiny_platform()
    costs = MicroBatchCosts(MODEL, [EXPERT_BYTES] * LAYERS, platform.device("gpu0"), platform.device("cpu"))
    machine = Machine.of(costs, platform, "gpu0", Settings(workspace_bytes=0), [EXPERT_BYTES] * LAYERS)
    pipeline = MicroBatches(resident_weights=0.0)
    free = search(machine, pipeline, 0, 64)
    weights = MODEL.dense_bytes + LAYERS * EXPERTS * EXPERT_BYTES
    assert weights + free.requests * MODEL.kv_bytes(64) <= 10**9
    assert free.requests % free.micro_batch == 0
    given = [search(machine, pipeline, 0, 64, requests=n).tokens_per_s for n in (4, 16, 64)]
    assert given == sorted(given)
    assert free.tokens_per_s >= 0.99 * given[-1]


# ---- refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"platform": tiny_platform(2)}, "needs a platform of one worker; tiny has 2"),
        ({"platform": tiny_platform(home="ssd")}, "needs platform.home to be the host's dram"),
        ({"resident_weights": 1.0, "settings": {"cache_bytes": 12 * EXPERT_BYTES}}, "expected at most 0.5000"),
        ({"settings": {"cache_bytes": EXPERT_BYTES}}, "micro-batches of 3 (policy.pipeline.micro_batch)"),
        ({"micro_batch": None, "settings": {"cache_bytes": EXPERT_BYTES}}, "not even micro-batches of one request fit"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(changes, words):
    with pytest.raises(ScenarioError) as error:
        streamed(**changes)
    assert words in str(error.value)
    assert "\n" not in str(error.value)


def test_models_with_other_layers_are_refused():
    dense_first = tiny_model(LAYERS + 1, EXPERTS, 2, first_dense_layers=1, dense_intermediate=64)
    with pytest.raises(ScenarioError, match="every layer has experts"):
        run(dense_first, trace(), tiny_platform(), system(pipeline=MicroBatches))


def test_a_batch_that_host_memory_cannot_hold_is_refused():
    """10^9 bytes, of which a token's keys and values take 1 KiB in four layers."""
    workload = Workload(batch_size=REQUESTS, prompt_tokens=200_000, decode_tokens=8, binding="resample")
    with pytest.raises(ScenarioError, match="of KV cache of a batch of 12 requests"):
        run(MODEL, trace(8, 0), tiny_platform(), system(pipeline=partial(MicroBatches, 3)), workload)


@pytest.mark.parametrize(
    "wrong", [{"micro_batch": 0}, {"attention": "tpu"}, {"look_ahead": -1}, {"resident_weights": 1.5}]
)
def test_parameters_out_of_range_name_their_key(wrong):
    with pytest.raises(ValueError, match=f"policy.pipeline.{next(iter(wrong))} is"):
        MicroBatches(**wrong)
