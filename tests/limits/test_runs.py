"""Whole runs against closed forms. Times in ps; an expert of the tiny model has 12288 bytes."""

from __future__ import annotations

import math
from functools import partial

import pytest

from simulator.plan import Step, Workload
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.fifo import Fifo
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.popularity import Popularity
from simulator.policies.cache.s3fifo import S3Fifo
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.slots.uniform import UniformSlots
from simulator.replay import replay
from simulator.result import Result
from simulator.runtime.costs import DenseCosts, ExpertCosts
from tests.helpers import EXPERT_BYTES, HIDDEN, counts, random_trace, run, system, tiny_model, tiny_platform, tiny_trace

FREE = 1e18  # bytes/s: any transfer of ours takes one ps, the smallest time there is
LAYERS, EXPERTS, TOP_K = 3, 6, 2
MODEL = tiny_model(LAYERS, EXPERTS, TOP_K)
ALL = LAYERS * EXPERTS * EXPERT_BYTES
PS = 10**12


class Work:
    """Durations of a run's tasks on its first worker (or the named device), from the same tables."""

    def __init__(self, result: Result, device: str | None = None) -> None:
        scenario = result.run.scenario
        processor = scenario.platform.device(device or scenario.platform.workers[0])
        self._dense = DenseCosts(scenario.model, processor)
        self._experts = ExpertCosts(scenario.model, [EXPERT_BYTES] * len(scenario.model.moe_layers), processor)
        self.launch_ps = self._experts.launch_ps()

    def dense(self, step: Step, layer: int, mine: list[int] | None = None) -> int:
        return self._dense.table(step.block, mine)[step.row][layer][0]

    def expert(self, layer: int, tokens: int) -> int:
        """Without the launch."""
        return self._experts.alone_ps(layer, tokens)


def group_ps(work: Work, layer: int, blobs: list[int], tokens: list[int] | None) -> int:
    return sum(work.expert(layer, count) for count in (tokens or [1] * len(blobs)))


def distinct(result: Result) -> int:
    return len({blob for blobs in result.run.plan.groups() for blob in blobs})


def accesses(result: Result) -> int:
    return sum(len(blobs) for blobs in result.run.plan.groups())


# ---- one GPU


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_cache_without_limit_has_cold_misses_only_and_each_costs_one_load(batch_size):
    trace = random_trace(1, 3, 8, LAYERS, EXPERTS, TOP_K, prompt=3)
    result = run(MODEL, trace, tiny_platform(), workload=Workload(batch_size=batch_size), cache_bytes=ALL)
    assert counts(result) == {
        "hits": accesses(result) - distinct(result),
        "late": 0,
        "loads": distinct(result),
        "on_cpu": 0,
    }
    assert max(result.run.workers[0].expert_loads) == 1
    lane = result.run.fabric.lanes[0]
    assert (lane.transfers, lane.delivered_bytes) == (distinct(result), distinct(result) * EXPERT_BYTES)


def test_experts_that_are_all_here_from_the_start_leave_compute_alone():
    """Per layer: dense work, one launch, the experts one after another. Nothing else, to the tick."""
    trace = random_trace(2, 2, 6, LAYERS, EXPERTS, TOP_K, prompt=3)
    result = run(MODEL, trace, tiny_platform(), system(placement=PopularFirst), cache_bytes=ALL)
    work = Work(result)
    expected = 0
    for step in result.run.plan:
        for layer, (blobs, tokens) in enumerate(step.groups):
            expected += work.dense(step, layer) + work.launch_ps + group_ps(work, layer, blobs, tokens)
        expected += work.dense(step, LAYERS)
    assert result.duration_ps == expected
    assert counts(result)["hits"] == accesses(result)
    assert set(result.attribution_ps) <= {"hbm", "compute", "overhead"}


