"""EdgeMoE, SiDA-MoE, SwapMoE, expert buffering: worked out by hand, by brute force, or on real traces."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from simulator.plan import Plan, Workload
from simulator.policies import PolicyContext
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.fifo_expected import FifoExpected
from simulator.policies.cache.frequency_distance import FrequencyDistance
from simulator.policies.cache.importance import LeastImportant
from simulator.policies.cache.inactive_lifo import InactiveThenLast
from simulator.policies.gating.hashed import HashedRouting
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.precision.expert_bits import ExpertBits
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.prediction.popularity import PopularityPrediction
from simulator.policies.prediction.two_layers import TwoLayerKeys
from simulator.policies.prediction.whole_layers import WholeLayers
from simulator.policies.prediction.whole_pass import WholePass
from simulator.policies.prefetch.swap import Swap
from simulator.policies.slots.genetic import GeneticSlots
from simulator.policies.slots.staged import StagedSlots
from simulator.policies.slots.uniform import UniformSlots
from tests.helpers import (
    EXPERT_BYTES,
    counts,
    random_trace,
    real_trace,
    run,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)
from traces import RequestTrace


def request(experts, number=0, weights=None, probabilities=None):
    ids = np.array(experts, dtype=np.int16)
    return RequestTrace(
        id=number,
        positions=np.arange(len(ids), dtype=np.int32),
        phases=np.ones(len(ids), dtype=np.int8),
        experts=ids,
        weights=None if weights is None else np.array(weights, dtype=np.float32),
        probabilities=probabilities,
    )


def bound(policy, layers=3, experts=4, top_k=1, training=(), **more):
    policy.bind(
        PolicyContext(
            layers=layers,
            experts=experts,
            top_k=top_k,
            size_bytes=[1] * (layers * experts),
            training=lambda: iter(training),
            **more,
        )
    )
    return policy


class View:
    """What a cache sees: layers of ten blobs, everything can leave."""

    layers, prefetching, routing = 3, False, None

    def __init__(self, layer):
        self.layer = layer

    def layer_of(self, blob):
        return blob // 10

    def take_until(self, need_bytes, order):
        return list(order)


# ---- EdgeMoE: bit map


def test_the_most_popular_experts_take_the_first_width():
    ids = [[[0], [1]]] * 4 + [[[2], [1]]] * 3 + [[[3], [0]]] * 1  # layer 1: 1 seven times; layer 0: 0 four times
    policy = bound(ExpertBits([8, 4, 2], [0.125, 0.25, 0.625]), layers=2, training=[request(ids)])
    levels = [[policy.level(layer, expert) for expert in range(4)] for layer in range(2)]
    assert levels == [[1, 2, 1, 2], [2, 0, 2, 2]]


def test_a_given_map_is_used_and_decides_how_many_bytes_move():
    levels = [[0, 1, 1, 1], [1, 1, 0, 1]]
    made = system(precision=lambda: ExpertBits([16, 4], [0.5, 0.5], levels))
    trace = tiny_trace([[[[0, 1], [2, 3]]]])
    result = run(tiny_model(2, 4, 2), trace, tiny_platform(), made, cache_bytes=8 * EXPERT_BYTES)
    assert result.summary["load_bytes"] == 2 * EXPERT_BYTES + 2 * EXPERT_BYTES // 4
    assert result.summary["low_precision_weight_share"] == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: ExpertBits([4, 8], [0.5, 0.5]),
            r"^policy\.precision\.bits is \[4, 8\]; expected numbers above",
        ),
        (
            lambda: ExpertBits([8, 4], [0.5, 0.4]),
            r"^policy\.precision\.shares is \[0\.5, 0\.4\]; expected 2 shares",
        ),
        (
            lambda: bound(ExpertBits([8, 4], [0.5, 0.5], [[0]])),
            r"^policy\.precision\.levels has rows of \[1\] numbers",
        ),
        (lambda: bound(ExpertBits([8], [1], [[1] * 4] * 3)), r"^policy\.precision\.levels must be from 0 to 0, places"),
        (lambda: HashedRouting(1.5), r"^policy\.gating\.hit is 1\.5; expected a number from 0 to 1\.$"),
        (lambda: Swap(every=0), r"^policy\.prefetch\.every is 0; expected at least 1\.$"),
        (lambda: GeneticSlots(population=2), r"^policy\.slots: population is 2, generations 100 and mutation 0\.5;"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


# ---- EdgeMoE: keys of two layers


def test_the_expert_two_layers_back_tells_apart_what_one_layer_cannot():
    """After 1 in the middle layer comes 2 if it began with 0, 3 if it began with 1; one layer's table cannot know."""
    training = [request([[[0], [1], [2]], [[1], [1], [3]]] * 5 + [[[0], [1], [2]]])]
    policy = bound(TwoLayerKeys(width=1), training=training)
    served = request([[[0], [1], [0]], [[1], [1], [0]], [[3], [1], [0]]])
    guessed = policy.guess(served, None)[:, 1, 0] - 8
    assert guessed.tolist() == [2, 3, 2]  # a pair that was never seen: what followed 1 most often


