"""Execution on GPU and host CPU together, and what it needs: each mechanism worked out by hand."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from experiments.compose import compose_config
from experiments.run import run_config
from experiments.validation.published.crossover import crossover_tokens
from simulator.plan import Workload
from simulator.policies import PolicyContext
from simulator.policies.attention.last_layers import LastLayers
from simulator.policies.cache.keep_placed import KeepPlaced
from simulator.policies.cache.prompt_hottest import PromptHottest
from simulator.policies.cache.routing_scores import RoutingScores
from simulator.policies.execution.bandwidth_share import BandwidthShare, balanced
from simulator.policies.execution.capped_fetch import CappedFetch
from simulator.policies.execution.deferred_cpu import DeferredOnCpu
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.execution.layers_on_cpu import LayersOnCpu, first_on_worker
from simulator.policies.execution.precalculate import Precalculate
from simulator.policies.execution.timelines import Timelines, schedule
from simulator.policies.gating.predicted import PredictedRouting
from simulator.policies.placement.later_layers import LaterLayers
from simulator.policies.placement.popular_share import PopularShare
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.prediction.whole_layers import WholeLayers
from simulator.policies.prefetch.impact import ByImpact
from simulator.policies.prefetch.none import NoPrefetch
from simulator.policies.prefetch.prefill_ahead import PrefillAhead
from simulator.policies.slots.expert_share import ExpertShare
from simulator.policies.slots.layers_and_buffer import LayersAndBuffer
from simulator.residency import PolicyError
from tests.helpers import EXPERT_BYTES, counts, random_trace, run, system, tiny_model, tiny_platform, tiny_trace
from traces import RequestTrace


class Work(SimpleNamespace):
    """A layer as policies see it, with costs of one's own: all times in ps, experts of 100 bytes."""

    layers, experts, layer, prefill, scores = 4, 8, 0, False, None
    queued_ps, queued = 0, 0
    fetch, worker, cpu = 10, 2, 4

    def layer_of(self, blob):
        return blob // self.experts % self.layers

    def distance(self, blob):
        return (self.layer_of(blob) - self.layer - 1) % self.layers + 1

    def resident(self, blob):
        return blob in self.here

    here_or_coming = resident

    def fetch_ps(self, blob):
        return self.fetch

    def run_ps(self, blob, tokens=1):
        return self.worker

    def run_together_ps(self, layer, tokens):
        return self.worker * len(tokens)

    def cpu_ps(self, blob, tokens=1):
        return self.cpu * tokens


def layer_work(tokens: dict[int, int], here: set[int], **fields) -> Work:
    hits, misses = [b for b in tokens if b in here], [b for b in tokens if b not in here]
    return Work(tokens=tokens, blobs=list(tokens), hits=hits, misses=misses, here=here, expected=[], **fields)


def context(**fields) -> PolicyContext:
    return PolicyContext(**{"layers": 4, "experts": 8, "top_k": 2, "size_bytes": [100] * 32, **fields})


def in_run(layers=4, experts=4, top_k=2, tokens=6, prompt=0, room=16, platform=None, workload=None, **roles):
    trace = random_trace(3, 2, tokens, layers, experts, top_k, prompt)
    return run(
        tiny_model(layers, experts, top_k),
        trace,
        platform or tiny_platform(),
        system(**roles),
        workload,
        cache_bytes=room * EXPERT_BYTES,
    )


# llama.cpp: layers on the CPU


def test_the_first_layer_on_the_worker_follows_from_either_count():
    assert [first_on_worker(24, *given) for given in ((None, None), (8, None), (99, None), (None, 4), (None, 99))] == [
        24,
        8,
        24,
        20,
        0,
    ]
    with pytest.raises(ValueError, match=r"^policy.execution.cpu_layers is -1; expected at least 0\.$"):
        LayersOnCpu(cpu_layers=-1)
    with pytest.raises(ValueError, match="expected at most one of them"):
        LayersOnCpu(cpu_layers=1, gpu_layers=1)


def llama(cpu_layers, room=16, execution=LayersOnCpu, **fields):
    parts = {"execution": execution, "placement": LaterLayers, "slots": LayersAndBuffer}
    roles = {role: partial(choice, cpu_layers=cpu_layers) for role, choice in parts.items()}
    return in_run(room=room, cache=KeepPlaced, **roles, **fields)


