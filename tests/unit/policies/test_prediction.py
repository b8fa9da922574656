"""Predictors: what they name, and that they never look ahead."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import os
import pkgutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import simulator.policies.prediction as prediction
from simulator.plan import Plan, Workload
from simulator.policies import PolicyContext
from simulator.policies.prediction.base import PredictionPolicy, most_likely
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.prediction.popularity import PopularityPrediction
from simulator.policies.prediction.recall import RecallPrediction
from simulator.policies.prediction.sequence_forecast import SequenceForecast
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.prediction.whole_pass import WholePass
from simulator.routing import Routing
from traces import RequestTrace, data_path, open_trace
from traces.importers import import_trace

EXTRA_DATA = os.environ.get("MOESIM_EXTRA_DATA")
LAYERS, EXPERTS, TOP_K, DISTANCES, WIDTH = 4, 10, 3, 2, 3


def predictors(by_step: bool = False) -> list[type[PredictionPolicy]]:
    """Every class in the folder; a new file is checked without being listed here."""
    found = []
    for info in pkgutil.iter_modules(prediction.__path__, prediction.__name__ + "."):
        module = importlib.import_module(info.name)
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, PredictionPolicy) and kind.__module__ == info.name and kind is not PredictionPolicy:
                found.append(kind)
    return [kind for kind in found if kind.by_step == by_step]


def random_request(seed: int, tokens: int = 6, layers: int = LAYERS, experts: int = EXPERTS, top_k: int = TOP_K):
    rng = np.random.default_rng(seed)

    def draws(*shape: int, width: int) -> np.ndarray:
        return np.argsort(rng.random((*shape, experts)), axis=-1)[..., :width].astype(np.int16)

    guesses = draws(tokens, layers, DISTANCES, width=min(WIDTH, experts))
    for ahead in range(DISTANCES):
        guesses[:, max(layers - 1 - ahead, 0) :, ahead] = -1
    return RequestTrace(
        id=seed,
        positions=np.arange(tokens, dtype=np.int32),
        phases=np.ones(tokens, dtype=np.int8),
        experts=draws(tokens, layers, width=top_k),
        weights=rng.random((tokens, layers, top_k)).astype(np.float32),
        guesses=guesses,
    )


def following(request: RequestTrace) -> np.ndarray:
    """Routing of the token after each, -1 after the last."""
    return np.concatenate([request.experts[1:], np.full_like(request.experts[:1], -1)])


def bound(policy: PredictionPolicy, **facts) -> PredictionPolicy:
    context = {
        "layers": LAYERS,
        "experts": EXPERTS,
        "top_k": TOP_K,
        "size_bytes": [],
        "guess_distances": DISTANCES,
        "training": lambda: iter([random_request(100, 40), random_request(101, 40)]),
    }
    policy.bind(PolicyContext(**{**context, **facts}))
    return policy


def table(guess) -> np.ndarray | None:
    """A guess as one array [tokens, layers, ...], with its scores beside the blobs if it has any."""
    return np.concatenate(guess, axis=-1) if isinstance(guess, tuple) else guess


def peeks(policy: PredictionPolicy) -> list[tuple[int, int]]:
    """The (token, layer) whose guess changes with what is only known later."""
    request, other = random_request(1), random_request(2)
    before = table(policy.guess(request, following(request)))
    if before is None:
        return []
    changed = []
    for token in range(request.tokens):
        for layer in range(LAYERS):
            experts, guesses = other.experts.copy(), other.guesses.copy()
            weights = other.weights.copy()
            experts[: token + 1, : layer + 1] = request.experts[: token + 1, : layer + 1]
            weights[: token + 1, : layer + 1] = request.weights[: token + 1, : layer + 1]
            guesses[token, layer] = request.guesses[token, layer]
            spoilt = dataclasses.replace(request, experts=experts, weights=weights, guesses=guesses)
            after = table(policy.guess(spoilt, following(spoilt)))
            assert after is not None
            if not np.array_equal(before[token, layer], after[token, layer]):
                changed.append((token, layer))
    return changed


def test_only_the_oracle_and_stand_ins_of_stated_recall_are_clairvoyant():
    made_from_the_truth = {
        "BatchPaths",
        "OraclePrediction",
        "PreGated",
        "RecallPrediction",
        "SequenceForecast",
        "WholePass",
    }
    assert {kind.__name__ for kind in [*predictors(), *predictors(True)] if kind.clairvoyant} == made_from_the_truth


@pytest.mark.parametrize("kind", [kind for kind in predictors() if not kind.clairvoyant])
def test_no_guess_depends_on_later_layers_or_later_tokens(kind):
    assert peeks(bound(kind())) == []


@pytest.mark.parametrize("kind", [kind for kind in predictors(by_step=True) if not kind.clairvoyant])
def test_nothing_expected_in_a_step_depends_on_what_is_routed_later(kind):
    """Two streams of steps that part in layer 2 of step 5: until then the answers are the same."""
    said = []
    for seed in (1, 2):
        policy, routing, answers = bound(kind(period=1)), Routing(), []
        for step in range(8):
            same, other = random_request(step, tokens=1), random_request(100 * seed + step, tokens=1)
            rows = other.experts.copy() if step >= 5 else same.experts.copy()
            if step == 5:
                rows[:, :2] = same.experts[:, :2]
            routing.begin(SimpleNamespace(rows=[rows], requests=[step]))
            answers += [(list(blobs), scores) for blobs, scores in (policy.expect(n, routing) for n in range(LAYERS))]
        said.append(answers)
    assert said[0][: 5 * LAYERS + 2] == said[1][: 5 * LAYERS + 2]
    assert said[0] != said[1]


@pytest.mark.parametrize("distance", [1, 2])
def test_no_lookahead_guess_depends_on_later_layers_or_later_tokens(distance):
    assert peeks(bound(LookaheadPrediction(distance, width=2))) == []


def test_the_check_finds_a_predictor_that_looks_ahead():
    """The oracle looks one layer ahead everywhere, but knows nothing after the last token."""
    everywhere = [(token, layer) for token in range(6) for layer in range(LAYERS)]
    assert set(peeks(bound(OraclePrediction()))) >= set(everywhere[:-1]) - {(5, LAYERS - 1)}


@pytest.mark.parametrize("kind", predictors())
def test_guesses_name_blobs_of_a_later_layer_each_once_and_leave_the_request_as_it_was(kind):
    request = random_request(3, tokens=30)
    copy = request.experts.copy()
    guessed = bound(kind()).guess(request, following(request))
    assert np.array_equal(request.experts, copy)
    if guessed is None:
        return
    guessed = guessed[0] if isinstance(guessed, tuple) else guessed
    assert guessed.shape[:2] == (30, LAYERS)
    assert np.issubdtype(guessed.dtype, np.integer)
    for row in guessed.reshape(-1, guessed.shape[2]).tolist():
        named = [blob for blob in row if blob >= 0]
        assert len(named) == len(set(named))
    if kind is WholePass:  # for every layer that remains
        assert ((guessed < 0) | (guessed // EXPERTS > np.arange(LAYERS)[None, :, None])).all()
        return
    ahead = LAYERS if kind is SequenceForecast else 1  # for the next token, or the next layer
    target = (np.arange(LAYERS) + ahead) % LAYERS
    layers = np.where(guessed >= 0, guessed // EXPERTS, target[None, :, None])
    assert (layers == target[None, :, None]).all()


@pytest.mark.parametrize("kind", predictors())
def test_the_same_context_gives_the_same_guesses(kind):
    request = random_request(4)
    first, second = (bound(kind()).guess(request, following(request)) for _ in range(2))
    assert (first is None and second is None) or np.array_equal(first, second)


# most likely


def test_the_most_likely_come_first_and_ties_go_to_the_lower_index():
    assert most_likely(np.array([3, 7, 7, 0, 3]), 4).tolist() == [1, 2, 0, 4]
    assert most_likely(np.zeros(5), 2).tolist() == [0, 1]


# oracle


def test_the_oracle_names_the_next_layer_and_from_the_last_one_the_next_token():
    request = random_request(5, tokens=2)
    guessed = bound(OraclePrediction()).guess(request, following(request))
    for token in range(2):
        for layer in range(LAYERS - 1):
            assert (
                guessed[token, layer].tolist() == (request.experts[token, layer + 1] + (layer + 1) * EXPERTS).tolist()
            )
    assert guessed[0, -1].tolist() == request.experts[1, 0].tolist()
    assert guessed[1, -1].tolist() == [-1, -1, -1]


def test_an_oracle_of_distance_two_names_two_layers_nearest_first():
    request = random_request(6, tokens=2)
    guessed = bound(OraclePrediction(2)).guess(request, following(request))
    one, two = request.experts[0, 1] + EXPERTS, request.experts[0, 2] + 2 * EXPERTS
    assert guessed[0, 0].tolist() == [*one, *two]
    wrapped = [*request.experts[1, 0], *(request.experts[1, 1] + EXPERTS)]
    assert guessed[0, -1].tolist() == wrapped


# recall


@pytest.mark.parametrize("recall", [0.0, 0.3, 0.9, 1.0])
def test_measured_recall_is_within_three_sigma_of_the_stated(recall):
    request = random_request(7, tokens=800, experts=64, top_k=4)
    policy = bound(RecallPrediction(recall), experts=64, top_k=4, rng=np.random.default_rng(1))
    guessed = policy.guess(request, following(request))
    truth = request.experts[:, 1:] + np.arange(1, LAYERS)[None, :, None] * 64
    named = (truth[..., :, None] == guessed[:, :-1][..., None, :]).any(axis=-1).sum()
    draws = truth.size  # 800 x 3 x 4 = 9,600
    sigma = np.sqrt(draws * recall * (1 - recall))
    assert abs(named - draws * recall) <= 3 * sigma
    assert (guessed[:, -1] == -1).all()  # nothing of the next token


def test_a_spoilt_guess_names_others_never_the_tokens_own_and_each_once():
    request = random_request(8, tokens=300)
    guessed = bound(RecallPrediction(0.0)).guess(request, following(request))[:, :-1]
    own = request.experts[:, 1:] + np.arange(1, LAYERS)[None, :, None] * EXPERTS
    assert not (guessed[..., :, None] == own[..., None, :]).any()
    ordered = np.sort(guessed, axis=-1)
    assert (ordered[..., 1:] > ordered[..., :-1]).all()


def test_spoilt_guesses_are_drawn_evenly_from_the_others():
    # one layer-1 choice throughout: 0, 1, 2; 3 of the 7 others are named, each with probability 3/7
    request = random_request(9, tokens=7000)
    experts = request.experts.copy()
    experts[:, 1] = [0, 1, 2]
    request = dataclasses.replace(request, experts=experts)
    guessed = bound(RecallPrediction(0.0)).guess(request, following(request))[:, 0] - EXPERTS
    counts = np.bincount(guessed.ravel(), minlength=EXPERTS)
    assert counts[:3].tolist() == [0, 0, 0]
    # mean 3,000, sigma sqrt(7000 x 3/7 x 4/7) = 41.4; four sigma
    assert np.abs(counts[3:] - 3000).max() < 166


def test_where_the_others_run_out_a_spoilt_guess_names_nothing():
    request = random_request(10, tokens=50, experts=4, top_k=3)
    guessed = bound(RecallPrediction(0.0), experts=4).guess(request, following(request))[:, :-1]
    assert ((guessed >= 0).sum(axis=-1) == 1).all()  # 4 - 3 = 1 other


def test_recall_draws_depend_on_the_seed_and_the_request_not_on_the_order_of_calls():
    requests = [random_request(seed, tokens=20) for seed in (11, 12)]

    def guesses(seed: int, order: list[int]) -> list[list]:
        policy = bound(RecallPrediction(0.5), rng=np.random.default_rng(seed))
        made = {i: policy.guess(requests[i], following(requests[i])).tolist() for i in order}
        return [made[0], made[1]]

    assert guesses(1, [0, 1]) == guesses(1, [1, 0])
    assert guesses(1, [0, 1]) != guesses(2, [0, 1])


# transition and popularity


def test_transition_scores_equal_a_plain_count():
    training = [random_request(20, tokens=9), random_request(21, tokens=5)]
    counts = np.zeros((LAYERS, EXPERTS, EXPERTS))
    for request in training:
        for token in range(request.tokens):
            for layer in range(LAYERS):
                if layer + 1 < LAYERS:
                    after = request.experts[token, layer + 1]
                elif token + 1 < request.tokens:
                    after = request.experts[token + 1, 0]
                else:
                    continue
                for i in request.experts[token, layer]:
                    for j in after:
                        counts[layer, i, j] += 1
    served = random_request(22)
    guessed = bound(TransitionPrediction(width=4), training=lambda: iter(training)).guess(served, following(served))
    for token in range(served.tokens):
        for layer in range(LAYERS):
            scores = [0] * EXPERTS
            for i in served.experts[token, layer]:
                if total := counts[layer, i].sum():
                    for j in range(EXPERTS):
                        scores[j] += round(1e6 * counts[layer, i, j] / total)
            best = sorted(range(EXPERTS), key=lambda j: (-scores[j], j))[:4]
            assert guessed[token, layer].tolist() == [(layer + 1) % LAYERS * EXPERTS + j for j in best]


def test_transition_ignores_empty_slots():
    request = random_request(23)
    experts = request.experts.copy()
    experts[..., 2] = -1
    empty = dataclasses.replace(request, experts=experts)
    short = dataclasses.replace(request, experts=experts[..., :2])
    policies = [bound(TransitionPrediction(2), training=lambda r=r: iter([r])) for r in (empty, short)]
    guesses = [policy.guess(r, following(r)) for policy, r in zip(policies, (empty, short), strict=True)]
    assert np.array_equal(*guesses)


def test_popularity_names_the_most_chosen_of_the_next_layer():
    training = random_request(24, tokens=50)
    guessed = bound(PopularityPrediction(2), training=lambda: iter([training])).guess(training, following(training))
    for layer in range(LAYERS):
        target = (layer + 1) % LAYERS
        counts = [int((training.experts[:, target] == e).sum()) for e in range(EXPERTS)]
        best = sorted(range(EXPERTS), key=lambda e: (-counts[e], e))[:2]
        assert (guessed[:, layer] == [target * EXPERTS + e for e in best]).all()


# lookahead


def test_lookahead_reads_the_traces_guesses_nearest_layer_first():
    request = random_request(25)
    guessed = bound(LookaheadPrediction(2, width=2)).guess(request, following(request))
    near, far = request.guesses[0, 0, 0, :2], request.guesses[0, 0, 1, :2]
    assert guessed[0, 0].tolist() == [*(near + EXPERTS), *(far + 2 * EXPERTS)]
    assert guessed[0, LAYERS - 2].tolist() == [*(request.guesses[0, LAYERS - 2, 0, :2] + 3 * EXPERTS), -1, -1]
    assert (guessed[:, -1] == -1).all()


def test_lookahead_is_refused_on_a_trace_without_guesses():
    meta = open_trace(data_path("gpt_oss_20b.parquet")).meta
    assert meta.guess_distances == 0
    expected = (
        r"^policy/prediction=lookahead asks for guesses 1 layers ahead, but the trace holds none; "
        r"use policy/prediction=recall for a stated recall\.$"
    )
    with pytest.raises(ValueError, match=expected):
        bound(LookaheadPrediction(), guess_distances=meta.guess_distances)


def test_lookahead_is_refused_beyond_the_recorded_distance():
    with pytest.raises(ValueError, match=r"asks for guesses 3 layers ahead, but the trace holds 2;"):
        bound(LookaheadPrediction(3))


@pytest.mark.skipif(EXTRA_DATA is None, reason="MOESIM_EXTRA_DATA is not set")
def test_lookahead_follows_the_recorded_guesses_of_a_real_trace(tmp_path):
    source = Path(str(EXTRA_DATA)) / "traces" / "per_token" / "tiny_olmoe.parquet"
    trace = import_trace(source, tmp_path / "tiny.parquet")
    meta = trace.meta
    assert meta.guess_distances == 2
    facts = {"layers": len(meta.layers), "experts": meta.num_experts, "guess_distances": 2}
    policy = bound(LookaheadPrediction(2), **facts)
    request = trace.request(0)
    plan = Plan(trace, Workload(requests=1), guess=policy.guess)
    decode = np.flatnonzero(request.phases != 0)
    steps = [step for step in plan if not step.prefill]
    assert len(steps) == len(decode) > 0
    for token, step in zip(decode.tolist(), steps, strict=True):
        for layer in range(len(meta.layers)):
            expected = [
                int(expert) + (layer + ahead + 1) * meta.num_experts
                for ahead in range(2)
                for expert in request.guesses[token, layer, ahead]
                if expert >= 0
            ]
            assert step.guesses is not None
            assert step.guesses[layer] == expected


@pytest.mark.skipif(EXTRA_DATA is None, reason="MOESIM_EXTRA_DATA is not set")
def test_the_deepseek_traces_hold_no_guesses(tmp_path):
    source = Path(str(EXTRA_DATA)) / "traces" / "per_token" / "deepseek-v2-lite_esft_intent.parquet"
    trace = import_trace(source, tmp_path / "deepseek.parquet", requests=[0])
    with pytest.raises(ValueError, match="but the trace holds none;"):
        bound(LookaheadPrediction(), guess_distances=trace.meta.guess_distances)


# settings


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: bound(OraclePrediction(0)), r"^policy\.prediction\.distance is 0; expected 1 to 4, the routed layers"),
        (lambda: bound(OraclePrediction(5)), r"^policy\.prediction\.distance is 5; expected 1 to 4, the routed layers"),
        (lambda: bound(RecallPrediction(0.9, 5)), r"^policy\.prediction\.distance is 5; expected 1 to 4,"),
        (lambda: bound(LookaheadPrediction(0)), r"^policy\.prediction\.distance is 0; expected 1 to 4,"),
        (lambda: RecallPrediction(1.1), r"^policy\.prediction\.recall is 1\.1; expected a number from 0 to 1\.$"),
        (lambda: RecallPrediction(float("nan")), r"^policy\.prediction\.recall is nan; expected a number"),
        (lambda: TransitionPrediction(0), r"^policy\.prediction\.width is 0; expected at least 1 or null\.$"),
        (lambda: PopularityPrediction(-1), r"^policy\.prediction\.width is -1; expected at least 1 or null\.$"),
        (lambda: LookaheadPrediction(1, 0), r"^policy\.prediction\.width is 0; expected at least 1 or null\.$"),
    ],
)
def test_a_setting_that_cannot_work_is_refused_in_one_sentence(make, message):
    with pytest.raises(ValueError, match=message):
        make()