def recall(policy, trace, requests):
    """Share of the next layer's experts that are named, top-k of each token, on requests 0 .. `requests` - 1."""
    meta = trace.meta
    layers, experts, top_k = len(meta.layers), meta.num_experts, meta.top_k
    training = lambda: (trace.request(index) for index in range(requests, len(trace)))  # noqa: E731
    policy.bind(PolicyContext(layers=layers, experts=experts, top_k=top_k, size_bytes=[], training=training))
    named = asked = 0
    for index in range(requests):
        rows = trace.request(index)
        guessed = policy.guess(rows, None)[:, :-1]
        truth = rows.experts[:, 1:] + np.arange(1, layers)[None, :, None] * experts
        named += int((truth[..., :, None] == guessed[..., None, :]).any(axis=-1).sum())
        asked += truth.size
    return named / asked


@pytest.mark.parametrize("name", ["gpt_oss_20b", "tiny_moe"])
def test_on_requests_it_did_not_learn_from_it_names_more_than_popularity(name):
    trace = real_trace(name)
    learned, popular = recall(TwoLayerKeys(None), trace, 3), recall(PopularityPrediction(), trace, 3)
    assert learned > 1.3 * popular


# ---- EdgeMoE: eviction


def test_the_rarely_used_and_far_leave_first():
    policy = FrequencyDistance()
    policy.bind(PolicyContext(layers=3, experts=10, top_k=1, size_bytes=[1] * 30))
    for _ in range(4):
        policy.on_layer([10], [], View(1))
    policy.on_layer([20, 0, 1, 1], [], View(0))
    # layer 0 runs: 20 is two layers off, 1 use: 1/2; 10 one layer, 4; 0 and 1 three layers: 1/3 and 2/3
    assert policy.victims(1, [], View(0)) == [0, 20, 1, 10]


def test_as_printed_the_layer_that_has_just_run_stays():
    policy = FrequencyDistance(printed=True)
    policy.bind(PolicyContext(layers=3, experts=10, top_k=1, size_bytes=[1] * 30))
    policy.on_layer([0, 10, 20], [], View(1))
    assert policy.victims(1, [], View(1))[-1] == 0


# ---- SiDA-MoE


def test_a_hit_rate_of_one_changes_nothing_and_of_nothing_changes_every_expert():
    rows = request(np.argsort(np.random.default_rng(1).random((50, 3, 8)), axis=-1)[..., :2])
    same, _ = bound(HashedRouting(1.0), experts=8, top_k=2).rewrite(rows)
    assert (same == rows.experts).all()
    other, _ = bound(HashedRouting(0.0), experts=8, top_k=2).rewrite(rows)
    assert not (other[..., :, None] == rows.experts[..., None, :]).any()
    assert (other[..., 0] != other[..., 1]).all()


def test_the_share_of_the_routers_experts_is_the_stated_one():
    rows = request(np.random.default_rng(2).integers(64, size=(2000, 3, 1)))
    made, _ = bound(HashedRouting(0.9), experts=64).rewrite(rows)
    assert (made == rows.experts).mean() == pytest.approx(0.9, abs=3 * np.sqrt(0.09 / 6000))


def test_the_layers_that_remain_are_named_nearest_first():
    rows = request([[[1], [2], [3]]])
    guessed = bound(WholePass()).guess(rows, None)[0]
    assert guessed.tolist() == [[6, 11, -1], [11, -1, -1], [-1, -1, -1]]