def test_experts_of_the_first_layers_run_on_the_cpu_and_the_others_on_the_worker():
    result = llama(cpu_layers=3)
    tokens = sum(len(record.requests) for record in result.records)
    assert counts(result) == {"hits": 2 * tokens, "late": 0, "loads": 0, "on_cpu": 3 * 2 * tokens}


def test_a_large_batch_copies_what_it_uses_and_pinned_layers_are_never_evicted():
    copying = partial(LayersOnCpu, copy_above=1)
    result = llama(cpu_layers=3, tokens=10, prompt=4, execution=copying)
    (tier,) = result.run.tiers
    prompts = [record for record in result.records if record.prefill]
    assert all(record.on_cpu == 0 and record.loads > 0 for record in prompts)
    assert all(record.loads == 0 and record.on_cpu == 6 for record in result.records if not record.prefill)
    assert tier.evictions > 0
    assert all(tier.slots[blob] is True for blob in range(12, 16))
    loaded = {blob for _, blob, *_ in result.run.fabric.log if blob >= 12}
    assert {name for name, blob, *_ in result.run.fabric.log if blob in loaded} <= {"cpu experts"}
    assert not [row for row in result.run.workers[0].layer_counts[1][3:] if row[2]]


def test_layers_that_do_not_fit_the_worker_are_refused_in_one_sentence():
    with pytest.raises(PolicyError, match="runs layer 3 on the worker, but its experts are not all there") as refusal:
        llama(cpu_layers=1, room=11)
    assert ". " not in str(refusal.value)


def test_attention_of_all_but_the_last_layers_is_on_the_host():
    assert list(LastLayers(2).on_host(5)) == [0, 1, 2]
    assert list(LastLayers(9).on_host(5)) == []
    with pytest.raises(ValueError, match="gpu_layers is -1"):
        LastLayers(-1)


# what was placed stays


def test_what_is_copied_in_passing_leaves_in_order_of_arrival_and_the_placed_never():
    """Two experts placed, room for a third: 2 and 3 take turns in it, 0 and 1 hit whenever they are asked for."""
    trace = tiny_trace([[[[token]] for token in (0, 2, 3, 1, 2, 2, 0)]])

    class Two(PopularShare):
        def initial(self):
            return [0, 1]

    roles = {"cache": KeepPlaced, "placement": Two, "execution": FetchToGpu}
    result = run(tiny_model(1, 4, 1), trace, tiny_platform(), system(**roles), cache_bytes=3 * EXPERT_BYTES)
    assert [record.hits for record in result.records] == [1, 0, 0, 1, 0, 1, 1]


def test_spare_gives_up_the_least_wanted_and_without_it_a_copy_is_refused():
    trace = tiny_trace([[[[token]] for token in (1, 0, 2, 1, 3, 0)]])

    class Two(PopularShare):
        def initial(self):
            return [0, 1]

    def simulated(spare):
        roles = {"cache": partial(KeepPlaced, spare), "placement": Two}
        return run(tiny_model(1, 4, 1), trace, tiny_platform(), system(**roles), cache_bytes=2 * EXPERT_BYTES)

    assert [record.hits for record in simulated(1).records] == [1, 1, 0, 0, 0, 1]
    with pytest.raises(PolicyError, match="KeepPlaced has 0 bytes beside what is placed for good"):
        simulated(0)


# placement by share


def test_a_share_is_placed_evenly_over_layers_and_its_rest_by_popularity():
    """Two layers of four; 5 of 8: two in each layer, and the most popular of what is left."""
    rows = [[[0], [3]]] * 4 + [[[1], [2]]] * 3 + [[[2], [1]]] * 2 + [[[2], [0]]]
    experts = np.array(rows, dtype=np.int16)
    request = SimpleNamespace(experts=experts)
    ctx = context(layers=2, experts=4, size_bytes=[1] * 8, training=lambda: iter([request]))
    even, free = PopularShare(0.625), PopularShare(0.625, per_layer=False)
    even.bind(ctx), free.bind(ctx)
    assert sorted(even.initial()[:4]) == [0, 1, 6, 7]
    assert even.initial()[4] == 2  # of layer 0, chosen three times
    assert free.initial() == [0, 7, 1, 2, 6]
    slots = ExpertShare(0.625, 1)
    slots.bind(ctx)
    assert slots.budgets(1000, [10, 10], 1) == [60]
    with pytest.raises(ValueError, match=r"policy\.placement\.share is 2"):
        PopularShare(2)


