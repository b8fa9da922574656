"""Choices of systems that learn from past routing: predictors, caches that listen to them, the queue of fetches."""

from __future__ import annotations

from functools import cache
from types import SimpleNamespace

import numpy as np
import pytest

from simulator.binding import rows_of
from simulator.policies import PolicyContext
from simulator.policies.cache.activation_aware import ActivationAware
from simulator.policies.cache.expected_belady import ExpectedBelady
from simulator.policies.cache.lru_touched import LruTouched
from simulator.policies.cache.probability_frequency import ProbabilityFrequency
from simulator.policies.prediction.activation_matrices import ActivationMatrices
from simulator.policies.prediction.collection import Collection, Running
from simulator.policies.prediction.expert_maps import ExpertMaps
from simulator.policies.prediction.linear import LinearPrediction
from simulator.policies.prediction.sequence_forecast import SequenceForecast
from simulator.policies.prefetch.queue import PriorityQueue
from simulator.residency import RESIDENT, Partition, Tier
from tests.helpers import EXPERT_BYTES, real_trace, run, system, tiny_model, tiny_platform, tiny_trace
from traces import RequestTrace

LAYERS, EXPERTS = 3, 6


def request(ids, number: int = 0, phase: int = 1, **parts) -> RequestTrace:
    """ids [tokens][layers][top_k]."""
    experts = np.array(ids, dtype=np.int16)
    tokens = len(experts)
    return RequestTrace(
        id=number,
        positions=np.arange(tokens, dtype=np.int32),
        phases=np.full(tokens, phase, dtype=np.int8),
        experts=experts,
        **{name: np.array(value, dtype=np.float32) for name, value in parts.items()},
    )


def guessed(policy, rows: RequestTrace):
    """Per token and layer the named (layer, expert), and their scores."""
    following = np.concatenate([rows.experts[1:], np.full_like(rows.experts[:1], -1)])
    blobs, scores = policy.guess(rows, following)
    names = [[[divmod(b, policy._experts) for b in layer if b >= 0] for layer in token] for token in blobs.tolist()]
    marks = [[[m for b, m in zip(*pair, strict=True) if b >= 0] for pair in zip(*token, strict=True)]
             for token in zip(blobs.tolist(), scores.tolist(), strict=True)]  # fmt: skip
    return names, marks


def bound(policy, training=(), layers: int = LAYERS, experts: int = EXPERTS, top_k: int = 1, **facts):
    policy.bind(
        PolicyContext(
            layers=layers, experts=experts, top_k=top_k, size_bytes=[], training=lambda: iter(training), **facts
        )
    )
    return policy


# ---- what is compared with


def test_likeness_is_the_cosine_of_the_layers_so_far():
    collection = Collection(4, layers=2, experts=2)
    collection.add(np.array([[[1, 0], [0, 1]], [[3, 4], [0, 0]]]))
    first, both = collection.likeness(np.array([[[1.0, 0.0], [1.0, 0.0]]]))
    assert first.tolist() == [[1.0, 0.6]]
    assert both[0].tolist() == pytest.approx([0.5, 3 / (5 * 2**0.5)], abs=1e-6)


def test_a_full_collection_replaces_the_map_most_like_the_new_one():
    collection = Collection(2, layers=1, experts=3)
    collection.add(np.array([[[1, 0, 0]], [[0, 1, 0]], [[0.1, 0.9, 0]]]))
    assert collection.maps[:, 0] == pytest.approx(np.array([[1, 0, 0], [0.1, 0.9, 0]]))


def test_redundancy_weighs_embeddings_for_their_share():
    """The new map is like the first; its embedding like the second's, which at a share of 0.9 decides."""
    for share, kept in ((0.1, [[0, 1], [1, 0]]), (0.9, [[1, 0], [1, 0]])):
        collection = Collection(2, layers=1, experts=2, embedding_weight=share)
        collection.add([np.array([[1.0, 0.0]])], np.array([1.0, 0.0]))
        collection.add([np.array([[0.0, 1.0]])], np.array([0.0, 1.0]))
        collection.add([np.array([[1.0, 0.0]])], np.array([0.0, 1.0]))
        assert sorted(collection.maps[:, 0].tolist()) == kept


