"""Units that compute where a memory is, against closed forms. An expert of the tiny model has 12288 bytes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import Platform, operators, time_s
from simulator.policies.attention.near_decode import NearDecode
from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.execution.near import all_slower_ps, slower_ps
from simulator.policies.execution.near_all import AllNear
from simulator.policies.execution.near_greedy import NearGreedy
from simulator.policies.execution.near_makespan import NearMakespan
from simulator.policies.execution.near_ratio import NearRatio
from simulator.policies.placement.popular import PopularFirst
from simulator.residency import PolicyError
from simulator.runtime.costs import DenseCosts
from simulator.runtime.near_attention import NearAttention
from simulator.scenario import ScenarioError
from simulator.timeline import timeline_of
from tests.helpers import EXPERT_BYTES, HIDDEN, WIDTH, counts, random_trace, run, system, tiny_model, tiny_trace

FREE = 1e15  # per second: takes next to nothing
READ_BYTES = EXPERT_BYTES + (2 * HIDDEN + 2 * WIDTH) * 2  # and the vectors of one token
IDEAL = {"compute_efficiency": {"grouped_gemm": 1.0}, "memory_efficiency": {"grouped_gemm": 1.0, "copy": 1.0}}
SOURCE = {"source": "made up"}


@cache
def machine(
    *,
    link: float = 1e9,
    inside: float = 4e9,
    units: tuple[float, ...] = (4e9,),
    unit_flops: float = FREE,
    own: bool = False,
    gpu: float = FREE,
    launch_s: float = 0.0,
) -> Platform:
    """A GPU on one link from a module that holds the experts. Units of the given bytes/s compute from the module's
    memory, or (`own`) from the GPU's, whose inside gives `inside`; nothing is lost to efficiencies or latencies."""
    memory = {"memory_capacity_bytes": 10**9, **SOURCE}
    devices = {
        "gpu0": {
            "kind": "gpu",
            "peak_flop_per_s": {"bf16": FREE},
            "memory_read_bytes_per_s": gpu,
            "internal_bytes_per_s": max(inside, gpu) if own else 0.0,
            "launch_overhead_s": launch_s,
            **IDEAL,
            **memory,
        },
        "module": {
            "kind": "dram",
            "memory_read_bytes_per_s": inside,
            "memory_efficiency": {"copy": 1.0},
            **memory,
        },
        **{
            f"near{number}": {
                "kind": "ndp",
                "memory": "gpu0" if own else "module",
                "peak_flop_per_s": {"fp16": unit_flops},
                "memory_read_bytes_per_s": rate,
                "compute_efficiency": {"grouped_gemm": 1.0},
                "memory_efficiency": {"grouped_gemm": 1.0},
                **SOURCE,
            }
            for number, rate in enumerate(units)
        },
    }
    cable = {"name": "cable", "kind": "cxl", "a": "module", "b": "gpu0", "bandwidth_bytes_per_s": link, **SOURCE}
    return Platform.from_mapping(
        {"name": "near", "workers": ["gpu0"], "home": "module", "devices": devices, "links": [cable]}
    )


class Shared(ExecutionPolicy):
    """Each unit takes every n-th expert that it can run; the worker what is left over (`kept` of every n)."""

    uses_units = True
    always = True

    def __init__(self, kept: int = 0) -> None:
        self._kept = kept

    def split(self, work):
        names = ("",) * self._kept + work.units
        parts = {unit: [] for unit in work.units}
        able = work.runs_on(work.units[0])
        for place, blob in enumerate(able):
            if name := names[place % len(names)]:
                parts[name].append(blob)
        near = {blob for blobs in parts.values() for blob in blobs}
        return Split([blob for blob in work.misses if blob not in near], units=parts)


def layer_s(platform: Platform, execution: type | object, experts: int = 4, **settings_: object) -> float:
    """Seconds of one decoding step of one layer, which asks for all its experts with one token each."""
    make = execution if isinstance(execution, type) else lambda: execution
    result = run(
        tiny_model(1, experts, experts),
        tiny_trace([[[list(range(experts))]]], experts),
        platform,
        system(execution=make, placement=PopularFirst) if settings_.pop("resident", False) else system(execution=make),
        **settings_,
    )
    dense = DenseCosts.of(tiny_model(1, experts, experts), platform.device("gpu0"))
    step = next(iter(result.run.plan))
    dense_ps = sum(part[0] for part in dense.table(step.block)[step.row])
    record = result.records[0]
    return (record.end_ps - record.start_ps - dense_ps) / 1e12