# FreeToken: split by bandwidth


@pytest.mark.parametrize("share", [0.1, 0.25, 0.3, 0.45])
@pytest.mark.parametrize("count", range(9))
def test_the_balanced_number_is_the_best_of_all(count, share):
    cost = [max(n * (1 - share), (count - n) * share) for n in range(count + 1)]
    assert cost[balanced(count, share)] == pytest.approx(min(cost))


def test_misses_are_split_by_bandwidth_and_all_are_fetched_by_a_quick_link():
    """fetch 12, CPU 4: the link has a third of the CPU's bandwidth, so that one of three is fetched."""
    policy = BandwidthShare()
    work = layer_work({0: 1, 1: 1, 2: 1, 3: 1}, {1}, fetch=12)
    assert policy.split(work)[:3] == ([0], [2, 3], ())
    work.fetch = 8  # just twice as fast: not hybrid
    assert policy.split(work)[:3] == ([0, 2, 3], (), ())


def test_a_prompt_streams_whole_layers_the_next_one_ahead_and_decode_does_not():
    roles = {"execution": BandwidthShare, "prediction": WholeLayers, "prefetch": partial(PrefillAhead, cancel=False)}
    result = in_run(tokens=8, prompt=3, room=12, workload=Workload(requests=1), **roles)
    prompt, *decoded = result.records
    assert prompt.prefetches == 3 * 4
    assert prompt.prefetch_bytes + prompt.load_bytes == 16 * EXPERT_BYTES
    assert not any(record.prefetches for record in decoded)


# HybriMoE: three timelines


def test_the_schedule_worked_out_by_hand():
    """Resident 0 (2 tokens) and 1; missing 2 (5 tokens), 3, 4. Worker 2 each, CPU 4 a token, copy 10.

    Queue 0 1 2 3 4. Worker takes 0 (2 <= 4) and 1 (4 <= 4); then 2 would end at 12 on the worker, the CPU's 4 at 4, so
    that the CPU takes 4. Again 12 > 8: the CPU takes 3. Then 2 on the worker at 12, on the CPU at 8 + 20: fetched, 12.
    """
    work = layer_work({0: 2, 1: 1, 2: 5, 3: 1, 4: 1}, {0, 1})
    assert schedule(work, work.tokens, work.here) == ([2], [4, 3], 12)
    assert Timelines().split(work)[:3] == ([2], [4, 3], ())
    busy = layer_work({0: 2, 1: 1, 2: 5, 3: 1, 4: 1}, {0, 1}, queued_ps=30)
    assert schedule(busy, busy.tokens, busy.here, busy.queued_ps) == ([], [4, 3, 2], 28)  # 42 on the worker, 28 here


def test_an_idle_cpu_takes_resident_experts_of_few_tokens():
    """Worker 6 each, CPU 4: 0 on the worker would end at 6, 3 on the CPU at 4; 2 at 8, so 0 first; then 2, then 1."""
    work = layer_work({0: 1, 1: 1, 2: 1, 3: 1}, {0, 1, 2, 3}, worker=6)
    assert Timelines().split(work)[:3] == ([], [3, 2], ())


def test_every_split_of_a_random_layer_is_complete_and_no_worse_than_all_on_one_side():
    rng = np.random.default_rng(0)
    for _ in range(200):
        tokens = {int(b): int(n) for b, n in zip(rng.permutation(8)[:5], rng.integers(1, 6, 5), strict=True)}
        here = set(rng.permutation(8)[:4].tolist())
        costs = dict(zip(("fetch", "worker", "cpu"), rng.integers(1, 20, 3).tolist(), strict=True))
        work = layer_work(tokens, here, **costs)
        fetch, cpu, ends_ps = schedule(work, tokens, here)
        assert set(work.misses) <= {*fetch, *cpu}
        assert not set(fetch) & {*cpu, *here}
        assert ends_ps <= work.cpu * sum(tokens.values()) + max(tokens.values()) * work.cpu


