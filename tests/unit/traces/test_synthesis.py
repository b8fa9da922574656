"""Traces drawn from a model of routing: closed forms, valid files, the same for the same seed, in bounded memory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from traces import TraceError, TraceWriter, data_path, open_trace
from traces.synthesis import fit_trace, profile_names, read_profile, rescale, synthesize, write
from traces.synthesis.generate import generate_all
from traces.synthesis.likelihood import ranked_loss
from traces.synthesis.moments import moments, transition_tables
from traces.synthesis.profile import Parameters, Profile, draw_model, load_profile


def small(experts: int = 8, top_k: int = 2, layers: int = 3, **strengths: float) -> Profile:
    return Profile(
        name="small",
        model="small",
        layers=tuple(range(layers)),
        experts=experts,
        top_k=top_k,
        tokens=40,
        seed=3,
        parameters=Parameters(**strengths),
        evidence=(),
    )


def drawn(profile: Profile, requests: int = 4, tokens: int = 200, seed: int = 0) -> list[np.ndarray]:
    model = draw_model(profile)
    kinds = np.arange(requests) % len(model.kind)
    return generate_all(model, np.full(requests, tokens), kinds, np.random.default_rng(seed))


def test_full_stickiness_keeps_the_experts_of_the_first_token():
    for request in drawn(small(stickiness=1.0, load_spread=1.0, coupling=1.0)):
        assert (np.sort(request[1:], axis=2) == np.sort(request[:1], axis=2)).all()


def test_without_structure_each_expert_is_chosen_as_often_as_its_popularity_says():
    profile = small(experts=6, top_k=1, load_spread=1.0)
    use = draw_model(profile).use
    tokens = 4 * 4000
    found = moments(drawn(profile, tokens=4000), 6).use
    assert np.abs(found - use).max() < 5 * np.sqrt(0.25 / tokens)  # five standard errors of a share
    assert use.sum(axis=1) == pytest.approx(1.0)


def test_without_structure_consecutive_tokens_share_what_chance_gives():
    found = moments(drawn(small(experts=8, top_k=2), tokens=4000), 8)
    assert found.near == pytest.approx(2 / 8, abs=0.01)
    assert found.within == pytest.approx(2 / 8, abs=0.01)


def test_stickiness_multiplies_the_odds_of_the_expert_of_the_token_before():
    # top-1 of 5 uniform experts, odds 1 / (1 - .75) = 4: stays with 4 / (4 + 4)
    found = moments(drawn(small(experts=5, top_k=1, stickiness=0.75), tokens=8000), 5)
    assert found.near == pytest.approx(0.5, abs=0.015)


@pytest.mark.parametrize(("coupling", "told"), [(0.0, False), (3.0, True)])
def test_only_coupling_lets_a_layer_tell_the_next(coupling: float, told: bool):
    profile = small(experts=16, coupling=coupling)
    one, other = drawn(profile, tokens=2000, seed=1), drawn(profile, tokens=2000, seed=2)
    recall = moments(one, 16, transition_tables(np.concatenate(other), 16)[None]).recall[1:]
    assert (recall > 2 / 16 + 0.2).all() if told else recall == pytest.approx(2 / 16, abs=0.02)


def test_memory_makes_requests_alike_within_and_different_from_each_other():
    plain, urn = (moments(drawn(small(experts=16, memory=memory), requests=8), 16) for memory in (0.0, 0.8))
    assert (urn.within > plain.within + 0.05).all()


def test_rank_likelihood_of_even_scores_counts_the_orders_and_its_slopes_are_differences():
    loss, _ = ranked_loss(np.zeros((1, 5)), np.array([[2, 4]]))
    assert loss == pytest.approx(np.log(5 * 4))  # 20 ordered pairs, all as likely
    rng = np.random.default_rng(0)
    scores, chosen = rng.standard_normal((3, 6)), np.array([[0, 1], [5, 2], [3, 4]])
    slopes = ranked_loss(scores.copy(), chosen)[1]
    for place in np.ndindex(scores.shape):
        step = np.zeros_like(scores)
        step[place] = 1e-6
        up, down = (ranked_loss(scores + sign * step, chosen)[0] for sign in (1, -1))
        assert (up - down) / 2e-6 == pytest.approx(slopes[place], abs=1e-6)


def test_a_drawn_trace_is_valid_says_that_it_is_synthetic_and_is_the_same_for_a_seed(tmp_path: Path):
    model = draw_model(small(load_spread=0.5, coupling=1.0, stickiness=0.3, memory=0.3))
    one, same, other = (
        synthesize(model, tmp_path / f"{name}.parquet", requests=5, tokens=30, seed=seed)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    one.verify()
    assert one.path.read_bytes() == same.path.read_bytes()
    assert one.meta.digest != other.meta.digest
    assert one.meta.source.startswith("synthetic")
    assert "profile small" in one.meta.source
    assert [info.tokens for info in one.requests] == [30] * 5
    for request in one:
        assert (np.diff(np.sort(request.experts, axis=2), axis=2) > 0).all()  # distinct


def test_no_more_tokens_are_in_memory_than_a_window_holds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    model, seen = draw_model(small()), []
    monkeypatch.setattr(write, "WINDOW_ELEMENTS", 3 * 2 * 100)  # 100 tokens of 3 layers, 2 slots
    true = write.generate_all

    def watched(model, lengths, kinds, rng):
        seen.append(lengths.sum())
        return true(model, lengths, kinds, rng)

    monkeypatch.setattr(write, "generate_all", watched)
    trace = synthesize(model, tmp_path / "long.parquet", requests=40, tokens=30)
    assert max(seen) <= 100
    assert sum(seen) == 40 * 30
    assert sum(info.tokens for info in trace.requests) == 40 * 30


@pytest.mark.parametrize(("layers", "experts", "top_k"), [(5, 16, 4), (2, 5, 1), (3, 8, 2)])
def test_rescaled_models_draw_traces_of_the_shape_asked_for(tmp_path: Path, layers: int, experts: int, top_k: int):
    model = rescale(draw_model(small(load_spread=0.5, coupling=1.0)), layers=layers, experts=experts, top_k=top_k)
    trace = synthesize(model, tmp_path / "scaled.parquet", requests=2, tokens=10)
    meta = trace.meta
    assert (len(meta.layers), meta.num_experts, meta.top_k) == (layers, experts, top_k)
    trace.verify()


def test_shapes_and_numbers_that_cannot_be_are_refused(tmp_path: Path):
    model = draw_model(small())
    with pytest.raises(TraceError, match="choices from 1"):
        rescale(model, top_k=9)
    with pytest.raises(TraceError, match="requests is 0"):
        synthesize(model, tmp_path / "none.parquet", requests=0)
    assert not (tmp_path / "none.parquet").exists()


def test_a_model_of_a_trace_is_nearer_to_it_than_popularity_is(tmp_path: Path):
    trace = open_trace(data_path("gpt_oss_20b.parquet"))
    some = [0, 2, 4, 6, 8, 10]
    real = [trace.request(index).experts[:, :3] for index in some]
    with TraceWriter(
        tmp_path / "part.parquet", dataclasses.replace(trace.meta, layers=(0, 1, 2), expert_bytes=None)
    ) as w:
        for index in some:
            request = trace.request(index)
            w.write(
                dataclasses.replace(
                    request, experts=request.experts[:, :3].copy(), weights=request.weights[:, :3].copy()
                )
            )
    model = fit_trace(open_trace(tmp_path / "part.parquet"), rounds=6)
    assert model.weights is not None
    lengths, kinds = model.requests.tokens, model.requests.kinds
    near, plain = (
        moments(generate_all(each, lengths, kinds, np.random.default_rng(0)), 32).near.mean()
        for each in (model, model.popularity_only())
    )
    wanted = moments(real, 32).near.mean()
    assert abs(near - wanted) < 0.3 * abs(plain - wanted)
    drawn = synthesize(model, tmp_path / "drawn.parquet", tokens=20)
    weights = drawn.request(0).weights
    assert weights is not None
    assert (np.diff(weights, axis=2) <= 0).all()
    assert weights.sum(axis=2) == pytest.approx(1.0, abs=0.02)  # as recorded: the four weights sum to 1


@pytest.mark.parametrize("name", profile_names())
def test_stand_ins_draw_traces_of_their_models(name: str, tmp_path: Path):
    profile = load_profile(name)
    trace = synthesize(read_profile(name), tmp_path / "x.parquet", requests=1, tokens=3)
    assert trace.meta.model == profile.model
    assert trace.meta.layers == profile.layers
    assert all(row.get("source") and row.get("confidence") for row in profile.evidence)
    unfitted = profile.rests_on.startswith("no published figure") and not any(vars(profile.parameters).values())
    assert profile.base or unfitted or any("reached" in row for row in profile.evidence)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("model: x\nlayers: 0\nexperts: 4\ntop_k: 1\ntokens: 5\nparameters: {}\n", "'layers'"),
        ("model: x\nlayers: 1\nexperts: 4\ntop_k: 5\ntokens: 5\nparameters: {}\n", "'top_k'"),
        ("model: x\nlayers: 1\nexperts: 4\ntop_k: 1\ntokens: 5\nparameters: {stickiness: 2}\n", "stickiness"),
        ("model: x\nlayers: 1\nexperts: 4\ntop_k: 1\ntokens: 5\nparameters: {}\ncolour: red\n", "'colour'"),
        ("- 1\n", "a mapping"),
        ("a: [\n", "readable YAML"),
    ],
)
def test_profiles_that_cannot_be_are_refused_in_a_sentence(text: str, named: str, tmp_path: Path):
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(TraceError, match=named):
        load_profile(path)
    with pytest.raises(TraceError, match="no such profile"):
        load_profile("nobody")
