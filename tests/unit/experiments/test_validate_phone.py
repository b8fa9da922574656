"""The phone: constants are found again in made-up runs, drawn routes miss as told, the page is what the data give."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli import main
from experiments.explain import ConfigError
from experiments.validation import make_phone
from experiments.validation.phone import calibrated_platform, validate
from experiments.validation.phone_fit import Constants, calibrate, fit_compute, least_squares, simulated
from experiments.validation.phone_report import page
from experiments.validation.phone_routes import WARM_UP, miss_rate, write_routes
from experiments.validation.phone_runs import DATA, recorded_runs
from traces import data_path, open_trace

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def runs():
    return {run.name: run for run in recorded_runs()[0]}


@pytest.fixture(scope="module")
def validation():
    return validate()


def test_recorded_parts_sum_to_the_wall_time(runs):
    for run in runs.values():
        tokens = run.tokens
        parts_s = tokens["compute_s"] + tokens["stall_s"] + tokens["management_s"]
        assert np.abs(tokens["wall_s"] - parts_s).max() <= 2e-6  # each is rounded to 1 us


def made_up(run, constants, interrupted=()):
    """The run as the simulator with these constants would have recorded it; some tokens compute five times as long."""
    tokens = simulated(run.config(run.trace), constants.cpu).tokens
    extra_s = tokens["compute_s"] * 4 * tokens["token"].isin(interrupted)
    tokens["compute_s"] += extra_s
    tokens["wall_s"] += extra_s
    return replace(run, tokens=tokens)


def test_the_fit_finds_the_constants_of_a_made_up_run(runs):
    true = Constants("arithmetic", 0.05, 3e-5, 2e-10, 0.25)
    run = made_up(runs["qwen"], true, interrupted=range(10, 18))  # 8 of 128 tokens, 4 times their compute on top
    found = calibrate(run, "arithmetic")
    assert found.compute == pytest.approx(true.compute, rel=2e-3)
    assert found.cache_lookup_s == pytest.approx(true.cache_lookup_s, rel=2e-3)
    assert found.cache_evict_s_per_byte == pytest.approx(true.cache_evict_s_per_byte, rel=2e-3)
    assert found.interruptions == pytest.approx(8 * 4 / 128, rel=5e-3)


@pytest.mark.parametrize(("structure", "true"), [("bandwidth", 0.3), ("operations", 8e-5)])
def test_the_fit_finds_the_other_structures_too(runs, structure, true):
    run = made_up(runs["gemma"], Constants(structure, true, 0.0, 0.0, 0.0))
    assert fit_compute(run, structure) == pytest.approx(true, rel=2e-3)


def test_a_compute_time_that_no_constant_gives_is_refused(runs):
    fast = runs["qwen"].tokens.assign(compute_s=1e-6)
    with pytest.raises(ConfigError, match=r"run qwen: compute_s of 0\.0 ms per token is met by no operations"):
        fit_compute(replace(runs["qwen"], tokens=fast), "operations")


def test_management_is_split_by_what_varies():
    """48 look-ups of 10 us and 0.2 ns for each byte: 0.48 ms + 0, 20 and 40 ms."""
    lookups, evicted_bytes = np.full(3, 48.0), np.array([0.0, 1e8, 2e8])
    found = least_squares(lookups, evicted_bytes, np.array([0.48e-3, 20.48e-3, 40.48e-3]))
    assert found == pytest.approx((10e-6, 2e-10))


@pytest.mark.parametrize("name", ["qwen", "gemma"])
def test_the_miss_rate_from_hit_rates_is_that_of_the_recorded_misses(runs, name):
    run = runs[name]
    like = open_trace(data_path(f"{run.trace}.parquet"))
    lookups = len(run.tokens) * len(like.meta.layers) * run.top_k
    assert miss_rate(run, like) == pytest.approx(run.tokens["misses"].sum() / lookups, rel=2e-3)


def test_drawn_routes_miss_exactly_what_they_replace(runs, tmp_path):
    run = runs["qwen_top_8"]
    like = open_trace(data_path("qwen3_30b_a3b_phone.parquet"))
    path = tmp_path / "drawn.parquet"
    trace = write_routes(path, like.meta, 8, 60, 30, 0.2)
    config = run.config("qwen3_30b_a3b_phone")
    config["trace"] = {"name": "drawn", "path": str(path)}
    experts = trace.request(0).experts
    assert experts.shape == (WARM_UP + 60, 48, 8)
    replaced = [
        sum(len(set(now) - set(before)) for now, before in zip(experts[t], experts[t - 1], strict=True))
        for t in range(WARM_UP, WARM_UP + 60)
    ]
    tokens = simulated(config, {}, WARM_UP).tokens
    assert tokens["misses"].tolist() == replaced
    assert np.mean(replaced) == pytest.approx(0.2 * 8 * 48, rel=0.05)


def test_misses_are_the_devices_in_every_token(validation):
    routed = [compared for compared in validation.comparisons if compared.routed]
    assert [(compared.run.name, compared.same_misses) for compared in routed] == [("qwen", 128), ("gemma", 128)]


def test_the_training_run_is_met_in_what_was_fitted(validation):
    training = validation.comparisons[0]
    assert training.run is validation.training
    assert abs(training.error("compute_s")) < 1e-3
    assert abs(training.error("management_s")) < 5e-3


def test_predictions_of_unseen_runs_are_better_than_the_preset_that_was_not_fitted(validation):
    others = [compared for compared in validation.comparisons if compared.run is not validation.training]
    assert len(others) == 6
    assert all(abs(compared.error("compute_s")) < 0.05 for compared in others)
    gemma = next(compared for compared in others if compared.routed)
    unfitted = validation.uncalibrated["gemma"][0] / gemma.measured_s("wall_s") - 1
    assert abs(gemma.error()) < abs(unfitted) / 2


def test_the_page_and_the_preset_are_what_the_shipped_data_give(validation):
    assert (ROOT / "docs" / "validation" / "phone.md").read_text(encoding="utf-8") == page(validation)
    preset = ROOT / "experiments" / "conf" / "platform" / "oneplus_15r_calibrated.yaml"
    assert preset.read_text(encoding="utf-8") == calibrated_platform(validation.constants)


def test_the_command_writes_its_files_and_leaves_others_alone(validation, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("experiments.validation.phone.validate", lambda: validation)
    out = tmp_path / "phone"
    for _ in range(2):
        assert main(["validate", "phone", "--out", str(out)]) == 0
    names = ["oneplus_15r_calibrated.yaml", "phone.md", "phone.pdf", "phone.png", "phone_tokens.csv"]
    assert sorted(path.name for path in out.iterdir()) == names
    tokens = pd.read_csv(out / "phone_tokens.csv")
    assert len(tokens) == 2 * 128 + 5 * 256
    assert tokens.loc[tokens["run"] == "gemma", "simulated_wall_s"].notna().all()
    assert "gemma" in capsys.readouterr().out
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["validate", "phone", "--out", str(tmp_path)]) == 2
    assert "'mine.txt'" in capsys.readouterr().err


@pytest.mark.skipif("MOESIM_EXTRA_DATA" not in os.environ, reason="needs MOESIM_EXTRA_DATA")
def test_the_shipped_tokens_are_made_from_their_sources(tmp_path):
    make_phone.main([os.environ["MOESIM_EXTRA_DATA"], "--out", str(tmp_path / "tokens.parquet")])
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "tokens.parquet"), pd.read_parquet(DATA / "tokens.parquet")
    )


@pytest.mark.skipif("MOESIM_EXTRA_DATA" not in os.environ, reason="needs MOESIM_EXTRA_DATA")
@pytest.mark.parametrize("name", ["qwen", "gemma"])
def test_stored_sizes_add_up_to_what_the_routes_heads_say(runs, name):
    from experiments.run import scenario_from_config
    from traces.data.make import find
    from traces.importers.phone_route_csv import read_route_header

    run = runs[name]
    parts = scenario_from_config(run.config(run.trace)).model.parts()
    header = read_route_header(find(Path(os.environ["MOESIM_EXTRA_DATA"]), f"{name}.route.csv"))
    stored = sum(parts[part][1] for part in ("attention", "router", "dense_ffn"))
    norms_bytes = 4 * parts["norms"][0]  # in 32 bits, where the simulator counts 16
    assert stored + norms_bytes == pytest.approx(sum(header.dense_bytes), rel=1e-3)