def test_the_prefetch_is_the_one_that_shortens_its_layer_most():
    """Worker 2, CPU 4, copy 8; one token each. Layer 1 misses 8 and 9: 8 on the CPU, 4 with one of them here.

    Layer 2 has 17 here and misses 16: 4, with or without it. So 8, and then nothing gains: 9 would leave 4 at 4.
    """
    work = layer_work({0: 1, 1: 1}, {17}, fetch=8)
    work.expected = [16, 8, 9, 17]
    assert ByImpact().choose([16, 8, 9], work) == [8]
    work.queued_ps = 10**6
    assert ByImpact().choose([16, 8, 9], work) == []


def test_what_would_come_too_late_is_not_fetched():
    """The running layer lasts 8: a copy of 15 comes 7 late for layer 1, which ends at 9 then and at 8 without it.

    For layer 2 it is in time.
    """
    work = layer_work({0: 1, 1: 1}, set(), fetch=15)
    work.expected = [8]
    assert ByImpact().choose([8], work) == []
    work.expected = [16]
    assert ByImpact().choose([16], work) == [16]


def test_prefetching_goes_on_until_the_link_outlasts_the_running_layer():
    """One expert of two tokens in each of two layers: 8 on the CPU, 2 if here. The running layer lasts 8, a copy 7."""
    work = layer_work({0: 1, 1: 1}, set(), fetch=7)
    work.expected = [16, 8]
    assert ByImpact().choose([16, 8], work) == [8, 16]  # the nearest first
    work.queued_ps = 1
    assert ByImpact().choose([16, 8], work) == [8]


def scores_view(layer, probabilities):
    routing = SimpleNamespace(probabilities=lambda layer: np.array([probabilities]))
    return SimpleNamespace(
        layer=layer,
        routing=routing,
        take_until=lambda need, order: list(order)[:need],
        prefill=False,
    )


def test_routing_scores_are_averaged_and_the_least_goes():
    """alpha 1/2, the two highest count. 0.5 0.3 0.2 0 -> S .25 .15 0 0; then 0 .1 .2 .7 -> .125 .075 .1 .35."""
    cache = RoutingScores(alpha=0.5, top=2)
    cache.bind(context(layers=1, experts=4))
    cache.on_insert([0, 1, 2, 3], None)
    cache.on_layer([0, 1], [], scores_view(0, [0.5, 0.3, 0.2, 0.0]))
    view = scores_view(0, [0.0, 0.1, 0.2, 0.7])
    cache.on_layer([2, 3], [], view)
    assert cache.victims(4, [], view) == [1, 2, 0, 3]
    cache.on_evict(1)
    assert cache.victims(1, [], view) == [2]
    with pytest.raises(ValueError, match=r"policy\.cache\.alpha is 0"):
        RoutingScores(alpha=0)


# KTransformers: deferral


def routed(ids, weights):
    return SimpleNamespace(ids=lambda layer: np.array(ids), weights=lambda layer: np.array(weights))


def test_the_least_weighted_of_a_token_are_deferred_unless_another_token_wants_them_at_once():
    policy = DeferredOnCpu(defer=1)
    policy.bind(context())
    one = layer_work({3: 1, 5: 1}, set(), routing=routed([[3, 5]], [[0.4, 0.6]]))
    assert policy.split(one)[:3] == ((), [5, 3], [3])  # what may come later runs last
    two = layer_work({3: 2, 5: 1, 6: 1}, set(), routing=routed([[3, 5], [3, 6]], [[0.4, 0.6], [0.7, 0.3]]))
    assert policy.split(two)[:3] == ((), [3, 5, 6], [6])
    prompt = layer_work({3: 1, 5: 1}, set(), prefill=True)
    assert policy.split(prompt)[:3] == ((), [3, 5], ())


def test_deferral_hides_cpu_work_behind_the_next_layer():
    at_once, one = (in_run(room=1, execution=partial(DeferredOnCpu, n)) for n in (0, 1))
    assert one.summary["tpot_mean_s"] < at_once.summary["tpot_mean_s"]
    assert counts(at_once) == counts(one)