def test_a_request_has_ended_when_as_many_as_run_at_once_have_begun_after_it():
    running, ended = Running(concurrent=2), []
    for number in (0, 1, 0, 1, 2, 3):  # two batches of two; those of the first come in two blocks
        rows = request([[[0]]] * 2, number)
        rows.positions[:] += 10 * len([n for n in ended if n == ("seen", number)])
        kept, over = running.enter(rows, lambda number=number: number)
        ended += [("seen", number), *over]
        assert kept == number
    assert [entry for entry in ended if not isinstance(entry, tuple)] == [0, 1]
    assert ended.index(0) > ended.index(("seen", 2))


# ---- activation matrices (MoE-Infinity)

SPORTS, COOKING = [[[0], [1], [2]]] * 4, [[[3], [4], [5]]] * 4


def test_the_request_whose_activations_are_nearest_names_all_layers_that_remain_the_nearest_first():
    policy = bound(ActivationMatrices(distance=None), [request(SPORTS), request(COOKING, 1)], top_k=2)
    names, scores = guessed(policy, request([[[3], [4], [0]]], 2))
    assert names[0] == [[(1, 4), (2, 5)], [(2, 5)], []]
    assert scores[0] == [[1.0, 1.0], [1.0], []]


def test_scores_are_shares_of_the_tokens_of_a_layer_in_the_matched_requests():
    training = [request([[[0], [1], [2]]] * 3 + [[[0], [2], [2]]])]
    names, scores = guessed(bound(ActivationMatrices(distance=None, width=4), training), request([[[0], [1], [2]]], 2))
    # priorities 0.75 x (1 - 1/4) = 0.5625, 1 x (1 - 2/4) = 0.5, 0.25 x 0.75 = 0.1875
    assert names[0][0] == [(1, 1), (2, 2), (1, 2)]
    assert scores[0][0] == [0.75, 1.0, 0.25]


def test_prompts_are_compared_with_prompts():
    training = [request(SPORTS, 0, phase=0), request(COOKING, 1, phase=1)]
    policy = bound(ActivationMatrices(), training)
    names, _ = guessed(policy, request([[[3], [4], [5]]], 2, phase=0))
    assert names[0][0] == [(1, 1)]  # cooking was never a prompt
    names, _ = guessed(policy, request([[[3], [4], [5]]], 3, phase=1))
    assert names[0][0] == [(1, 4)]


@pytest.mark.parametrize("learns", [True, False])
def test_after_a_change_of_task_it_recovers_once_a_request_has_ended(learns):
    policy = bound(ActivationMatrices(learns=learns), [request(SPORTS)])
    right = []
    for number in range(1, 4):
        names, _ = guessed(policy, request(COOKING, number))
        right.append(names[0][0] == [(1, 4)])
    assert right == ([False, True, True] if learns else [False, False, False])


# ---- expert maps (FineMoE)


def maps(*rows):
    """Probabilities [tokens][layers][experts] of six experts from those of the first ones."""
    return [[[*layer, *[0.0] * (EXPERTS - len(layer))] for layer in token] for token in rows]


A = [[0.7, 0.2, 0.1], [0.0, 0.6, 0.4], [0.5, 0.3, 0.2]]
B = [[0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 1.0], [0.0, 0.0, 0.0, 0.5, 0.5]]


def test_a_sure_match_names_top_k_and_an_unsure_one_more():
    store = [request([[[0], [1], [0]]], probabilities=maps(A))]
    same = request([[[0], [1], [0]]], 1, probabilities=maps(A))
    assert guessed(bound(ExpertMaps(), store), same)[0][0] == [[(1, 1)], [(2, 0)], []]
    # cosine with the first layer (0, 0.6, 0.8) = 0.2 x 0.6 + 0.1 x 0.8 = 0.2 over sqrt(0.54) = 0.272: until 0.728
    unlike = request([[[2], [1], [0]]], 2, probabilities=maps([[0.0, 0.6, 0.8], A[1], A[2]]))
    names, scores = guessed(bound(ExpertMaps(), store), unlike)
    assert names[0][0] == [(1, 1), (1, 2)]
    assert scores[0][0] == pytest.approx([0.6, 0.4])