def test_loads_of_a_whole_pass_overlap_it_and_only_the_first_layer_is_waited_for_from_its_beginning():
    trace = random_trace(3, requests=1, tokens=20, layers=6, experts=16, top_k=1, prompt=20)
    facts = {
        "model": tiny_model(6, 16, 1),
        "trace": trace,
        "platform": tiny_platform(),
        "cache_bytes": 96 * EXPERT_BYTES,
    }
    ahead = run(choice=system(prediction=WholePass), **facts)
    on_demand = run(choice=system(), **facts)
    moved = [r.summary["load_bytes"] + r.summary["prefetch_bytes"] for r in (ahead, on_demand)]
    assert moved[0] == moved[1]  # nothing in vain
    first = len(set(trace.request(0).experts[:, 0].ravel().tolist()))
    assert counts(ahead)["loads"] == first
    assert ahead.duration_ps < on_demand.duration_ps


def test_what_is_named_leaves_last_and_never_for_a_fetch_ahead():
    policy = FifoExpected()
    view = View(0)
    policy.on_layer([0, 1, 10], [0, 1, 10], view)
    policy.on_forecast([0, 21], None, view)
    assert policy.victims(1, [], view) == [1, 10, 0]
    view.prefetching = True
    assert policy.victims(1, [], view) == [1, 10]


# ---- SwapMoE


class Choice:
    layer = 0

    def __init__(self, ids, weights, here, probabilities=None):
        self.ids, self.weights, self.probabilities = np.array(ids), np.array(weights), probabilities
        self._here = np.array(here)

    def resident(self, coming=True):
        assert not coming
        return self._here


def test_a_token_goes_to_the_likeliest_of_the_resident_experts():
    policy = bound(ResidentOnly(), layers=1, top_k=2)
    probabilities = np.array([[0.5, 0.3, 0.15, 0.05], [0.1, 0.2, 0.3, 0.4]])
    ids, weights = policy.choose(Choice([[0, 1], [3, 2]], [[0.6, 0.4], [0.6, 0.4]], [0, 1, 1, 1], probabilities))
    assert ids.tolist() == [[1, 2], [3, 2]]
    assert weights[0] == pytest.approx([2 / 3, 1 / 3])  # 0.3 : 0.15, their sum as it was


def test_without_probabilities_popular_resident_experts_stand_in():
    training = [request([[[2]]] * 3 + [[[3]]] * 2 + [[[0]]])]
    policy = bound(ResidentOnly(), layers=1, top_k=2, training=training)
    ids, _ = policy.choose(Choice([[0, 1]], [[0.6, 0.4]], [0, 1, 1, 1]))
    assert ids.tolist() == [[1, 2]]
    ids, _ = policy.choose(Choice([[0, 1]], [[0.6, 0.4]], [0, 1, 0, 0]))
    assert ids.tolist() == [[0, 1]]  # one resident for two slots: as routed


def swapping(**roles):
    """Of eight experts four are kept; requests change from the first four to the last four after a third."""
    rng = np.random.default_rng(5)
    early, late = (rng.permuted(np.tile(np.arange(4) + shift, (n, 2, 1)), axis=-1) for shift, n in ((0, 10), (4, 40)))
    ids = np.concatenate([early, late])[..., :2]
    choice = system(gating=ResidentOnly, cache=LeastImportant, slots=UniformSlots, placement=PopularFirst, **roles)
    trace = tiny_trace([ids.tolist(), early[..., :2].tolist()], 8)
    facts = {"workload": Workload(requests=1), "cache_bytes": 8 * EXPERT_BYTES}
    return run(tiny_model(2, 8, 2), trace, tiny_platform(), choice, **facts)


def test_nothing_is_waited_for_and_swaps_bring_in_what_requests_now_want():
    still = swapping()
    swapped = swapping(prediction=WholeLayers, prefetch=lambda: Swap(every=2, most=1))
    for result in (still, swapped):
        assert counts(result)["loads"] == counts(result)["late"] == 0
    assert still.summary["prefetch_bytes"] == 0
    assert still.summary["substituted_weight_share"] == pytest.approx(0.8)  # 40 of 50 tokens want the other four
    assert swapped.summary["substituted_weight_share"] < 0.6
    # every second step, one expert per layer at most
    assert 0 < swapped.summary["prefetch_bytes"] <= 25 * 2 * EXPERT_BYTES