def test_a_long_prompt_may_be_streamed_to_the_worker():
    policy = DeferredOnCpu(stream_above=2)
    policy.bind(context())
    assert policy.split(layer_work({0: 2, 1: 2}, set(), prefill=True))[:3] == ((), [0, 1], ())
    assert policy.split(layer_work({0: 3, 1: 3}, set(), prefill=True))[:3] == ([0, 1], (), ())


# DAOP


def test_hot_experts_of_the_host_take_the_place_of_cold_ones_with_hysteresis():
    """Here 0 (100 tokens), 1 (10), 2 (1); missing 3 (105), 4 (11), 5 (1): 3 for 2, 4 for 1 (11 > 10.5), not 5 for 0."""
    policy = Precalculate(cpu_s_per_token=1e-12, fetch_s=20e-12)
    policy.bind(context())
    work = layer_work({0: 100, 1: 10, 2: 1, 3: 105, 4: 11, 5: 1}, {0, 1, 2}, prefill=True)
    assert policy.swapped(work) == [3, 4]
    assert policy.split(work)[:3] == ([3, 4], [5], ())  # 5 serves one token: the CPU
    work.tokens = {**work.tokens, 4: 10}
    assert policy.swapped(work) == [3]
    assert policy.split(work)[:3] == ([3], [4, 5], ())  # 10 tokens cost 10, a copy 20


def test_the_next_layers_expert_is_begun_on_the_cpu_one_for_a_token_and_not_in_early_layers():
    policy = Precalculate(first_layer=2)
    policy.bind(context())
    work = layer_work({8: 1, 9: 1}, {16}, layer=1)
    work.expected = [16, 17, 18, 24]  # two of the next layer count; 16 is here
    assert policy.ahead(work) == [17]
    work.layer, work.expected = 0, [8, 9]
    assert policy.ahead(work) == ()  # layer 1 is not predicted
    work.layer, work.prefill = 1, True
    assert policy.ahead(work) == ()


def test_a_layer_keeps_its_hottest_experts_of_the_prompt():
    """Two layers of four, two slots each and one spare. The prompt asks for 2 2 2 3 3 0 in layer 0.

    Layer 0 holds 0 and 1 at first; 2 (3 tokens) and 3 (2) are hotter than 1 (0) and 0 (1): both are swapped in.
    """
    prompt = [[[expert], [expert % 2]] for expert in (2, 2, 2, 3, 3, 0)]
    trace = tiny_trace([[*prompt, [[2], [0]], [[3], [1]], [[0], [1]]]], prompts=[6])

    class Two(PopularShare):
        def initial(self):
            return [0, 1, 4, 5]

    roles = {
        "cache": PromptHottest,
        "placement": Two,
        "execution": partial(Precalculate, first_layer=9, cpu_s_per_token=1.0, fetch_s=1e-3),
    }
    result = run(tiny_model(2, 4, 1), trace, tiny_platform(), system(**roles), cache_bytes=5 * EXPERT_BYTES)
    prefill, *decoded = result.records
    assert (prefill.loads, prefill.on_cpu) == (2, 0)
    assert [(record.hits, record.on_cpu) for record in decoded[:2]] == [(2, 0), (2, 0)]
    assert sum(record.loads for record in decoded) == 0  # no copies in decode
    (tier,) = result.run.tiers
    assert all(tier.slots[blob] for blob in (2, 3, 4, 5))


def guessing(experts, guesses, weights=None, phases=None, probabilities=None) -> RequestTrace:
    experts = np.array(experts, dtype=np.int16)
    tokens = len(experts)
    return RequestTrace(
        id=0,
        positions=np.arange(tokens, dtype=np.int32),
        phases=np.ones(tokens, dtype=np.int8) if phases is None else np.array(phases, dtype=np.int8),
        experts=experts,
        guesses=np.array(guesses, dtype=np.int16)[:, :, None, :],
        weights=None if weights is None else np.array(weights, dtype=np.float32),
        probabilities=probabilities,
    )