def test_the_map_nearest_in_the_layers_so_far_is_taken_the_stated_distance_ahead():
    store = [request([[[0], [1], [0]]], probabilities=maps(A)), request([[[3], [3], [3]]], 1, probabilities=maps(B))]
    served = request([[[3], [1], [0]]], 2, probabilities=maps([B[0], A[1], A[2]]))
    assert guessed(bound(ExpertMaps(distance=2), store), served)[0][0] == [[(2, 3)], [], []]


def test_embeddings_name_the_first_layers_of_the_next_token():
    store = [
        request([[[0], [1], [0]]], 0, probabilities=maps(A), embedding=[1, 0]),
        request([[[3], [3], [3]]], 1, probabilities=maps(B), embedding=[0, 1]),
    ]
    served = request([[[0], [1], [0]]], 2, probabilities=maps(A), embedding=[0, 2])
    assert guessed(bound(ExpertMaps(distance=2), store), served)[0][0] == [[(2, 0)], [], [(0, 3), (1, 3)]]


def test_gate_weights_stand_in_for_probabilities():
    store = [request([[[0, 1]] * 3], weights=[[[0.75, 0.25]] * 3])]
    served = request([[[0, 1]] * 3], 1, weights=[[[0.75, 0.25]] * 3])
    assert guessed(bound(ExpertMaps(), store, top_k=2), served)[1][0][0] == [0.75, 0.25]


# ---- linear (ProMoE, DyNN-Offload)


def test_a_fixed_mapping_from_layer_to_layer_is_learned_exactly():
    rng = np.random.default_rng(3)
    mapping = rng.permutation(EXPERTS)

    def drawn(number: int, tokens: int) -> RequestTrace:
        first = rng.integers(EXPERTS, size=tokens)
        return request(np.stack([first, rng.integers(EXPERTS, size=tokens), mapping[first]], axis=1)[..., None], number)

    policy = bound(LinearPrediction(distance=2), [drawn(0, 300)])
    served = drawn(1, 50)
    names, scores = guessed(policy, served)
    assert [token[0] for token in names] == [[(2, int(token[2, 0]))] for token in served.experts]
    assert min(token[0][0] for token in scores) > 0.9


def test_without_a_distance_it_names_the_same_layer_of_the_next_token():
    turns = [[[token % EXPERTS], [0], [1]] for token in range(40)]
    names, _ = guessed(bound(LinearPrediction(distance=None), [request(turns)]), request(turns[:5], 1))
    assert [token[0] for token in names] == [[(0, (token + 1) % EXPERTS)] for token in range(5)]


@cache
def real(name: str):
    trace = real_trace(name)
    meta = trace.meta
    return [trace.request(index) for index in range(len(trace))], len(meta.layers), meta.num_experts, meta.top_k


def recall(policy, name: str, ahead: int) -> float:
    """Share of the experts of decoded tokens, in layers `ahead` on, that are named; three requests are served."""
    requests, layers, experts, top_k = real(name)
    bound(policy, requests[3:], layers, experts, top_k)
    named = asked = 0
    for whole in requests[:3]:
        rows = rows_of(whole, slice(int(np.argmax(whole.phases != 0)), whole.tokens))
        ids = rows.experts.astype(int)
        after = np.concatenate([ids[1:], np.full_like(ids[:1], -1)])
        blobs, _ = policy.guess(rows, after)
        for layer in range(layers):
            target = layer + ahead
            if target >= layers and ahead < layers:
                continue
            truth = ids[:, target] if target < layers else after[:, target - layers]
            there = truth >= 0
            wanted = truth + target % layers * experts
            named += ((wanted[:, :, None] == blobs[:, layer, None, :]).any(axis=-1) & there).sum()
            asked += there.sum()
    return named / asked