@pytest.mark.parametrize("slots", [6, 8, 11])
def test_the_genetic_search_finds_what_trying_every_division_finds(slots):
    rng = np.random.default_rng(7)
    ids = np.stack([rng.zipf(a, size=(300,)).clip(1, 5) - 1 for a in (1.2, 2.0, 3.5)], axis=1)[:, :, None]
    policy = bound(GeneticSlots(), experts=5, training=[request(ids)], rng=np.random.default_rng(0))
    found = [size // 10 for size in policy.budgets(slots * 10, [10, 10, 10], 1)]
    assert sum(found) == slots
    every = (d for d in itertools.product(range(1, 6), repeat=3) if sum(d) <= slots)
    assert policy.fitness(found) == pytest.approx(max(policy.fitness(d) for d in every))


def test_the_genetic_search_gives_the_same_slots_for_the_same_seed():
    def made():
        policy = bound(
            GeneticSlots(), experts=5, rng=np.random.default_rng(3), training=[request([[[0], [1], [2]]] * 9)]
        )
        return policy.budgets(80, [10, 10, 10], 1)

    assert made() == made()


# ---- MoE-Deploy


def test_what_the_batch_does_not_ask_for_leaves_first_then_the_last_that_came():
    policy = InactiveThenLast()
    policy.on_layer([0, 1], [0, 1], View(0))
    policy.on_layer([2, 3, 4, 0], [2, 3, 4], View(0))
    policy.on_layer([0, 3, 4], [], View(0))
    assert policy.victims(1, [], View(0)) == [1, 2, 4, 3, 0]


def misses(trace, cache, slots, batch):
    choice = system(cache=cache, slots=UniformSlots)
    layers, experts = len(trace.meta.layers), trace.meta.num_experts
    model = tiny_model(layers, experts, trace.meta.top_k)
    facts = {"workload": Workload(batch_size=batch), "cache_bytes": slots * layers * EXPERT_BYTES}
    return counts(run(model, trace, tiny_platform(), choice, **facts))["loads"]


def test_on_a_skewed_batch_it_misses_not_much_more_than_belady():
    rng = np.random.default_rng(11)
    share = np.arange(1, 33) ** -1.2
    ids = [[[[e] for e in rng.choice(32, size=2, p=share / share.sum())] for _ in range(30)] for _ in range(16)]
    trace = tiny_trace(ids, 32)
    buffered, best = (misses(trace, cache, 6, batch=16) for cache in (InactiveThenLast, Belady))
    assert best <= buffered < 1.2 * best


# ---- all


def test_a_rewritten_routing_is_the_same_for_the_plan_with_and_without_guesses():
    trace = random_trace(9, requests=3, tokens=12, layers=3, experts=8, top_k=1, prompt=4)
    gating = bound(HashedRouting(0.5), experts=8)
    plans = [Plan(trace, Workload(), rewrite=gating.rewrite, guess=guess) for guess in (None, bound(WholePass()).guess)]
    assert [s.groups for s in plans[0]] == [s.groups for s in plans[1]]
    changed = [s.groups for s in Plan(trace, Workload())]
    assert changed != [s.groups for s in plans[0]]


# ---- staging


def test_a_staged_expert_without_room_in_its_cache_runs_and_is_not_told_to_it():
    """Prompts ask for more experts of a layer than it has slots, of which all are in use when the staged one is asked
    for."""
    trace = random_trace(5, requests=2, tokens=16, layers=3, experts=8, top_k=2, prompt=12)
    made = system(slots=lambda: StagedSlots(3), prediction=LookaheadPrediction)
    result = run(tiny_model(3, 8, 2), trace, tiny_platform(), made, cache_bytes=(3 * 2 + 3) * EXPERT_BYTES)
    assert counts(result)["hits"] + counts(result)["late"] + counts(result)["loads"] == sum(
        len(blobs) for step in Plan(trace, Workload()) for blobs, _ in step.groups
    )