def test_guesses_replace_the_routing_of_decoded_tokens_from_the_first_layer_on():
    experts = [[[0, 1], [2, 3], [4, 5]]] * 2
    guesses = [[[6, 7], [1, 0], [-1, -1]]] * 2
    weights = [[[0.9, 0.1], [0.3, 0.7], [0.2, 0.8]]] * 2
    policy = PredictedRouting(first_layer=2)
    policy.bind(context(layers=3, size_bytes=[1] * 24, guess_distances=1))
    made, kept = policy.rewrite(guessing(experts, guesses, weights, phases=[0, 1]))
    assert made[0].tolist() == experts[0]  # of the prompt
    assert made[1].tolist() == [[0, 1], [2, 3], [1, 0]]
    assert kept[1].tolist() == pytest.approx(np.array([[0.9, 0.1], [0.3, 0.7], [0.8, 0.2]]), abs=1e-6)
    with pytest.raises(ValueError, match="policy/gating=predicted puts guesses in place of the routing"):
        PredictedRouting().bind(context())


def test_of_two_experts_on_the_host_the_second_gives_way_to_the_likeliest_on_the_worker():
    policy = PredictedRouting(first_layer=1)
    policy.bind(context(guess_distances=1))
    here = np.array([0, 0, 1, 1, 1, 0, 0, 0], dtype=bool)
    probabilities = np.array([[0.4, 0.3, 0.05, 0.1, 0.02, 0.1, 0.0, 0.03]])

    def chosen(ids, weights, layer=1, prefill=False):
        choice = SimpleNamespace(
            ids=np.array([ids]),
            weights=np.array([weights]),
            probabilities=probabilities,
            layer=layer,
            prefill=prefill,
            resident=lambda: here,
        )
        return policy.choose(choice)[0][0].tolist()

    assert chosen([0, 1], [0.6, 0.4]) == [0, 3]
    assert chosen([0, 1], [0.4, 0.6]) == [3, 1]  # the likelier of both stays
    assert chosen([0, 3], [0.6, 0.4]) == [0, 3]  # only one on the host
    assert chosen([0, 1], [0.6, 0.4], layer=0) == [0, 1]
    assert chosen([0, 1], [0.6, 0.4], prefill=True) == [0, 1]


def test_daop_hides_cpu_work_behind_the_layer_before():
    """All guesses are right, nothing is resident: with one expert for a token, its CPU work begins a layer early."""

    def simulated(first_layer):
        roles = {
            "execution": partial(Precalculate, first_layer=first_layer),
            "prediction": LookaheadPrediction,
            "prefetch": NoPrefetch,
        }
        trace = random_trace(3, 1, 8, 4, 4, 1)
        return run(tiny_model(4, 4, 1), trace, tiny_platform(), system(**roles), cache_bytes=EXPERT_BYTES)

    early, late = simulated(1), simulated(9)
    assert counts(early) == counts(late)
    assert early.summary["tpot_mean_s"] < late.summary["tpot_mean_s"]


def test_on_a_recorded_trace_guesses_stand_in_for_a_small_share_of_the_gate_weight():
    """tiny_moe: its guesses agree with the routing more often than not, and DAOP never copies an expert in decode."""
    config = ["system=daop", "model=tiny_moe", "trace=tiny_moe", "workload.requests=3", "reference=false"]
    result = run_config(compose_config([*config, "policy.placement.share=0.25"]))
    assert 0 < result.summary["substituted_weight_share"] < 0.5
    decoded = [record for record in result.records if not record.prefill]
    assert sum(record.loads for record in decoded) == 0
    assert sum(record.on_cpu for record in decoded) > 0


def test_at_most_a_few_missing_experts_are_fetched_those_of_most_tokens():
    policy = CappedFetch(most=2, copy_above=4)
    policy.bind(context())
    assert policy.split(layer_work({0: 1, 1: 1, 2: 3, 3: 2}, {0}))[:3] == ([2, 3], [1], ())
    assert policy.split(layer_work({0: 3, 1: 2, 2: 4}, set()))[:3] == ([0, 1, 2], (), ())  # 4.5 tokens of top-2
    with pytest.raises(ValueError, match=r"^policy\.execution\.most is -1; expected at least 0\.$"):
        CappedFetch(most=-1)


def test_a_quicker_copy_pays_from_fewer_tokens_on():
    slow, quick = (crossover_tokens("quadro_rtx_6000", "mixtral_8x7b", pinned) for pinned in (False, True))
    assert 1 < quick < slow