@pytest.mark.parametrize("width", [64, 128])
def test_moving_activations_beats_moving_weights_up_to_their_size(width) -> None:
    """Both over one link of L bytes/s, computing for nothing: 2 t h b against 3 h w b, so up to t = 3 w / 2 tokens."""
    platform = machine(inside=FREE, units=(FREE,))
    model = tiny_model(1, 2, 1, expert_intermediate=width)
    for tokens in (3 * width // 2 - 1, 3 * width // 2 + 1):
        trace = tiny_trace([[[[0]]] * tokens + [[[1]]]], 2, prompts=[tokens])
        took, loads = {}, {}
        for choice in (FetchToGpu, AllNear, NearMakespan):
            result = run(model, trace, platform, system(execution=choice))
            took[choice] = result.records[0].end_ps - result.records[0].start_ps
            loads[choice] = result.records[0].loads
        assert (took[AllNear] < took[FetchToGpu]) == (tokens < 3 * width / 2)
        assert loads[NearMakespan] == (tokens > 3 * width / 2)
        assert took[NearMakespan] == min(took.values())


@pytest.mark.parametrize("rates", [(4e9,), (4e9, 4e9), (1e9, 1e9), (4e9, 4e9, 4e9, 4e9)])
def test_units_over_one_memory_get_its_bandwidth_together_and_no_more(rates) -> None:
    """n units of rate r with an equal share each: bytes / min(n r, memory)."""
    took_s = layer_s(machine(link=FREE, units=rates), Shared)
    assert took_s == pytest.approx(4 * READ_BYTES / min(sum(rates), 4e9), rel=0.011)  # inputs and results: 1 %


@pytest.mark.parametrize("inside", [4e9, 6e9, 8e9, 20e9])
def test_a_logic_die_and_the_gpu_share_what_their_memory_gives_inside(inside) -> None:
    """Half of the experts each, both with 4 GB/s: bytes / min(8 GB/s, inside)."""
    platform = machine(own=True, gpu=4e9, units=(4e9,), inside=inside)
    both_s = layer_s(platform, Shared(kept=1), resident=True)
    assert both_s == pytest.approx(4 * READ_BYTES / min(8e9, inside))
    assert layer_s(platform, AllNear, resident=True) == pytest.approx(4 * READ_BYTES / 4e9)


@pytest.mark.parametrize("inside", [2e9, 8e9])
def test_a_host_cpu_and_a_unit_share_their_memory(inside) -> None:
    """Half of the experts each, both with up to 4 GB/s; the processor is a unit where the platform names it so."""
    plain = machine(link=FREE, inside=inside, units=(min(4e9, inside),))
    socket = replace(plain.device("near0"), name="cpu", kind="cpu")
    both = replace(plain, devices={**plain.devices, "cpu": socket}, units=("cpu", "near0"))
    assert layer_s(both, Shared) == pytest.approx(4 * READ_BYTES / min(inside, 8e9), rel=0.011)


def test_fetches_and_near_experts_share_the_memory() -> None:
    """Two over a link of 3 GB/s, two inside: the memory gives 4 GB/s and is never idle until the last result."""
    took_s = layer_s(machine(link=3e9), Shared(kept=1))
    assert took_s == pytest.approx((2 * EXPERT_BYTES + 2 * READ_BYTES) / 4e9, rel=0.011)
    assert took_s > 2 * EXPERT_BYTES / 3e9  # what the link would take by itself


@given(
    link=st.floats(1e8, 1e10),
    inside=st.floats(0.05, 1.0),
    unit_flops=st.floats(1e8, FREE),
    gpu=st.floats(1.0, 1e5),
    experts=st.integers(1, 6),
)
@settings(max_examples=15, deadline=None)
def test_a_unit_without_internal_advantage_never_beats_the_gpu_on_the_same_link(
    link, inside, unit_flops, gpu, experts
) -> None:
    """Its memory gives inside at most what the link carries, and the GPU reads no slower: copies take no longer than
    the unit's reads, and behind the last copy only its own expert is left to run."""
    rate = link * inside
    platform = machine(link=link, inside=rate, units=(rate,), unit_flops=unit_flops, gpu=gpu * link)
    fetched_s, near_s = (layer_s(platform, choice, experts) for choice in (FetchToGpu, AllNear))
    assert near_s + READ_BYTES / (gpu * link) >= fetched_s * (1 - 1e-9)


def test_a_free_link_makes_placement_irrelevant() -> None:
    """GPU and unit of one speed, link and module without limit: fetched, near and resident experts take the same."""
    platform = machine(link=FREE, inside=FREE, units=(4e9,), gpu=4e9)
    there = [layer_s(platform, FetchToGpu), layer_s(platform, AllNear), layer_s(platform, FetchToGpu, resident=True)]
    assert there == pytest.approx([4 * READ_BYTES / 4e9] * 3, rel=1e-5)


def test_a_unit_bound_by_arithmetic_takes_flops_over_peak() -> None:
    platform = machine(link=FREE, unit_flops=1e9)
    assert layer_s(platform, AllNear) == pytest.approx(4 * 2 * 3 * HIDDEN * WIDTH / 1e9 + 4 * 2 * HIDDEN * 2 / 4e9)


def test_a_unit_without_reuse_reads_weights_for_every_token() -> None:
    """GEMV at 1 FLOP/byte: n tokens take n times as long as one; with room for 8 rows, 8 take as long as one."""
    device = machine().device("near0")
    for rows, expected in ((1, 8.0), (8, 1.0)):
        unit = replace(device, reuse_flop_per_byte=float(rows))
        one, eight = time_s(operators.expert([1.0, 8.0], 4096, 4096, 3, 3 * 4096 * 4096 * 2, "bf16"), unit)
        assert eight / one == pytest.approx(expected, rel=0.01)


def test_reads_are_rounded_up_to_the_granularity() -> None:
    device = machine().device("near0")
    unit = replace(device, access_granularity_bytes=1 << 20)
    assert time_s(operators.gemm(1, 8, 8, 16, "bf16"), unit) == pytest.approx((1 << 20) / 4e9 / 0.85)


def test_multiply_adds_and_clock_give_the_peak() -> None:
    """MoNDE: 64 arrays of 4 x 4 at 1 GHz are 2.05 TFLOP/s, 4 operations for each of 512 GB/s."""
    from experiments.catalogue import load

    platform = Platform.from_mapping(load("platform", "monde"), where="monde")
    unit = platform.device("near")
    assert unit.peak_flop_per_s["fp16"] == pytest.approx(2.05e12, rel=0.002)
    assert unit.peak_flop_per_s["fp16"] / unit.memory_read_bytes_per_s == 4.0


def test_attention_of_decoding_requests_is_the_units_and_of_prompts_the_workers() -> None:
    model, platform = tiny_model(1, 4, 2), machine(own=True, gpu=1e8, units=(4e8,), inside=5e8)
    trace = random_trace(0, 1, 6, 1, 4, 2, prompt=3)
    results = {
        choice: run(model, trace, platform, system(placement=PopularFirst, attention=choice))
        for choice in (NearDecode, system().attention)
    }
    near, plain = ([r.end_ps - r.start_ps for r in result.records] for result in results.values())
    assert sum(near) / 1e12 >= results[NearDecode].bounds.physics_duration_s
    assert results[NearDecode].bounds.reference_duration_s is None  # it would have the worker's attention
    worker, unit = (DenseCosts(model, platform.device(name)) for name in ("gpu0", "near0"))
    assert near[0] == plain[0]
    for number, step in enumerate(list(results[NearDecode].run.plan)[1:], start=1):
        new, kv = (np.array([rows[step.row]]) for rows in (step.block.request_tokens, step.block.kv_tokens))
        saved_s = (worker.attention_s(0, new, kv) - unit.attention_s(0, new, kv)).sum()
        assert saved_s > 0
        assert plain[number] - near[number] == pytest.approx(saved_s * 1e12, abs=3)
    both, decode, prompt = (np.array([row]) for row in ([1.0, 5.0], [1.0], [5.0]))
    mixed_s = NearAttention(model, *(platform.device(name) for name in ("gpu0", "near0"))).attention_s(
        0, both, np.array([[400.0, 5.0]]), True
    )
    sides_s = unit.attention_s(0, decode, np.array([[400.0]])).sum(), worker.attention_s(0, prompt, prompt).sum()
    assert mixed_s.sum() == pytest.approx(max(sides_s))


class Fake:
    """Times of a layer without a machine: a link and a unit that take so long per expert, a worker per token."""

    layer = 0

    def __init__(self, tokens: list[int], here: list[bool], fetch: int, near: int, run_: int) -> None:
        self.blobs = list(range(len(tokens)))
        self.tokens = dict(enumerate(tokens))
        self.hits = [blob for blob in self.blobs if here[blob]]
        self.misses = [blob for blob in self.blobs if not here[blob]]
        self.units, self.queued_ps = ("near0",), 0
        self._fetch, self._near, self._run = fetch, near, run_

    def runs_on(self, unit):
        return self.blobs

    def fetch_ps(self, blob):
        return self._fetch

    def unit_ps(self, unit, blob, tokens=1):
        return self._near * max(4, tokens)

    def activations_ps(self, unit, tokens):
        return tokens

    def run_ps(self, blob, tokens=1):
        return self._run * max(4, tokens)

    def run_together_ps(self, layer, tokens):
        return sum(self._run * max(4, count) for count in tokens)

    def run_firsts_ps(self, layer, tokens):
        return [self.run_together_ps(layer, tokens[:count]) for count in range(len(tokens) + 1)]


LAYERS = st.lists(st.tuples(st.integers(1, 40), st.booleans()), min_size=1, max_size=9)


@given(LAYERS, st.integers(1, 900), st.integers(1, 90), st.integers(1, 90))
@settings(max_examples=60, deadline=None)
def test_the_least_makespan_is_at_most_greedy_which_is_at_most_all_on_the_worker(layer, fetch, near, run_) -> None:
    work = Fake([tokens for tokens, _ in layer], [here for _, here in layer], fetch, near, run_)
    order = sorted(work.blobs, key=lambda blob: (blob in work.misses, -work.tokens[blob]))

    def ends_ps(policy):
        return slower_ps(work, "near0", order, policy.count(work, "near0", order))

    assert all_slower_ps(work, "near0", order) == [
        slower_ps(work, "near0", order, count) for count in range(len(order) + 1)
    ]
    assert ends_ps(NearMakespan()) <= ends_ps(NearGreedy()) <= slower_ps(work, "near0", order, len(order))
    assert ends_ps(NearMakespan()) <= ends_ps(AllNear())
    split = NearGreedy().split(work)
    assert sorted([*split.fetch, *split.units["near0"], *set(work.hits).difference(split.units["near0"])]) == work.blobs


def test_the_ratio_equalises_link_and_memory() -> None:
    """MoNDE: 32 and 512 GB/s give 5.9 % of the activated experts to the GPU; of 128, the 8 with most tokens."""
    policy = NearRatio(link_bytes_per_s=32e9, memory_bytes_per_s=512e9)
    work = Fake([1 + blob for blob in range(128)], [False] * 128, 1, 1, 1)
    assert policy.split(work).fetch == [127, 126, 125, 124, 123, 122, 121, 120]
    from_machine = NearRatio().count(Fake([4] * 100, [False] * 100, 64, 4, 1), "near0", list(range(100)))
    assert from_machine == 20  # 16 / (16 + 64) of 100


def test_what_cannot_be_is_refused() -> None:
    trace, model = random_trace(0, 1, 4, 1, 4, 2), tiny_model(1, 4, 2)
    plain = machine(units=())
    with pytest.raises(ScenarioError, match="platform near has none"):
        run(model, trace, plain, system(execution=AllNear))
    with pytest.raises(ScenarioError, match="has none"):
        run(model, trace, machine(), system(attention=NearDecode))

    class Everything(Shared):
        def split(self, work):
            return Split((), units={"near0": work.blobs})

    own = machine(own=True, gpu=1e9, units=(4e9,), inside=5e9)
    with pytest.raises(PolicyError, match="expected experts that are there"):
        run(model, trace, own, system(execution=Everything))

    class Elsewhere(Shared):
        def split(self, work):
            return Split(work.misses, units={"far": work.hits or work.misses[:0]})

    with pytest.raises(PolicyError, match="names unit 'far'; expected one of near0"):
        run(model, trace, machine(), system(execution=Elsewhere))


@given(st.integers(0, 3), st.sampled_from([AllNear, NearGreedy, NearMakespan, NearRatio, Shared]), st.booleans())
@settings(max_examples=25, deadline=None)
def test_every_expert_runs_once_and_the_path_covers_every_step(seed, choice, own) -> None:
    platform = machine(own=own, gpu=1e9, units=(3e9, 3e9), inside=5e9)
    trace = random_trace(seed, 2, 6, 3, 6, 2, prompt=3)
    result = run(
        tiny_model(3, 6, 2), trace, platform, system(execution=choice), cache_bytes=7 * EXPERT_BYTES, seed=seed
    )
    asked = sum(len(blobs) for step in result.run.plan for blobs, _ in step.groups)
    assert sum(counts(result).values()) == asked
    for record in result.records:
        assert sum(record.waited_ps.values()) == record.end_ps - record.start_ps
    timeline_of(result.run)
    assert sum(r.end_ps - r.start_ps for r in result.records) / 1e12 >= result.bounds.physics_duration_s
    for lane in result.run.fabric.lanes:
        assert lane.requested_bytes == lane.delivered_bytes + lane.cancelled_bytes + lane.pending_bytes
    stepwise = run(
        tiny_model(3, 6, 2),
        trace,
        platform,
        system(execution=choice),
        cache_bytes=7 * EXPERT_BYTES,
        seed=seed,
        stepwise=True,
    )
    assert [r.end_ps for r in stepwise.records] == [r.end_ps for r in result.records]
