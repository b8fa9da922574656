"""Measured times beside simulated ones: units, alignment, errors, and what is on one side only."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments import results
from experiments.explain import ConfigError


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of requests 7 (three tokens, after a prefill) and 9 (two tokens); steps take 10, 20, … ms."""
    folder = tmp_path / "run"
    folder.mkdir()
    requests = {"request": [7, 9], "batch": [0, 1], "warmup": False, "context_tokens": [8, 22], "decode_tokens": [3, 2]}
    pd.DataFrame(requests).to_parquet(folder / "requests.parquet")
    phases = ["prefill", "decode", "decode", "decode", "decode", "decode"]
    times = [0.9, 0.01, 0.02, 0.03, 0.04, 0.05]
    steps = pd.DataFrame({"batch": [0, 0, 0, 0, 1, 1], "phase": phases, "latency_s": times})
    steps.to_parquet(folder / "steps.parquet")
    return folder


def write(run: Path, text: str) -> Path:
    path = run.parent / "measured.csv"
    path.write_text(text)
    return path


def test_tokens_are_aligned_by_request_and_number(run: Path) -> None:
    rows = results.align(run, write(run, "request,token,latency_ms\n9,1,40\n9,0,50\n7,2,30\n7,0,8\n7,5,1\n"))
    assert list(rows["request"]) == [7, 7, 7, 7, 9, 9]
    assert list(rows["token"]) == [0, 1, 2, 5, 0, 1]
    assert list(rows["simulated_s"].dropna()) == [0.01, 0.02, 0.03, 0.04, 0.05]
    assert list(rows["measured_s"].dropna()) == pytest.approx([0.008, 0.03, 0.001, 0.05, 0.04])
    assert list(rows["error"].dropna()) == pytest.approx([0.25, 0.0, -0.2, 0.25])


def test_agreement_is_over_tokens_that_both_sides_have(run: Path) -> None:
    rows = results.align(run, write(run, "request,token,latency_ms\n9,1,40\n9,0,50\n7,2,30\n7,0,8\n7,5,1\n"))
    said = results.agreement(rows)
    assert (said["tokens"], said["only_simulated"], said["only_measured"]) == (4, 1, 1)
    assert said["simulated_mean_s"] == pytest.approx((10 + 30 + 40 + 50) / 4 / 1000)
    assert said["measured_mean_s"] == pytest.approx((8 + 30 + 50 + 40) / 4 / 1000)
    assert (said["simulated_p50_s"], said["measured_p50_s"]) == pytest.approx((0.035, 0.035))
    assert said["mean_error"] == pytest.approx((0.25 + 0 - 0.2 + 0.25) / 4)
    assert said["mean_absolute_error"] == pytest.approx((0.25 + 0 + 0.2 + 0.25) / 4)
    assert said["absolute_error_p50"] == pytest.approx(0.225)
    # deviations: simulated -22.5, -2.5, 7.5, 17.5; measured -24, -2, 18, 8
    assert said["correlation"] == pytest.approx((540 + 5 + 135 + 140) / (875 * 968) ** 0.5)


@pytest.mark.parametrize(("column", "value"), [("latency_s", 0.01), ("time_ms", 10), ("latency_us", 10_000)])
def test_the_unit_is_in_the_name_of_the_column(run: Path, column: str, value: float) -> None:
    rows = results.align(run, write(run, f"# my log\nrequest,position,{column}\n7,0,{value}\n"))
    assert rows["measured_s"].iloc[0] == pytest.approx(0.01)


def test_a_run_of_one_request_needs_no_column_for_it(run: Path) -> None:
    path = write(run, "token,latency_s\n0,0.01\n")
    with pytest.raises(ConfigError, match="expected a column 'request', for the run served 2 requests"):
        results.align(run, path)
    requests = pd.read_parquet(run / "requests.parquet")
    requests.iloc[:1].to_parquet(run / "requests.parquet")
    assert results.align(run, path)["error"].iloc[0] == 0