def popular(name: str, ahead: int) -> float:
    """The same of the top-k experts that the other requests choose most."""
    requests, layers, experts, top_k = real(name)
    counted = np.zeros((layers, experts))
    for one in requests[3:]:
        for layer in range(layers):
            counted[layer] += np.bincount(one.experts[:, layer].ravel(), minlength=experts)
    best = np.argsort(-counted, axis=1)[:, :top_k]
    first = ahead if ahead < layers else 0
    found = [
        np.isin(one.experts[one.phases != 0][:, layer], best[layer])
        for one in requests[:3]
        for layer in range(first, layers)
    ]
    return float(np.concatenate([part.ravel() for part in found]).mean())


@pytest.mark.parametrize(
    ("make", "name", "ahead", "gain"),
    [
        pytest.param(lambda: LinearPrediction(distance=None), "tiny_moe", None, 0.08, id="linear_next_token"),
        *(
            pytest.param(make, name, ahead, gain, id=f"{what}-{name}")
            for name in ("gpt_oss_20b", "tiny_moe")
            for what, make, ahead, gain in (
                ("linear_2", lambda: LinearPrediction(distance=2), 2, 0.25),
                ("activation_matrices", lambda: ActivationMatrices(nearest=3), 1, 0.08),
                ("expert_maps_3", lambda: ExpertMaps(capacity=300, distance=3), 3, 0.15),
            )
        ),
    ],
)
def test_on_requests_they_were_not_fitted_to_they_beat_the_most_popular_experts(make, name, ahead, gain):
    ahead = ahead or real(name)[1]
    assert recall(make(), name, ahead) > popular(name, ahead) + gain


# ---- sequence forecast (SeqMoE)


def test_a_perfect_forecast_scores_each_expert_by_the_steps_until_its_next_use():
    served = request([[[0]], [[1]], [[2]], [[0]], [[1]]])
    names, scores = guessed(bound(SequenceForecast(recall=1.0, steps=3), layers=1), served)
    assert [name for _, name in names[0][0]] == [1, 2, 0]
    assert scores[0][0] == pytest.approx([1, 1 / 2, 1 / 3])
    assert [name for _, name in names[3][0]] == [1]


def test_steps_are_forecast_with_their_own_recall():
    """600 x 6 experts: after 1 step 0.9, after 2 steps 0.45 of the true ones are named; three sigma: 0.025."""
    rng = np.random.default_rng(5)
    served = request(np.argsort(rng.random((600, 6, 64)), axis=-1)[..., :1])
    policy = bound(SequenceForecast(recall=0.9, steps=2, decay=0.5), layers=6, experts=64)
    blobs, _ = policy.guess(served, np.concatenate([served.experts[1:], served.experts[:1]]))
    for step, stated in ((1, 0.9), (2, 0.45)):
        truth = served.experts[step:].astype(int) + np.arange(6)[None, :, None] * 64
        assert abs((truth == blobs[: 600 - step]).any(axis=-1).mean() - stated) < 0.03
    assert (blobs >= 0).sum() / 3600 == pytest.approx(2, abs=0.1)  # as many as are chosen in two steps


def test_of_a_prompt_only_the_last_token_is_forecast_from():
    blobs, _ = bound(SequenceForecast(recall=1.0), layers=1).guess(
        request([[[0]], [[1]], [[2]]], phase=0), np.array([[[1]], [[2]], [[4]]])
    )
    assert blobs.max(axis=(1, 2)).tolist() == [-1, -1, 4]


# ---- caches that listen


def memory(policy, *held: int, layers: int = 2, experts: int = 4) -> Tier:
    """A tier of one partition with these blobs in it, used in this order."""
    partition = Partition(len(held), policy)
    tier = Tier("memory", [1] * layers * experts, [partition] * layers)
    for blob in held:
        tier.occupy(partition, blob, RESIDENT)
    tier.view.group = tier.view.layer = 0
    policy.on_layer(held, held, tier.view)
    return tier


