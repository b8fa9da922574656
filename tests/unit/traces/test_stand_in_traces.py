"""Stand-ins as traces by name: same bytes, whole or absent; weights, probabilities and guesses agree."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from experiments.catalogue import load
from experiments.cli import main
from experiments.compose import choices, compose_config
from experiments.run import plain, run_config, trace_of, trace_path, trace_recipe
from simulator.model import ModelSpec
from simulator.scenario import check_fit
from traces import Trace, TraceError, open_trace
from traces.synthesis import read_profile, sharpness
from traces.synthesis.gate import GateProfile
from traces.synthesis.generate import generate_all
from traces.synthesis.recipe import CACHE, Recipe

RECALL = [[0.0] + [0.8] * 31, [0.5] * 32]
MADE = (
    "import sys; from traces.synthesis.recipe import Recipe; Recipe('mixtral_8x7b', requests=int(sys.argv[1])).path()"
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(CACHE, str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture(scope="module")
def trace(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    path = tmp_path_factory.mktemp("drawn") / "x.parquet"
    recipe = Recipe("mixtral_8x7b", 12, 64, 64, probabilities=True, guesses={"recall": RECALL})
    recipe.write(recipe.content(), path)
    return open_trace(path, verify=True)


def start(folder: Path, requests: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, CACHE: str(folder)}
    return subprocess.Popen([sys.executable, "-c", MADE, str(requests)], env=environment)


def test_processes_at_once_and_another_one_alone_make_the_same_bytes(tmp_path: Path):
    together = [start(tmp_path / "shared", 2) for _ in range(2)]
    assert [process.wait() for process in together] == [0, 0]
    (made,) = (tmp_path / "shared" / "traces").iterdir()
    alone = Recipe("mixtral_8x7b", requests=2).path()
    assert (alone.name, alone.read_bytes()) == (made.name, made.read_bytes())


def test_a_killed_generation_leaves_nothing_that_is_taken_for_a_trace(cache: Path):
    recipe = Recipe("mixtral_8x7b", requests=30)
    process = start(cache, 30)
    while process.poll() is None and not list((cache / "traces").glob(".*.partial")):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list((cache / "traces").glob("*.parquet"))
    path = recipe.path()
    whole = path.read_bytes()
    path.write_bytes(whole[:1000])  # as a loss of power may leave it
    assert recipe.path().read_bytes() == whole


def test_what_was_drawn_is_not_drawn_again_and_any_change_makes_another_file():
    recipe = Recipe("mixtral_8x7b", 1, 2, 2)
    stamp = recipe.path().stat().st_mtime_ns
    assert recipe.path().stat().st_mtime_ns == stamp
    others = [Recipe("mixtral_8x7b", 1, 2, 2, seed=1), Recipe("mixtral_8x7b", 1, 2, 2, probabilities=True)]
    others.append(Recipe("switch_base_32", 1, 2, 2))
    assert len({recipe.path(), *(other.path() for other in others)}) == 4


def test_phases_tasks_and_counts_are_those_asked_for(trace: Trace):
    assert {(info.prefill_tokens, info.decode_tokens, info.first_position) for info in trace.requests} == {(64, 64, 0)}
    assert len(trace) == 12
    assert len({info.task for info in trace.requests}) > 1


def test_experts_are_the_most_probable_and_weights_are_their_renormalised_probabilities(trace: Trace):
    for request in trace:
        assert request.probabilities is not None
        chosen = np.take_along_axis(request.probabilities, request.experts.astype(np.int64), axis=2)
        others = request.probabilities.copy()
        np.put_along_axis(others, request.experts.astype(np.int64), -1.0, axis=2)
        assert (chosen[..., 0] >= chosen[..., 1]).all()
        assert (chosen[..., 1] >= others.max(axis=2)).all()
        assert request.probabilities.sum(axis=2) == pytest.approx(1.0, abs=1e-3)
        assert request.weights == pytest.approx(chosen / chosen.sum(axis=2, keepdims=True), abs=1e-6)


def test_guesses_have_the_stated_recall_and_else_name_the_next_best(trace: Trace):
    hits, total = np.zeros((2, 32)), 0
    for request in trace:
        assert request.guesses is not None
        assert request.probabilities is not None
        total += request.tokens * 2
        for distance in range(2):
            guessed, truth = request.guesses[:, : 31 - distance, distance], request.experts[:, 1 + distance :]
            hits[distance, 1 + distance :] += (guessed[..., None] == truth[:, :, None]).any(axis=2).sum(axis=(0, 2))
        ranked = np.argsort(-request.probabilities[:, 1:], axis=2, kind="stable")
        rank = (ranked[..., None, :] == request.guesses[:, :-1, 0][..., None]).argmax(axis=-1)
        assert rank.max() <= 3  # of two choices, or in place of them the third and fourth
    found = hits / total
    assert found[0, 1:] == pytest.approx(0.8, abs=5 * np.sqrt(0.16 / total))
    assert found[1, 2:] == pytest.approx(0.5, abs=5 * np.sqrt(0.25 / total))


def test_second_weights_split_as_another_publication_found_that_was_not_fitted(trace: Trace):
    second = np.concatenate([request.weights[..., 1].ravel() for request in trace if request.weights is not None])
    low, skipped = ((second < 0.4) & (second >= 0.1)).mean() / 2, (second < 0.1).mean() / 2
    assert 0.24 <= low <= 0.36  # HOBBIT: 67, 30 and 3 % of all choices, and as much tolerance as its thresholds leave
    assert 0.01 <= skipped <= 0.06


def test_of_equal_rates_the_ratio_of_two_weights_has_its_closed_form():
    # times of a race among n equals: A2 / A1 exceeds r with probability 1 / (1 + (r - 1) (n - 1) / n)
    experts = np.stack([np.random.default_rng(1).permutation(4)[:2] for _ in range(20000)])[:, None]
    gate = GateProfile(np.array([0.7]))
    weights = gate.weights(gate.probabilities(experts, np.full((1, 4), 0.5), np.random.default_rng(2)), experts)
    ratio = (weights[:, 0, 0] / weights[:, 0, 1]) ** (1 / 0.7)
    for limit in (1.5, 3.0, 10.0):
        assert (ratio > limit).mean() == pytest.approx(1 / (1 + (limit - 1) * 0.75), abs=0.02)


@pytest.mark.parametrize("figure", ["second_weight_below", "weight_top_share"])
def test_the_fit_of_sharpness_finds_the_one_that_made_the_figure(figure: str):
    model = read_profile("mixtral_8x7b")
    assert model.gate is not None
    requests = generate_all(model, np.full(8, 256), np.arange(8), np.random.default_rng(0))
    row = {"statistic": figure, "threshold": 0.2}
    reached = sharpness.gate_statistic(row, model, requests, 0)
    row |= {"by_layer": reached.tolist()} if figure == "second_weight_below" else {"value": reached.mean()}
    found = sharpness.fit_sharpness(row, model, requests, 0)
    if len(found) == 1:
        assert min(model.gate.sharpness) < found[0] < max(model.gate.sharpness)
    else:
        assert found == pytest.approx(model.gate.sharpness, rel=0.25)


def test_a_model_without_figures_says_whose_it_borrows():
    model = read_profile("switch_base_64")
    assert (model.num_experts, model.top_k, len(model.layers)) == (64, 1, 12)
    assert "no evidence of its own" in model.origin
    assert "switch_base_32" in model.origin


MODELS = {
    "qwen3_6_35b_a3b": "qwen3_5_35b_a3b",
    "readme_6": "readme_17b",
}  # where the model of a trace's shape has another name
DRAWN = [name for name in choices()["trace"] if trace_recipe(load("trace", name)) is not None]


@pytest.mark.parametrize("name", DRAWN)
def test_every_synthetic_trace_fits_the_model_of_its_name_and_says_what_it_rests_on(name: str):
    node = {**plain(load("trace", name)), "requests": 1, "prompt_tokens": 2, "decode_tokens": 2}
    drawn, model = trace_of({"trace": node}), MODELS.get(name, name)
    (remark,) = check_fit(ModelSpec.from_mapping(load("model", model), model), drawn)
    assert remark.startswith("synthetic trace: ")
    assert "evidence" in remark or "figure" in remark or "recording" in remark
    assert drawn.request(0).weights is not None
    assert drawn.meta.top_k == drawn.meta.native_top_k


SHORT = ["trace=mixtral_8x7b", "model=mixtral_8x7b", "platform=a100_host", "trace.requests=1", "reference=false"]


def test_a_run_remarks_on_the_evidence_and_its_provenance_has_the_digest():
    config = compose_config([*SHORT, "trace.prompt_tokens=4", "trace.decode_tokens=2"])
    result = run_config(config)
    (told,) = (remark for remark in result.provenance["remarks"] if remark.startswith("synthetic trace"))
    assert "published figures of this model (profile mixtral_8x7b)" in told
    assert result.provenance["trace"]["digest"] == open_trace(trace_path(config.trace), verify=True).meta.digest
    assert result.summary["decode_tokens"] == 2


def test_a_profile_of_ones_own_lies_beside_its_trace(tmp_path: Path):
    profile = "model: M\nlayers: 2\nexperts: 4\ntop_k: 1\ntokens: 8\nparameters: {}\n"
    (tmp_path / "mine.yaml").write_text(profile + "gate: {rule: softmax, sharpness: 1}\n")
    (tmp_path / "drawn.yaml").write_text("name: drawn\nprofile: mine.yaml\nrequests: 2\ndecode_tokens: 3\n")
    made = trace_of(compose_config([f"trace={tmp_path / 'drawn.yaml'}"]))
    assert (made.meta.model, len(made), made.meta.has_weights) == ("M", 2, True)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("trace.profile=nobody", "nobody: there is no such profile"),
        ("trace.path=gpt_oss_20b.parquet", "it has path and profile"),
        ("trace.profile=null", "neither path nor profile"),
        ("trace.requests=0", "requests is 0"),
        ("trace.prompt_tokens=-1", "prompt_tokens is -1"),
        ("trace.guesses={recall:[2]}", "guesses.recall must be a list"),
        ("trace.guesses={recall:[[0.5,0.5]]}", "a list of 32"),
        ("trace.guesses=yes", "guesses must be a mapping"),
    ],
)
def test_a_trace_that_cannot_be_made_ends_in_a_sentence(override: str, said: str, capsys: pytest.CaptureFixture[str]):
    assert main(["run", "--quiet", *[item for item in SHORT if "requests" not in item], override]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_a_cache_folder_that_cannot_be_ends_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv(CACHE, str(tmp_path / "file"))
    with pytest.raises(TraceError, match="MOESIM_CACHE names another folder"):
        Recipe("mixtral_8x7b", requests=1).path()


def test_a_trace_of_a_run_goes_through_its_steps_once(cache: Path):
    config = plain(compose_config(["trace=readme_6", "trace.requests=2", "model=readme_17b"]))
    trace = trace_of(config)
    assert trace.meta.layers == tuple(range(32))
    experts = trace.request(0).experts
    assert (experts == experts[:, :1]).all()
    before = sorted(cache.rglob("*.parquet"))
    assert trace_path(config["trace"]) in before
    assert len(before) == 2  # as drawn, and after its steps
    other = plain(compose_config(["trace=readme_6", "trace.requests=2", "trace.steps=[repeat_layer 3]"]))
    assert trace_of(other).meta.layers == (0, 1, 2)
    assert len(sorted(cache.rglob("*.parquet"))) == 3


def test_a_step_that_cannot_be_done_is_refused_in_a_sentence(cache: Path):
    config = plain(compose_config(["trace=readme_6", "trace.requests=2", "trace.steps=[top_k 2]"]))
    with pytest.raises(TraceError, match="top_k: k must be from 1 to the trace's top-k 1, not 2"):
        trace_of(config)
    assert len(list(cache.rglob("*.parquet"))) == 1


def test_the_router_of_readme_keeps_its_expert_as_often_as_was_published():
    trace = trace_of(plain(compose_config(["trace=readme_6", "trace.requests=32"])))
    rows = [request.experts[:, 0, 0] for request in trace]
    kept = np.mean([row[1:] == row[:-1] for row in rows])
    assert abs(kept - 2921 / 4096) < 0.02  # three sigma of 8160 draws
    assert np.bincount(np.concatenate(rows), minlength=6).min() > 0.12 * 32 * 256
