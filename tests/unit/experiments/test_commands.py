"""What the commands print and write."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import KINDS
from experiments.compose import choices
from experiments.table import seconds

ROOT = Path(__file__).parents[3]
SHORT = ["experiment=smoke", "workload.max_decode_tokens=4"]
TABLES = {f"{name}.parquet" for name in ("steps", "requests", "layers", "experts", "devices", "links", "energy")}


def test_a_run_prints_its_figures_with_units_and_writes_its_folder(call: Callable, tmp_path: Path) -> None:
    said = call("run", *SHORT, "timeline=true")
    assert (said.code, said.err) == (0, "")  # no progress bar where there is no terminal
    for words in ("2 (0 prompt and 8 decoded tokens)", "ms mean", "not in trace", "PCIe", "clairvoyant", "GiB"):
        assert words in said.out
    folder = tmp_path / "runs" / "smoke"
    written = {"summary.json", "provenance.json", "config.yaml", "timeline.json"} | TABLES
    assert {path.name for path in folder.iterdir()} == written
    assert len(pd.read_parquet(folder / "steps.parquet")) == 8
    assert json.loads((folder / "provenance.json").read_text())["system"] == "on_demand_lru"
    events = json.loads((folder / "timeline.json").read_text())["traceEvents"]
    assert {event["ph"] for event in events} == {"M", "X", "s", "t", "f", "C"}


def test_the_summary_as_json_is_the_one_in_the_folder(call: Callable, tmp_path: Path) -> None:
    said = call("run", *SHORT, "--json")
    printed = json.loads(said.out)
    assert printed["summary"] == json.loads((tmp_path / "runs" / "smoke" / "summary.json").read_text())
    assert printed["summary"]["decode_tokens"] == 8  # 2 requests x 4 tokens


def test_quiet_says_nothing(call: Callable) -> None:
    assert call("run", *SHORT, "--quiet") == (0, "", "")


def test_a_reduced_top_k_is_remarked(call: Callable) -> None:
    said = call("run", "experiment=smoke", "model=qwen3_30b_a3b", "trace=qwen3_30b_a3b_phone", "platform=oneplus_15r")
    assert "6 of 8 experts" in said.out


def test_a_multirun_has_a_folder_for_each_run_beside_that_of_a_single_run(call: Callable, tmp_path: Path) -> None:
    assert call("run", *SHORT, "--quiet").code == 0
    said = call("run", "-m", *SHORT, "cache_gib=2,4", "policy/cache=lru,lfu", "--json")
    entries = json.loads(said.out)
    names = [f"cache_gib={gib},policy.cache={policy}" for gib in (2, 4) for policy in ("lru", "lfu")]
    assert [Path(entry["out"]).name for entry in entries] == names
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"smoke", "smoke_multirun"}


def test_overrides_may_stand_behind_a_switch(call: Callable) -> None:
    said = call("run", "experiment=smoke", "--json", "workload.max_decode_tokens=1")
    assert json.loads(said.out)["summary"]["decode_tokens"] == 2


# ---- replay


def test_replay_counts_every_access_once(call: Callable, tmp_path: Path) -> None:
    said = call("replay", "olmoe_1b_7b", "--budget-mib", "1200", "--json", "--rows", "rows.csv")
    counts = json.loads(said.out)
    assert counts["accesses"] == 299 * 16 * 8  # tokens x layers x top-8
    assert counts["hits"] + counts["misses"] == counts["accesses"]
    with (tmp_path / "rows.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "phase", "layer", "expert", "hit"]
    assert len(rows) == counts["accesses"]
    assert sum(row["hit"] == "1" for row in rows) == counts["hits"]


def test_replay_of_a_file_with_expert_sizes_needs_no_model(call: Callable) -> None:
    said = call("replay", "qwen3_30b_a3b_phone", "--policy", "s3fifo", "--budget-mib", "4000", "--scope", "layer")
    assert said.code == 0
    assert said.out.startswith("s3fifo on qwen3_30b_a3b_phone, 3.91 GiB, scope layer\nall      hit rate ")
    assert {line.split()[0] for line in said.out.splitlines()[1:]} == {"all", "prefill", "decode"}


def test_replay_writes_rows_as_parquet_too(call: Callable, tmp_path: Path) -> None:
    common = ["replay", "tiny_moe", "--requests", "4", "--budget-mib", "6"]
    for suffix in ("csv", "parquet"):
        assert call(*common, "--rows", f"rows.{suffix}").code == 0
    assert pd.read_csv("rows.csv").equals(pd.read_parquet("rows.parquet"))


def test_belady_has_the_most_hits(call: Callable) -> None:
    def hits(policy: str) -> int:
        said = call("replay", "tiny_moe", "--requests", "4", "--budget-mib", "6", "--policy", policy, "--json")
        return json.loads(said.out)["hits"]

    assert hits("belady") >= max(hits(name) for name in choices()["policy/cache"])


# ---- list and show


@pytest.mark.parametrize("kind", KINDS)
def test_a_list_has_one_described_line_for_each_choice(call: Callable, kind: str) -> None:
    entries = json.loads(call("list", kind, "--json").out)
    lines = call("list", kind).out.splitlines()
    if kind == "models":  # a table with a head: columns in place of the description
        assert lines.pop(0).split() == [
            "total",
            "active",
            "stored",
            "MoE",
            "layers",
            "experts",
            "top-k",
            "one",
            "expert",
        ]
    assert len(lines) == len(entries)
    for entry, line in zip(entries, lines, strict=True):
        assert entry["description"]
        assert line.startswith(entry["name"]) or kind == "policies"
        assert entry["name"] in line
        assert entry["description"] in line or kind == "models"


def test_everything_listed_can_be_shown(call: Callable) -> None:
    for group, names in choices().items():
        for name in names[:: 1 if len(names) < 10 else 3]:
            said = call("show", f"{group}/{name}")
            assert said.code == 0
            assert said.out.startswith(f"{group} {name}\n")
            assert len(said.out.splitlines()) >= 3


def test_a_model_is_shown_by_its_parts_and_a_platform_with_its_sources(call: Callable) -> None:
    assert "routed experts  19,116,933,120" in call("show", "model/gpt_oss_20b").out
    said = call("show", "rtx_3060").out
    assert "31.5" in said
    assert "source of pcie0" in said


def test_every_group_of_choices_can_be_listed(call: Callable) -> None:
    listed = {entry["name"] for kind in KINDS for entry in json.loads(call("list", kind, "--json").out)}
    assert {name for names in choices().values() for name in names} <= listed


def test_a_datasheet_is_shown_with_its_source_and_with_what_was_measured(call: Callable) -> None:
    said = call("show", "h100_sxm").out
    assert said.startswith("datasheet h100_sxm\n")
    assert ["memory", "reads", "3350", "GB/s"] in [line.split() for line in said.splitlines()]
    assert "source: H100 SXM5" in said
    assert "gemm" in said.partition("kernels measured on it:")[2]
    both = call("show", "rtx_4090").out
    assert both.startswith("platform rtx_4090\n")
    assert "kernels measured on it: none" in both.partition("datasheet rtx_4090\n")[2]


def test_a_name_of_several_things_shows_them_all(call: Callable) -> None:
    said = call("show", "gpt_oss_20b").out
    assert "model gpt_oss_20b\n" in said
    assert "trace gpt_oss_20b\n" in said


def test_a_trace_of_ones_own_can_be_shown(call: Callable, tmp_path: Path) -> None:
    from traces import data_path

    (tmp_path / "mine.parquet").write_bytes(data_path("olmoe_1b_7b.parquet").read_bytes())
    assert "299 routed tokens" in call("show", "./mine.parquet").out


def test_help_fits_a_screen(call: Callable, capsys: pytest.CaptureFixture) -> None:
    from experiments.cli import parser

    text = parser().format_help().splitlines()
    assert len(text) <= 24
    assert max(map(len, text)) <= 100


@pytest.mark.parametrize(
    ("value_s", "text"),
    [(1.234, "1.23 s"), (0.0195, "19.5 ms"), (0.016, "16.0 ms"), (4e-6, "4.00 us"), (125.0, "125 s")],
)
def test_durations_have_three_digits_and_a_unit(value_s: float, text: str) -> None:
    assert seconds(value_s) == text


# ---- completion


def test_the_shell_completes_keys_and_the_choices_of_a_group() -> None:
    def completed(line: str) -> list[str]:
        environment = {
            **os.environ,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": "out",
        }
        environment |= {"COMP_LINE": line, "COMP_POINT": str(len(line)), "_ARGCOMPLETE_COMP_WORDBREAKS": " \t\n"}
        with tempfile.TemporaryDirectory() as folder:
            program = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from experiments.cli import main; main()"
            subprocess.run([sys.executable, "-c", program], cwd=folder, env=environment, check=True)
            return (Path(folder) / "out").read_text().split("\n")

    assert completed("moesim sw") == ["sweep "]
    assert completed("moesim run policy/cache=l") == [
        f"policy/cache={name}" for name in choices()["policy/cache"] if name[0] == "l"
    ]
    assert completed("moesim sweep policy/cache=fifo,bel") == ["policy/cache=fifo,belady "]
    assert "cache_gib=" in completed("moesim sweep cache_g")


# ---- kernels


def test_predicted_kernel_times_are_added_to_the_rows(call: Callable, tmp_path: Path) -> None:
    from hwmodels.calibrate import MEASUREMENTS

    for table, columns in (
        ("moe", ["predicted_ms"]),
        ("attention_context", ["predicted_ms"]),
        ("deepep_low_latency", ["predicted_dispatch_us", "predicted_combine_us"]),
    ):
        frame = pd.read_parquet(MEASUREMENTS / f"{table}.parquet").iloc[::50]
        frame.to_parquet("rows.parquet")
        said = call("ops", "predict", "rows.parquet", "--out", "answered.csv")
        assert said == (0, f"{len(frame):,} of {len(frame):,} rows predicted, written to answered.csv\n", "")
        answered = pd.read_csv("answered.csv")
        assert list(answered.columns[: len(frame.columns)]) == list(frame.columns)
        for column in columns:
            assert (answered[column] > 0).all()


def test_rows_that_cannot_be_predicted_are_counted_and_tables_that_cannot_be_read_refused(call: Callable) -> None:
    frame = pd.DataFrame({"system": ["h100_sxm", "abacus"], "framework": "VLLM", "gemm_dtype": "bfloat16"})
    frame.assign(kernel_source="x", m=16, n=4096, k=4096).to_csv("rows.csv", index=False)
    said = call("ops", "predict", "rows.csv", "--out", "answered.parquet")
    assert said.out.startswith("1 of 2 rows predicted, written to answered.parquet\n  1 without: there is no datasheet")
    for arguments, words in (
        (["nothing.csv", "--out", "x.csv"], "there is no such file"),
        (["rows.csv", "--out", "x.txt"], "expected a file ending in .parquet or .csv"),
        (["rows.csv", "--out", "x.csv", "--table", "moe"], "column 'version' is missing; table 'moe' needs"),
    ):
        said = call("ops", "predict", *arguments)
        assert said.code == 2
        assert words in said.err
    said = call("calibrate", "gem", "--out", "x")
    assert (said.code, said.err) == (2, "gem: there is no such kernel model; did you mean 'gemm'?\n")