@pytest.mark.parametrize("slots", [2, 4, LAYERS * EXPERTS])
def test_links_without_cost_leave_compute_alone(slots):
    """A load takes 1 ps. Hits run as one launch, a loaded expert is a launch of its own; loads hide behind what runs
    before them, so only a layer without a hit stands still, for the 1 ps of its first load.
    """
    trace = random_trace(3, 2, 8, LAYERS, EXPERTS, TOP_K)
    free = tiny_platform(link_bytes_per_s=FREE, link_latency_s=0, dram_bytes_per_s=FREE)
    result = run(MODEL, trace, free, cache_bytes=slots * EXPERT_BYTES)
    rows = replay(result.run.plan, [EXPERT_BYTES] * LAYERS, EXPERTS, TOP_K, Lru, slots * EXPERT_BYTES, rows=True).rows
    work = Work(result)
    expected, groups = 0, iter(rows)
    for step in result.run.plan:
        for layer, (blobs, tokens) in enumerate(step.groups):
            hits = int(next(groups)[:, 3].sum())
            launches = (hits > 0) + len(blobs) - hits
            expected += work.dense(step, layer) + launches * work.launch_ps + group_ps(work, layer, blobs, tokens)
            expected += hits == 0
        expected += work.dense(step, LAYERS)
    assert result.duration_ps == expected


def test_one_layer_on_demand_by_hand():
    """Two missing experts, 1 GB/s and 1 us: they land 13.288 and 26.576 us after the router; one runs meanwhile."""
    result = run(tiny_model(1, 4, 2), tiny_trace([[[[2, 0]]]]), tiny_platform(), cache_bytes=4 * EXPERT_BYTES)
    work = Work(result)
    step = next(iter(result.run.plan))
    begin, one = work.dense(step, 0), work.launch_ps + work.expert(0, 1)
    load = 1_000_000 + EXPERT_BYTES * 1000
    assert one < load == 13_288_000
    assert result.run.fabric.log == [
        ("dram->gpu0", 2, True, begin, begin + load, EXPERT_BYTES),
        ("dram->gpu0", 0, True, begin + load, begin + 2 * load, EXPERT_BYTES),
    ]
    assert result.duration_ps == begin + 2 * load + one + work.dense(step, 1)
    assert result.attribution_ps["pcie"] == 2 * load


def test_an_oracle_with_bandwidth_hides_every_load_but_those_of_the_very_first_layer():
    """What layer l + 1 (or the next token) needs is asked for at layer l's look-up and lands before l has run; nothing
    comes before the first layer, so its two loads are seen in full, the second behind the first.
    """
    trace = random_trace(4, 1, 8, LAYERS, EXPERTS, TOP_K)
    fast = tiny_platform(link_bytes_per_s=1e11, link_latency_s=0, dram_bytes_per_s=1e11)
    result = run(MODEL, trace, fast, system(prediction=OraclePrediction), cache_bytes=ALL)
    work = Work(result)
    steps = list(result.run.plan)
    one, load = work.expert(0, 1), math.ceil(EXPERT_BYTES * PS / 1e11)
    assert TOP_K * load < one + work.launch_ps  # enough bandwidth: 245,760 ps of loads
    compute = sum(work.dense(step, layer) for step in steps for layer in range(LAYERS + 1))
    compute += sum(work.launch_ps + TOP_K * work.expert(layer, 1) for _ in steps for layer in range(LAYERS))
    # the first layer runs its two experts as two launches, the first of them `load` later than it could
    assert result.duration_ps == compute + load + work.launch_ps
    assert counts(result) == {"hits": accesses(result) - TOP_K, "late": 0, "loads": TOP_K, "on_cpu": 0}