def test_activation_aware_drops_late_layers_before_early_ones_and_the_unexpected_before_the_expected():
    policy = ActivationAware()
    tier = memory(policy, 0, 1, 4, 5)
    assert policy.victims(2, [2], tier.view) == [4, 5]  # nothing expected: the later layer, the longest unused first
    policy.on_forecast([4, 0], [0.9, 0.3], tier.view)
    # priorities: 0: 0.3, 4: 0.9 x 1/2 = 0.45; the others epsilon, of which 5 lies later
    assert policy.victims(4, [2], tier.view) == [5, 1, 0, 4]
    policy.on_forecast([5], [0.2], tier.view)  # replaces what was said of layer 1, not of layer 0
    assert policy.victims(4, [2], tier.view) == [4, 1, 5, 0]


def test_probability_and_frequency_are_multiplied():
    policy = ProbabilityFrequency()
    tier = memory(policy, 0, 1, 2)
    for _ in range(3):
        policy.on_layer([1], [], tier.view)
    policy.on_forecast([0, 1], [0.5, 0.2], tier.view)  # 0.5 x 1, 0.2 x 4; 2 is not expected
    assert policy.victims(3, [3], tier.view) == [2, 0, 1]


def test_expected_belady_counts_layers_and_tokens_until_the_next_use():
    policy = ExpectedBelady(beyond=9)
    tier = memory(policy, 0, 1, 4, 5)  # layer 0 runs
    policy.on_forecast([0, 4, 5], [0.5, 1.0, 0.25], tier.view)
    # next use in layers from now: 4: 1; 0: 2 + 1 x 2 = 4; 5: 1 + 3 x 2 = 7; 1: 2 + 8 x 2 = 18
    assert policy.victims(4, [2], tier.view) == [1, 5, 0, 4]


def test_expected_belady_drops_nothing_sooner_for_a_fetch_ahead():
    policy = ExpectedBelady()
    tier = memory(policy, 0, 1)
    policy.on_forecast([0, 1, 2], [1.0, 0.25, 0.5], tier.view)
    assert policy.victims(1, [0], tier.view) == [1]
    tier.view.prefetching = True
    assert policy.victims(2, [2], tier.view) == [1]  # 2 is expected before 1, after 0


def test_to_be_expected_is_a_use():
    policy = LruTouched()
    tier = memory(policy, 0, 1, 2)
    policy.on_forecast([0, 3], None, tier.view)
    assert policy.victims(2, [3], tier.view) == [1, 2]


def test_with_a_perfect_forecast_expected_belady_keeps_what_least_recently_used_drops():
    """One layer, experts 0 1 2 0 1 2 ... with room for two: every second access hits; with LRU none."""
    trace = tiny_trace([[[[token % 3]] for token in range(9)]])
    result = run(
        tiny_model(1, 4, 1),
        trace,
        tiny_platform(),
        system(cache=ExpectedBelady, prediction=lambda: SequenceForecast(recall=1.0), prefetch=Nothing),
        cache_bytes=2 * EXPERT_BYTES,
    )
    assert [record.hits for record in result.records] == [0, 0, 0, 1, 0, 1, 0, 1, 0]


# ---- the queue


class Nothing(PriorityQueue):
    """Fetches nothing ahead."""

    def choose(self, missing, work):
        return ()


