"""Capacity: the front is what no point beats, limits hold by hand, what does not fit is named, and it resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.capacity import GIB, Capacity, Limits, capacity, judged, layouts
from experiments.compose import compose_config
from experiments.explain import ConfigError
from experiments.run import run_config, scenario_from_config

TINY = ["platform=two_rtx_3090", "model=tiny_moe", "trace=tiny_moe"]
TINY += ["workload.requests=6", "workload.max_decode_tokens=6"]
BATCHES = "policy.scheduling.max_batch=2,8"
WRITTEN = ("capacity.csv", "pareto.png", "pareto.pdf")


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Capacity:
    return capacity([*TINY, BATCHES], Limits(), tmp_path_factory.mktemp("capacity") / "x", workers=0)


def test_layouts_are_those_that_divide_gpus_heads_and_experts() -> None:
    model = scenario_from_config(compose_config(["model=mixtral_8x7b", "trace=mixtral_8x7b"])).model
    found = layouts(4, model)
    assert [(one.gpus, one.tp, one.moe_tp) for one in found] == [
        *((1, 1, 1), (2, 1, 2), (2, 1, 1), (2, 2, 2), (2, 2, 1)),
        *((4, 1, 4), (4, 1, 1), (4, 2, 4), (4, 2, 1), (4, 4, 4), (4, 4, 1)),
    ]
    assert all(one.tp * one.attention_dp == one.moe_tp * one.moe_ep for one in found)
    assert [(one.moe_tp, one.moe_ep) for one in layouts(3, model)] == [(1, 1)]  # 8 experts, 14336 wide, 32 heads
    assert max(one.tp for one in layouts(64, model)) == 32


def test_no_point_beats_one_of_the_front_and_every_other_is_beaten(done: Capacity) -> None:
    rows = done.table[["tokens_per_s_per_gpu", "tpot_p99_s", "on_front"]].to_dict("records")
    assert len(rows) == 10  # five layouts of two GPUs, two batches
    for row in rows:
        beaten = any(
            (other["tokens_per_s_per_gpu"], -other["tpot_p99_s"]) != (row["tokens_per_s_per_gpu"], -row["tpot_p99_s"])
            and other["tokens_per_s_per_gpu"] >= row["tokens_per_s_per_gpu"]
            and other["tpot_p99_s"] <= row["tpot_p99_s"]
            for other in rows
        )
        assert row["on_front"] is not beaten
    assert done.best["tokens_per_s_per_gpu"].tolist() == [done.table["tokens_per_s_per_gpu"].max()]


def test_a_point_is_the_run_of_its_overrides_shared_among_its_gpus(done: Capacity) -> None:
    row = done.table[(done.table["tp"] == 2) & (done.table["moe_ep"] == 2) & (done.table["max_batch"] == 2)].iloc[0]
    layout = ["layout.gpus=2", "layout.tp=2", "layout.attention_dp=1", "layout.moe_tp=1", "layout.moe_ep=2"]
    ours = ["policy/scheduling=continuous", "policy/placement=popular", "policy.scheduling.max_batch=2"]
    result = run_config(compose_config([*TINY, *layout, *ours, "reference=false"]))
    summary = result.summary
    assert row["tokens_per_s_per_gpu"] == summary["tokens_per_s"] / 2
    assert row["requests_per_s_per_gpu"] == summary["requests_per_s"] / 2
    assert row["tpot_p99_s"] == pytest.approx(summary["tpot_p99_s"])
    assert (row["ttft_p99_s"], row["memory_peak_bytes"]) == (summary["ttft_p99_s"], summary["memory_peak_bytes"])


def test_limits_filter_by_hand() -> None:
    table = pd.DataFrame(
        {
            "tokens_per_s_per_gpu": [10.0, 20.0, 30.0, 40.0, np.nan],
            "ttft_p50_s": [0.1, 0.2, 0.3, 0.4, np.nan],
            "tpot_p50_s": [0.04, 0.03, 0.05, 0.06, np.nan],
            "memory_peak_bytes": [GIB, GIB, GIB, 3.0 * GIB, np.nan],
            "infeasible": ["", "", "", "", "too large."],
        }
    )
    free = judged(table, Limits(percentile=50))
    assert free["on_front"].tolist() == [False, True, True, True, False]
    assert free["best"].tolist() == [False, False, False, True, False]
    held = judged(table, Limits(slo_ttft_s=0.3, slo_tpot_s=0.04, memory_gib=2, percentile=50))
    assert held["slo_met"].tolist() == [True, True, False, False, False]  # TPOT is too long, memory is
    assert held["on_front"].tolist() == [False, True, True, False, False]
    assert held["best"].tolist() == [False, True, False, False, False]
    assert held["infeasible"][3] == "its fullest GPU holds 3.00 GiB; the budget is 2 GiB."
    assert not judged(table, Limits(slo_tpot_s=0.01, percentile=50))["best"].any()
    with pytest.raises(ConfigError, match="no point has a TTFT"):
        judged(table.assign(ttft_p50_s=np.nan), Limits(slo_ttft_s=1, percentile=50))


def test_it_resumes_with_the_same_bytes_and_answers_for_another_limit_without_a_run(
    done: Capacity, call: Callable
) -> None:
    before = {name: (done.folder / name).read_bytes() for name in WRITTEN}
    again = capacity([*TINY, BATCHES], Limits(), done.folder, workers=0)
    assert again.reused == 10
    assert {name: (done.folder / name).read_bytes() for name in WRITTEN} == before
    arguments = ["--slo-tpot-s", "1e-9", "--percentile", "90", "--workers", "0", "--out", str(done.folder), "--json"]
    fast = json.loads(call("capacity", *TINY, BATCHES, *arguments).out)
    assert (fast["reused"], fast["best"], fast["infeasible"]) == (10, [], [])
    assert fast["front"]
    assert "tpot_p90_s" in fast["front"][0]


def test_what_does_not_fit_is_named_and_no_failure(call: Callable, tmp_path: Path) -> None:
    """A workspace that leaves 2 MB: 2.15 MB of weights outside experts and KV cache need two GPUs that share them."""
    room = ["workload.requests=1", "workload.max_decode_tokens=2", f"settings.workspace_bytes={24 * GIB - 2_000_000}"]
    said = call("capacity", *TINY[:3], *room, "policy.scheduling.max_batch=2", "--workers", "0", "--memory-gib", "24")
    assert said.code == 0
    assert "5 points; 3 infeasible" in said.out
    assert "point 0 (TP 1 x DP 1, experts TP 1 x EP 1, batch 2): request 0 needs" in said.out
    assert "Best under 24 GiB a GPU: point" in said.out
    table = pd.read_csv(tmp_path / "runs" / "capacity" / "run" / "capacity.csv", keep_default_na=False)
    assert table["tp"][table["infeasible"] != ""].tolist() == [1, 1, 1]
    assert table["tp"][table["best"]].tolist() == [2]


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (["layout.tp=2"], "layout.tp: capacity chooses the layout itself; leave it out."),
        (["cache_gib=1,2"], "cache_gib has 2 values; expected one"),
        (["--percentile", "95"], "--percentile is 95; expected one of 50, 90, 99."),
        (["--slo-tpot-s", "0"], "--slo-tpot-s is 0; expected more than 0."),
        (["settings.workspace_bytes=99999999999"], "no layout runs; the first is refused with: "),
    ],
)
def test_what_cannot_be_asked_is_said_in_a_sentence(
    added: list[str], said: str, call: Callable, tmp_path: Path
) -> None:
    got = call("capacity", *TINY, *added, "--out", str(tmp_path / "x"), "--workers", "0")
    assert got.code == 2
    assert said in got.err
    assert got.err.count("\n") == 1