def test_an_oracle_with_almost_no_bandwidth_hides_nothing_but_compute():
    """At 1 MB/s a load takes 12 ms and a layer computes for microseconds: both runs wait for the same 12 ms loads one
    after another, so they differ by less than all compute there is, here under 1 %.
    """
    trace = random_trace(4, 1, 8, LAYERS, EXPERTS, TOP_K)
    slow = tiny_platform(link_bytes_per_s=1e6)
    demand = run(MODEL, trace, slow, cache_bytes=ALL)
    oracle = run(MODEL, trace, slow, system(prediction=OraclePrediction), cache_bytes=ALL)
    loads = distinct(demand) * (1_000_000 + EXPERT_BYTES * PS // 10**6)
    assert loads < oracle.duration_ps <= demand.duration_ps
    compute = demand.run.workers[0].busy_ps
    assert demand.duration_ps - oracle.duration_ps < compute < 0.01 * demand.duration_ps


ORDERED = {  # all but random eviction, which draws from another generator here than in a replay
    "lru": Lru,
    "lfu": Lfu,
    "lfu with history": partial(Lfu, history=True),
    "fifo": Fifo,
    "s3fifo": S3Fifo,
    "popularity": Popularity,
    "belady": Belady,
}


@pytest.mark.parametrize("name", ORDERED)
@pytest.mark.parametrize("slots", [TOP_K, 5, 9, 14])
def test_without_prefetch_hits_and_misses_are_those_of_the_cache_alone(name, slots):
    trace = random_trace(slots, 4, 12, LAYERS, EXPERTS, TOP_K)
    workload = Workload(requests=3)  # the fourth is for policies that learn
    result = run(MODEL, trace, tiny_platform(), system(cache=ORDERED[name]), workload, cache_bytes=slots * EXPERT_BYTES)
    alone = replay(result.run.plan, [EXPERT_BYTES] * LAYERS, EXPERTS, TOP_K, ORDERED[name], slots * EXPERT_BYTES)
    assert [row[:3] for row in result.run.workers[0].layer_counts[0]] == [
        [hits, 0, misses] for hits, misses in zip(alone.hits[1].tolist(), alone.misses[1].tolist(), strict=True)
    ]


@pytest.mark.parametrize("name", ORDERED)
def test_equal_partitions_hit_and_miss_as_in_the_cache_alone(name):
    trace = random_trace(5, 3, 12, LAYERS, EXPERTS, TOP_K)
    budget = LAYERS * 3 * EXPERT_BYTES
    choice = system(cache=ORDERED[name], slots=UniformSlots)
    result = run(MODEL, trace, tiny_platform(), choice, Workload(requests=2), cache_bytes=budget)
    alone = replay(result.run.plan, [EXPERT_BYTES] * LAYERS, EXPERTS, TOP_K, ORDERED[name], budget, scope="layer")
    assert counts(result)["hits"] == alone.hits.sum()
    assert counts(result)["loads"] == alone.misses.sum()


def test_a_group_larger_than_the_cache_streams_through_it_one_after_another():
    """A prompt asks for all six experts of a layer; one fits. Each is loaded when the one before has run."""
    ids = [[[2 * token, 2 * token + 1]] for token in range(3)]
    trace = tiny_trace([ids], EXPERTS, prompts=[3])
    result = run(tiny_model(1, EXPERTS, TOP_K), trace, tiny_platform(), cache_bytes=EXPERT_BYTES)
    work = Work(result)
    step = next(iter(result.run.plan))
    load, one = 1_000_000 + EXPERT_BYTES * 1000, work.launch_ps + work.expert(0, 1)
    assert result.duration_ps == work.dense(step, 0) + 6 * (load + one) + work.dense(step, 1)
    assert counts(result) == {"hits": 0, "late": 0, "loads": 6, "on_cpu": 0}
    assert result.run.tiers[0].peak_bytes() == EXPERT_BYTES


@pytest.mark.parametrize("slots", [1, 2, 3, 5])
@pytest.mark.parametrize("name", ORDERED)
def test_while_groups_stream_memory_is_never_above_its_size_and_every_expert_runs(name, slots):
    trace = random_trace(6, 3, 8, LAYERS, EXPERTS, TOP_K, prompt=6)
    choice = system(cache=ORDERED[name], prediction=OraclePrediction)
    result = run(MODEL, trace, tiny_platform(), choice, Workload(requests=2), cache_bytes=slots * EXPERT_BYTES)
    assert result.run.tiers[0].peak_bytes() <= slots * EXPERT_BYTES
    assert sum(counts(result).values()) == accesses(result)


# ---- batches


def test_four_requests_of_one_mind_load_what_one_loads():
    rows = random_trace(7, 1, 6, LAYERS, EXPERTS, TOP_K).request(0).experts.tolist()
    one = run(MODEL, tiny_trace([rows], EXPERTS), tiny_platform(), cache_bytes=7 * EXPERT_BYTES)
    four = run(
        MODEL, tiny_trace([rows] * 4, EXPERTS), tiny_platform(), workload=Workload(batch_size=4),
        cache_bytes=7 * EXPERT_BYTES,
    )  # fmt: skip
    assert counts(four) == counts(one)


def test_what_several_requests_of_a_batch_ask_for_is_loaded_once():
    trace = tiny_trace([[[[0, 1]]], [[[1, 2]]], [[[2, 0]]]])
    result = run(tiny_model(1), trace, tiny_platform(), workload=Workload(batch_size=3), cache_bytes=4 * EXPERT_BYTES)
    assert sorted(entry[1] for entry in result.run.fabric.log) == [0, 1, 2]


# ---- CPU in place


def test_one_layer_on_the_host_cpu_by_hand():
    """Two experts, one after another, each the CPU's launch and then bytes at min(compute cap, DRAM); then activations
    of 2 x 32 values of 2 bytes there and back over the link.
    """
    platform = tiny_platform(dram_bytes_per_s=4e9)
    result = run(
        tiny_model(1), tiny_trace([[[[0, 1]], [[0, 1]]]]), platform, system(execution=CpuInPlace),
        cache_bytes=4 * EXPERT_BYTES,
    )  # fmt: skip
    work, cpu = Work(result), Work(result, "cpu")
    # 12288 bytes of weights and 2 x (32 + 64) activations of 2 bytes at 0.6 x 4 GB/s: 5.28 us
    assert cpu.expert(0, 1) == 5_280_000
    cap = EXPERT_BYTES * PS // cpu.expert(0, 1)
    assert cap < 4e9
    one = cpu.launch_ps + math.ceil(EXPERT_BYTES * PS / cap)
    round_trip = 2 * 1_000_000 + 2 * 2 * HIDDEN * 2 * 1000
    expected = 0
    for step in result.run.plan:
        expected += work.dense(step, 0) + 2 * one + round_trip + work.dense(step, 1)
    assert result.duration_ps == expected
    assert counts(result) == {"hits": 0, "late": 0, "loads": 0, "on_cpu": 4}


def test_a_copy_and_the_host_cpu_share_dram():
    """Expert 0 serves two tokens and is fetched, 1 and 2 serve one and run on the CPU. DRAM gives 4 GB/s; the copy
    alone would have all of it (3.072 us), the CPU 2.33 GB/s. Together each gets 2 GB/s: 6.144 us for 12288 bytes,
    after 1 us of latency. The second CPU expert then has DRAM to itself.
    """
    trace = tiny_trace([[[[0, 1]]], [[[0, 2]]]])
    platform = tiny_platform(dram_bytes_per_s=4e9, link_bytes_per_s=1e10)
    choice = system(execution=partial(CpuInPlace, max_tokens=1))
    result = run(tiny_model(1), trace, platform, choice, Workload(batch_size=2), cache_bytes=4 * EXPERT_BYTES)
    begin = Work(result).dense(next(iter(result.run.plan)), 0)
    both = begin + 1_000_000 + 6_144_000
    cap = EXPERT_BYTES * PS // Work(result, "cpu").expert(0, 1)
    then = both + 1_000_000 + math.ceil(EXPERT_BYTES * PS / cap)
    assert sorted(result.run.fabric.log, key=lambda entry: entry[1]) == [
        ("dram->gpu0", 0, True, begin, both, EXPERT_BYTES),
        ("cpu experts", 1, True, begin, both, EXPERT_BYTES),
        ("cpu experts", 2, True, both, then, EXPERT_BYTES),
    ]


# ---- SSD


def test_from_an_ssd_a_load_makes_two_hops_and_the_second_time_one():
    """0.5 GB/s and 2 us to DRAM, then 1 GB/s and 1 us; one slot on the GPU, so the host keeps what it drops."""
    trace = tiny_trace([[[[0]], [[1]], [[0]]]])
    platform = tiny_platform(home="ssd")
    result = run(tiny_model(1, 4, 1), trace, platform, cache_bytes=EXPERT_BYTES, host_cache_bytes=4 * EXPERT_BYTES)
    work = Work(result)
    read, copy = 2_000_000 + EXPERT_BYTES * 2000, 1_000_000 + EXPERT_BYTES * 1000
    steps = list(result.run.plan)
    compute = sum(work.dense(step, 0) + work.launch_ps + work.expert(0, 1) + work.dense(step, 1) for step in steps)
    assert result.duration_ps == compute + 2 * (read + copy) + copy
    assert (result.attribution_ps["ssd"], result.attribution_ps["pcie"]) == (2 * read, 3 * copy)


# ---- two GPUs


def test_each_gpu_loads_its_own_experts_only():
    trace = random_trace(8, 4, 6, LAYERS, EXPERTS, TOP_K, prompt=2)
    result = run(
        MODEL,
        trace,
        tiny_platform(2),
        system(prediction=OraclePrediction),
        Workload(batch_size=4),
        cache_bytes=ALL // 2,
    )
    loads = [(name, blob) for name, blob, *_ in result.run.fabric.log if blob >= 0]
    assert {name for name, _ in loads} == {"dram->gpu0", "dram->gpu1"}
    assert all(name == f"dram->gpu{blob % EXPERTS % 2}" for name, blob in loads)
    assert len(loads) == len(set(loads)) == distinct(result)


def test_two_gpus_with_messages_that_cost_nothing_take_the_slower_of_them_in_each_phase():
    """Requests 0 and 2 are on GPU 0, 1 and 3 on GPU 1. A layer takes the slower dense part, then the slower expert
    part. A message takes 1 ps, once before and once after the experts of a layer.
    """
    trace = random_trace(9, 4, 1, LAYERS, EXPERTS, TOP_K)
    free = tiny_platform(2, peer_bytes_per_s=FREE, peer_latency_s=0)
    choice = system(placement=PopularFirst)
    result = run(MODEL, trace, free, choice, Workload(batch_size=4, max_decode_tokens=1), cache_bytes=ALL)
    work = Work(result)
    (step,) = result.run.plan
    expected = 0
    for layer, (blobs, tokens) in enumerate(step.groups):
        expected += max(work.dense(step, layer, mine) for mine in ([0, 2], [1, 3]))
        parts = [[(b, c) for b, c in zip(blobs, tokens, strict=True) if b % 2 == rank] for rank in (0, 1)]
        expected += max(
            work.launch_ps * bool(part) + group_ps(work, layer, [b for b, _ in part], [c for _, c in part])
            for part in parts
        )
    expected += max(work.dense(step, LAYERS, mine) for mine in ([0, 2], [1, 3]))
    assert 0 <= result.duration_ps - expected <= 2 * LAYERS
    assert counts(result)["hits"] == accesses(result)


def test_two_gpus_behind_one_uplink_share_it():
    """Experts 0 and 1 of one layer go to different GPUs over one uplink of 1 GB/s.

    GPU 1 hears of its token 1.032 us later (1 us and 64 bytes at 2 GB/s), so 1032 bytes go to GPU 0 alone; the other
    11256 at half the rate, while GPU 1 receives as many; then GPU 1 gets its last 1032 bytes alone.
    """
    result = run(tiny_model(1), tiny_trace([[[[0, 1]]]]), tiny_platform(2), cache_bytes=4 * EXPERT_BYTES)
    loads = sorted(entry for entry in result.run.fabric.log if entry[1] >= 0)
    begin = loads[0][3]
    together = begin + 1_032_000 + 1_000_000
    ends = together + 2 * 11_256_000, together + 2 * 11_256_000 + 1_032_000
    assert loads == [
        ("dram->gpu0", 0, True, begin, ends[0], EXPERT_BYTES),
        ("dram->gpu1", 1, True, begin + 1_032_000, ends[1], EXPERT_BYTES),
    ]