def test_requests_of_a_batch_share_the_time_of_its_steps_and_warm_up_is_left_out(run: Path) -> None:
    requests = pd.read_parquet(run / "requests.parquet")
    requests["batch"], requests["decode_tokens"] = 0, [3, 2]
    requests.to_parquet(run / "requests.parquet")
    path = write(run, "request,token,latency_s\n7,1,0.02\n9,1,0.02\n")
    rows = results.align(run, path).dropna()
    assert list(rows["simulated_s"]) == [0.02, 0.02]
    requests.assign(warmup=[True, False]).to_parquet(run / "requests.parquet")
    said = results.agreement(results.align(run, path))
    assert (said["tokens"], said["only_simulated"], said["only_measured"], said["correlation"]) == (1, 1, 1, None)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("request,latency_s\n7,1\n", "expected one column 'token' or 'position'"),
        ("request,token,latency\n7,0,1\n", "such as 'latency_s'"),
        ("request,token,latency_s,time_ms\n7,0,1,1\n", "there are: request, token, latency_s, time_ms"),
        ("request,token,latency_s\n7,0,fast\n", "'latency_s' holds 'fast'; expected a time above 0"),
        ("request,token,latency_s\n7,0,-1\n", "'latency_s' holds '-1'; expected a time above 0"),
        ("request,token,latency_s\n7,0.5,1\n", "'token' holds '0.5'; expected a whole number from 0"),
        ("request,token,latency_s\n7,,1\n", "'token' holds 'nan'; expected a whole number from 0"),
        ("request,token,latency_s\n7,0,1\n7,0,2\n", "token 0 of request 7 is there twice"),
        ("request,token,latency_s\n8,0,1\n", "none of its tokens is one of the run"),
        ("request,token,latency_s\n", "at least one row"),
        ("", "cannot be read as CSV"),
        ("request,position,latency_s\n7,5,1\n7,6,1\n7,7,1\n", "decoded token of each request from 0"),
    ],
)
def test_a_file_that_cannot_be_aligned_is_refused(run: Path, text: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        results.align(run, write(run, text))


def test_folders_that_are_no_run_are_refused(run: Path) -> None:
    path = write(run, "request,token,latency_s\n7,0,1\n")
    with pytest.raises(ConfigError, match="there is no such folder"):
        results.align(run / "nothing", path)
    with pytest.raises(ConfigError, match="there is no such file"):
        results.align(run, run / "nothing.csv")
    (run / "sweep.json").write_text("{}")
    with pytest.raises(ConfigError, match="this is a sweep"):
        results.align(run, path)


# ---- the command


def test_the_command_prints_both_sides_and_what_was_left_out(call: Callable, run: Path) -> None:
    path = write(run, "request,token,latency_ms\n7,0,8\n7,1,20\n7,9,20\n")
    said = call("compare", str(run), str(path))
    assert (said.code, said.err) == (0, "")
    for words in ("tokens aligned: 2", "15.0 ms", "14.0 ms", "+7.1 %", "mean +12.5 %", "mean 12.5 % (MAPE)", "1.000"):
        assert words in said.out
    assert "left out, simulated but not measured: 3" in said.out
    assert "left out, measured but not simulated: 1" in said.out


def test_the_command_gives_json_and_rows(call: Callable, run: Path) -> None:
    path = write(run, "request,token,latency_ms\n7,0,8\n7,1,20\n")
    said = call("compare", str(run), str(path), "--json", "--rows", "rows.csv")
    figures = json.loads(said.out)
    assert figures["mean_error"] == pytest.approx(0.125)  # (10 / 8 - 1 + 0) / 2
    rows = pd.read_csv("rows.csv")
    assert list(rows.columns) == ["request", "token", "simulated_s", "measured_s", "error"]
    assert len(rows) == 5


def test_the_command_refuses_in_one_sentence(call: Callable, run: Path) -> None:
    path = str(write(run, "request,token,latency_ms\n7,0,8\n"))
    for arguments in ((str(run), "no.csv"), ("no", path), (str(run), path, "--rows", "x.txt")):
        said = call("compare", *arguments)
        assert (said.code, said.out, said.err.count("\n")) == (2, "", 1)
