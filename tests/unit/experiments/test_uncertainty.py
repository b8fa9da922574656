"""Runs on drawn machines, what they say of a difference, and which constants an answer rests on."""

import json

import numpy as np
import pandas as pd
import pytest

from experiments import results
from experiments.cli import main
from experiments.compose import compose_config
from experiments.dependence import by_origin, dependence
from experiments.explain import ConfigError
from experiments.run import plain, run_config

RUN = ["cache_gib=4", "workload.requests=2", "workload.max_decode_tokens=12", "reference=false"]


@pytest.fixture(scope="module")
def drawn():
    return run_config(compose_config([*RUN, "uncertainty=calibration", "uncertainty.draws=6"]))


def test_draws_do_not_change_the_run_itself(drawn):
    alone = run_config(compose_config(RUN)).summary
    assert {key: drawn.summary[key] for key in alone} == alone


def test_the_interval_holds_the_run_and_is_that_of_its_draws(drawn):
    times = [row["tpot_mean_s"] for row in drawn.draws]
    assert len(set(times)) == 6
    summary = drawn.summary
    assert summary["tpot_mean_s_p5"] == np.percentile(times, 5)
    assert min(times) < summary["tpot_mean_s"] < max(times)
    assert summary["ttft_mean_s_p5"] is None  # the trace has no prompts


def test_the_same_seed_gives_the_same_draws_and_another_others(drawn):
    config = compose_config([*RUN, "uncertainty=calibration", "uncertainty.draws=2"])
    again = run_config(config)
    assert again.draws == drawn.draws[:2]
    config.uncertainty.seed = 1
    assert run_config(config).draws != again.draws


def test_a_constant_that_slows_both_alike_cancels_in_a_difference(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    overrides = [*RUN, "policy/cache=lru,lfu", "uncertainty=calibration", "uncertainty.draws=6"]
    assert main(["sweep", *overrides, "--out", "x", "--workers", "0", "-q"]) == 0
    table = results.compare_calibrated("x", "policy.cache", "lru")
    base, other = table.to_dict("records")
    assert (base["ratio_low"], base["ratio_high"], base["significant"]) == (1.0, 1.0, False)
    assert other["difference_low"] <= other["difference"] <= other["difference_high"]
    width = other["ratio_high"] - other["ratio_low"]
    assert width < 0.5 * (other["high"] - other["low"]) / other["value"]
    frame = results.draws("x")
    assert len(frame) == 12
    assert set(results.load("x")) >= {"tpot_mean_s_p5", "tokens_per_s_p95"}


def test_a_sweep_prints_the_interval_of_each_point(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    overrides = [*RUN, "policy/cache=lru,lfu", "uncertainty=calibration", "uncertainty.draws=3"]
    assert main(["sweep", *overrides, "--out", "x", "--workers", "0"]) == 0
    said = capsys.readouterr().out
    for row in results.load("x").to_dict("records"):
        low, mean, high = (row[f"tpot_mean_s{suffix}"] for suffix in ("_p5", "", "_p95"))
        assert f"{mean:.4g} ({low:.4g} to {high:.4g})" in said
    assert "percentile of the drawn constants" in said


def test_points_without_draws_are_refused():
    points = pd.DataFrame({"point": [0, 1], "policy.cache": ["lru", "lfu"], "tpot_mean_s": [1.0, 2.0]})
    draws = pd.DataFrame({"point": [0, 0], "draw": [0, 1], "tpot_mean_s": [1.0, 1.1]})
    with pytest.raises(ConfigError, match="point 1 has no draws of it; run it with uncertainty=calibration"):
        results.compare_calibrated((points, draws), "policy.cache", "lru")


def test_a_difference_counts_only_where_no_draw_turns_it():
    points = pd.DataFrame({"point": [0, 1, 2], "policy.cache": ["a", "b", "c"], "tpot_mean_s": [1.0, 1.2, 1.1]})
    times = {0: [1.0, 1.5, 2.0], 1: [1.2, 1.7, 2.1], 2: [1.1, 1.4, 2.2]}
    draws = pd.DataFrame(
        [{"point": p, "draw": d, "tpot_mean_s": t} for p, values in times.items() for d, t in enumerate(values)]
    )
    table = results.compare_calibrated((points, draws), "policy.cache", "a").set_index("policy.cache")
    assert table["significant"].to_dict() == {"a": False, "b": True, "c": False}


# ---- explain


def test_elasticities_of_a_run_that_only_loads_add_up():
    """A run is a sum of times: of kernels, copies (latency + bytes / rate), launches, elementwise operations."""
    rows = dependence(plain(compose_config(RUN)), requests=1).set_index("constant")["elasticity"]
    kernels = rows[rows.index.str.contains("kernel_scale")].sum()
    times = rows[rows.index.str.endswith(("latency_s", "launch_overhead_s"))].sum()
    links = rows[rows.index.str.startswith("pcie0") & rows.index.str.contains("bandwidth")].sum()
    elementwise = rows[rows.index.str.contains("memory_efficiency.elementwise|memory_efficiency.embedding")].sum()
    assert kernels + times - links - elementwise == pytest.approx(1.0, abs=0.03)
    assert rows["pcie0.bandwidth_bytes_per_s"] == pytest.approx(rows["pcie0.efficiency"], abs=1e-6)
    assert rows["nvme.bandwidth_bytes_per_s"] == 0.0


def test_shares_by_origin_add_up(tmp_path, capsys):
    assert main(["run", *RUN, f"out={tmp_path}/r", "-q"]) == 0
    assert main(["explain", f"{tmp_path}/r", "--json", "--requests", "1"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert sum(part["share"] for part in said["origins"].values()) == pytest.approx(1.0)
    elasticities = [abs(row["elasticity"]) for row in said["constants"]]
    assert elasticities == sorted(elasticities, reverse=True)
    rows = pd.DataFrame(said["constants"])
    for origin, what in by_origin(rows).items():
        assert what == pytest.approx(said["origins"][origin])
    assert main(["explain", f"{tmp_path}/r", "--requests", "1"]) == 0
    assert "of the dependence; uncertain by" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["nowhere"], "expected the folder of a run"),
        (["{run}", "--metric", "speed"], "metric speed: expected one of tpot_mean_s"),
        (["{run}", "--metric", "ttft_mean_s"], "this run does not define it"),
        (["{run}", "--requests", "0"], "--requests is 0; expected at least 1"),
    ],
)
def test_what_cannot_be_explained_is_said_in_one_sentence(tmp_path, capsys, arguments, says):
    assert main(["run", *RUN, f"out={tmp_path}/r", "-q"]) == 0
    assert main(["explain", *(part.replace("{run}", f"{tmp_path}/r") for part in arguments)]) == 2
    assert says in capsys.readouterr().err