def work(layer: int, expected, scores, running=(), queued: int = 0, here=()):
    """Two experts per layer, four layers."""
    return SimpleNamespace(
        layers=4,
        expected=expected,
        scores=scores,
        blobs=running,
        queued=queued,
        layer_of=lambda blob: blob // 2,
        distance=lambda blob: (blob // 2 - layer - 1) % 4 + 1,
        resident=lambda blob: blob in here,
        here_or_coming=lambda blob: blob in here,
    )


@pytest.mark.parametrize(
    ("order", "first"),
    [
        ("linear", [6, 4, 2]),  # 0.3 x 4/5 = 0.24, 0.5 x 3/5 = 0.3, 0.9 x 2/5 = 0.36
        ("inverse", [2, 6, 4]),  # 0.3, 0.25, 0.3; sorted below
        ("soonest", [6, 4, 2]),  # 1 + 4 x 7/3 = 10.3, 2 + 4 = 6, 3 + 4/9 = 3.4
    ],
)
def test_priorities_weigh_score_and_distance(order, first):
    expected, scores = [2, 4, 6], [0.3, 0.5, 0.9]
    if order == "inverse":
        scores = [0.4, 0.5, 0.9]  # 0.4, 0.25, 0.3
    queue = PriorityQueue(order, max_queued=3)
    assert queue.choose(expected, work(0, expected, scores)) == first


def test_what_does_not_fit_the_lane_waits_and_is_ranked_anew_in_the_next_layer():
    queue = PriorityQueue("inverse", max_queued=1)
    assert queue.choose([2, 4, 6], work(0, [2, 4, 6], [0.9, 0.5, 0.4])) == [2]
    # in layer 1, layer 2 is named anew and layer 3 is not: 5 x 0.1 / 1 against 6 x 0.4 / 2
    assert queue.choose([5], work(1, [5], [0.1], here=[2])) == [6]


def test_a_waiting_expert_is_forgotten_when_its_layer_has_run():
    queue = PriorityQueue("inverse", max_queued=1)
    assert queue.choose([2, 3], work(0, [2, 3], [0.9, 0.8])) == [2]
    assert queue.choose([4], work(1, [4], [0.1], here=[2])) == [4]  # 3 belonged to the layer that runs now


def test_what_the_running_layer_waits_for_takes_no_place_in_the_queue():
    queue = PriorityQueue(max_queued=1)
    assert queue.choose([2], work(0, [2], [0.9], running=[0, 1], queued=2)) == [2]
    assert queue.choose([2], work(0, [2], [0.9], running=[0, 1], queued=3)) == []


# ---- settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ActivationMatrices(capacity=0), r"^policy\.prediction\.capacity is 0; expected at least 1\.$"),
        (lambda: ActivationMatrices(concurrent=0), r"^policy\.prediction\.concurrent is 0; expected at least 1, the"),
        (lambda: bound(ActivationMatrices(distance=4)), r"^policy\.prediction\.distance is 4; expected 1 to 3,"),
        (lambda: ExpertMaps(least=0), r"^policy\.prediction\.least is 0; expected at least 1\.$"),
        (lambda: LinearPrediction(ridge=0.0), r"^policy\.prediction\.ridge is 0\.0; expected a number above 0\.$"),
        (lambda: LinearPrediction(layers_back=0), r"^policy\.prediction\.layers_back is 0; expected at least 1\.$"),
        (
            lambda: SequenceForecast(recall=1.5),
            r"^policy\.prediction\.recall is 1\.5; expected a number from 0 to 1\.$",
        ),
        (lambda: SequenceForecast(steps=0), r"^policy\.prediction\.steps is 0; expected at least 1\.$"),
        (lambda: ExpectedBelady(0.5), r"^policy\.cache\.beyond is 0\.5; expected at least 1 token\.$"),
        (lambda: ActivationAware(0.0), r"^policy\.cache\.epsilon is 0\.0; expected a number above 0\.$"),
        (
            lambda: PriorityQueue("oldest"),
            r"^policy\.prefetch\.order is 'oldest'; expected one of linear, inverse, soonest",
        ),
        (lambda: PriorityQueue(max_queued=0), r"^policy\.prefetch\.max_queued is 0; expected at least 1\.$"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()


def test_each_of_two_workers_hears_the_scores_of_its_own_experts():
    heard = []

    class Hears(PriorityQueue):
        def choose(self, missing, work):
            heard.append(dict(zip(work.expected, work.scores, strict=True)))
            return super().choose(missing, work)

    class Numbers(SequenceForecast):
        """Every expert of the next layer, its number for a score."""

        def guess(self, rows, following):
            blobs = np.arange(12).reshape(1, 3, 4).repeat(rows.tokens, axis=0)
            return np.roll(blobs, -1, axis=1), np.roll(blobs, -1, axis=1).astype(float)

    trace = tiny_trace([[[[0, 1], [2, 3], [0, 1]]] * 3])
    run(
        tiny_model(3), trace, tiny_platform(2), system(prediction=Numbers, prefetch=Hears), cache_bytes=2 * EXPERT_BYTES
    )
    assert heard
    assert all(blob == score for one in heard for blob, score in one.items())
    assert {len({blob % 2 for blob in one}) for one in heard} == {1}
