"""Sweeps, search, multirun and compare in the hands of somebody hurried, clumsy or malicious."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from experiments import results
from experiments.explain import ConfigError
from experiments.sweep import sweep
from experiments.sweep.sweep import MARK
from traces import data_path, open_trace
from traces.writer import TraceWriter

SHORT = ["experiment=smoke", "workload.requests=1", "workload.max_decode_tokens=4", "reference=false", "cache_gib=1"]
IMPORTS = "from simulator.policies.cache.lru import Lru\n"


def own_policy(folder: Path, name: str, body: str) -> str:
    """A cache policy whose `victims` has this body; the path of its YAML."""
    folder.mkdir(exist_ok=True)
    source = f"class P(Lru):\n    def victims(self, need_bytes, incoming, view):\n        {body}\n"
    (folder / f"{name}.py").write_text(IMPORTS + source)
    (folder / f"{name}.yaml").write_text(f"_target_: {name}.P\n")
    return f"{folder}/{name}.yaml"


# ---- policies of one's own


@pytest.mark.parametrize("workers", [0, 1])
def test_a_policy_that_exits_fails_its_points_and_the_others_run_on(tmp_path: Path, workers: int) -> None:
    leaves = own_policy(tmp_path / "p", f"leaves_{workers}", "raise SystemExit(0)")
    report = sweep([*SHORT, f"policy/cache={leaves},lru"], tmp_path / "x", workers=workers)
    assert report.failures == {0: f"leaves_{workers}.py:4 in victims: SystemExit: 0."}
    assert report.points["policy.cache"].tolist() == ["lru"]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("raise type('Odd', (Exception,), {'__str__': lambda self: 1 / 0})", "strange_0.py:4 in victims: Odd."),
        (r"raise ValueError('\ud800 odd')", "strange_1.py:4 in victims: ? odd."),
        ("raise BaseException('odd')", "strange_2.py:4 in victims: BaseException: odd."),
    ],
    ids=["0", "1", "2"],
)
def test_whatever_a_policy_raises_is_a_sentence_in_the_table(
    tmp_path: Path, request: pytest.FixtureRequest, body: str, said: str
) -> None:
    strange = own_policy(tmp_path / "p", f"strange_{request.node.callspec.id}", body)
    sweep([*SHORT, f"policy/cache={strange},lru"], tmp_path / "x", workers=0)
    assert pd.read_csv(tmp_path / "x" / "failures.csv")["error"].tolist() == [said]


def test_a_policy_that_exits_does_not_end_a_run_as_if_all_were_well(call: Callable, tmp_path: Path) -> None:
    leaves = own_policy(tmp_path / "p", "leaves_run", "raise SystemExit(0)")
    for switches in ([], ["-m"], ["--dry-run"]):
        said = call("run", *SHORT, f"policy/cache={leaves}", *switches)
        assert said.code == 2
        assert said.err.endswith("a policy left the program (exit code 0); it must return instead.\n")


def test_two_policies_of_one_module_name_are_not_mixed_up(call: Callable, tmp_path: Path) -> None:
    one = own_policy(tmp_path / "a", "namesake", "return []")
    other = own_policy(tmp_path / "b", "namesake", "return super().victims(need_bytes, incoming, view)")
    said = call("sweep", *SHORT, f"policy/cache={one},{other}")
    assert (said.code, said.err) == (
        2,
        f"namesake.P: its class is in {tmp_path}/b/namesake.py, but {tmp_path}/a/namesake.py comes"
        " before it; rename one of them.\n",
    )


# ---- traces


def edited(source: Path, target: Path) -> None:
    """Other experts in a trace, its metadata (and the digest there) left as they are."""
    file = pq.ParquetFile(source)
    metadata = {k.decode(): v.decode() for k, v in file.metadata.metadata.items() if k != b"ARROW:schema"}
    with pq.ParquetWriter(target, file.schema_arrow) as writer:
        for number in range(file.num_row_groups):
            table = file.read_row_group(number)
            place = table.schema.get_field_index("experts")
            kind = table.schema.field(place).type
            rows = np.arange(len(table))[:, None] * kind.list_size + np.arange(kind.list_size)
            flat = pa.array((rows % 32).astype("int16").reshape(-1))
            experts = pa.FixedSizeListArray.from_arrays(flat, type=kind)
            writer.write_table(table.set_column(place, table.schema.field(place), experts), row_group_size=len(table))
        writer.add_key_value_metadata(metadata)


def test_a_trace_edited_under_its_old_digest_is_run_again(tmp_path: Path) -> None:
    mine = tmp_path / "mine.parquet"
    shutil.copy(data_path("gpt_oss_20b.parquet"), mine)
    before = sweep([*SHORT, "cache_gib=4", f"trace={mine}"], tmp_path / "x", workers=0)
    edited(data_path("gpt_oss_20b.parquet"), mine)
    after = sweep([*SHORT, "cache_gib=4", f"trace={mine}"], tmp_path / "x", workers=0)
    assert after.reused == 0
    assert before.points["point_id"][0] != after.points["point_id"][0]
    assert before.points["hit_rate"][0] != after.points["hit_rate"][0]


def test_traces_of_one_name_in_two_folders_keep_their_own_digests(tmp_path: Path) -> None:
    whole = open_trace(data_path("gpt_oss_20b.parquet"))
    paths = [tmp_path / folder / "t.parquet" for folder in ("a", "b")]
    for path, number in zip(paths, (0, 1), strict=True):
        path.parent.mkdir()
        with TraceWriter(path, whole.meta) as writer:
            writer.write(whole.request(number))
    sweep([*SHORT, f"trace={paths[0]},{paths[1]}"], tmp_path / "x", workers=0)
    assert results.load(tmp_path / "x")["trace_digest"].tolist() == [open_trace(path).meta.digest for path in paths]


# ---- the folder


def test_what_a_killed_process_left_half_written_does_not_lock_the_folder(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / ".sweep.a1b2c3d_.json").write_text("{")  # killed before the mark was there
    assert len(sweep(SHORT, tmp_path / "x", workers=0).points) == 1
    (tmp_path / "x" / ".points.a1b2c3d_.parquet").write_text("PAR")  # or in the midst of a table
    assert sweep(SHORT, tmp_path / "x", workers=0).reused == 1
    (tmp_path / "x" / ".thesis.tex").write_text("years of work")
    with pytest.raises(ConfigError, match=r"holds '\.thesis\.tex', which is no part of a run"):
        sweep(SHORT, tmp_path / "x", workers=0)


def test_tables_of_another_sweep_do_not_stay_when_nothing_finishes(tmp_path: Path) -> None:
    sweep(SHORT, tmp_path / "x", workers=0)
    report = sweep([*SHORT, "cache_gib=0.0001"], tmp_path / "x", workers=0)
    assert list(report.failures) == [0]
    assert sorted(path.name for path in (tmp_path / "x").iterdir()) == ["failures.csv", "journal", MARK]


def test_tables_of_another_sweep_do_not_stay_when_this_one_is_interrupted(tmp_path: Path) -> None:
    def stop(progress: object) -> None:
        raise KeyboardInterrupt

    sweep([*SHORT, "seed=0"], tmp_path / "x", workers=0)
    with pytest.raises(KeyboardInterrupt):
        sweep([*SHORT, "seed=1"], tmp_path / "x", workers=0, report=stop)
    assert not (tmp_path / "x" / "points.parquet").exists()
    assert sweep([*SHORT, "seed=0"], tmp_path / "x", workers=0).reused == 1


@pytest.mark.parametrize("name", ["''", "..", "a/../.."])
def test_a_sweep_whose_name_is_no_folder_is_refused(call: Callable, tmp_path: Path, name: str) -> None:
    said = call("sweep", *SHORT, f"name={name}")
    assert (said.code, list(tmp_path.iterdir())) == (2, [])
    assert said.err.endswith("expected text that can name a folder.\n")


def test_points_of_one_configuration_are_not_counted_as_from_before(tmp_path: Path) -> None:
    report = sweep([*SHORT, "name=a,b"], tmp_path / "x", workers=0)
    assert (report.total, len(report.points), report.reused) == (2, 2, 0)


# ---- odd values


@pytest.mark.parametrize(
    ("values", "column", "shown"),
    [
        (
            "platform.devices.gpu0.memory_read_bytes_per_s='720 GB/s',360e9",
            "platform.devices.gpu0.memory_read_bytes_per_s",
            ["720 GB/s", "360000000000.0"],
        ),
        ("seed=99999999999999999999,1", "seed", ["99999999999999999999", "1"]),
    ],
)
def test_values_that_share_no_type_are_told_as_text(tmp_path: Path, values: str, column: str, shown: list[str]) -> None:
    sweep([*SHORT, values], tmp_path / "x", workers=0)
    assert results.load(tmp_path / "x")[column].tolist() == shown


def test_a_deleted_key_is_no_column(tmp_path: Path) -> None:
    table = sweep([*SHORT, "~platform.devices.gpu0.tdp_w", "seed=0,1"], tmp_path / "x", workers=0).points
    assert len(table) == 2
    assert not [column for column in table if "tdp_w" in column]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("seed=range(5,1)", "seed=range(5,1): this range holds no value."),
        ("seed=range(1,5,0)", "seed=range(1,5,0): this range holds no value."),
        ("seed=range(0,1000000000)", "seed=range(0,1000000000): this range holds more than 1,000,000 values."),
    ],
)
def test_a_range_of_none_or_of_too_many_is_refused_at_once(call: Callable, override: str, sentence: str) -> None:
    for command in (("sweep",), ("run", "-m")):
        assert call(*command, *SHORT, override) == (2, "", f"{sentence}\n")


def test_too_many_combinations_are_refused(call: Callable) -> None:
    said = call("sweep", *SHORT, "seed=range(0,2000)", "settings.io_threads=range(1,1001)")  # 2000 x 1000
    assert said == (2, "", "the listed values make 2,000,000 points; expected at most 1,000,000.\n")


def test_the_command_line_narrows_what_an_experiment_sweeps_in_a_multirun(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "workload: {requests: 1, max_decode_tokens: 2}\nreference: false\nname: mine\n"
        "hydra: {sweeper: {params: {cache_gib: '1,2', seed: '0,1'}}}\n"
    )
    assert call("run", "-m", "experiment=./mine.yaml", "++cache_gib=3", "-q") == (0, "", "")
    folders = [path.name for path in (tmp_path / "runs" / "mine_multirun").iterdir() if path.is_dir()]
    assert sorted(folders) == ["seed=0", "seed=1"]


# ---- search


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("cache_gib=interval(0,inf)",), "cache_gib spans 0 to inf; expected finite ends."),
        (("cache_gib=range(5.0,1.0)",), "cache_gib=range(5.0,1.0): this range holds no value."),
        (("cache_gib=interval(1,4)", "--workers", "-1"), "workers is -1; expected 0 (no other process) or more."),
    ],
)
def test_a_search_that_cannot_be_is_refused(call: Callable, arguments: tuple[str, ...], sentence: str) -> None:
    pytest.importorskip("optuna")
    said = call("search", *SHORT[:-1], *arguments, "--minimize", "tpot_mean_s", "--trials", "2")
    assert said == (2, "", f"{sentence}\n")


def test_the_best_of_an_earlier_search_does_not_stay_where_all_fails(call: Callable, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    common = ["--minimize", "tpot_mean_s", "--trials", "2", "--workers", "0", "--out", "x", "-q"]
    assert call("search", *SHORT[:-1], "cache_gib=interval(1,2)", *common).code == 0
    assert (tmp_path / "x" / "best.csv").exists()
    call("search", *SHORT[:-1], "cache_gib=interval(-2,-1)", *common)
    assert not (tmp_path / "x" / "best.csv").exists()


# ---- compare


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("token,latency_ms\n0,1,5\n1,1,6\n", "its rows hold more values than its header; decimals take a point"),
        ("token,latency_ms,latency_ms\n0,10,99\n", "column 'latency_ms' is there twice."),
        ("token,token,latency_ms\n0,1,10\n", "column 'token' is there twice."),
    ],
)
def test_a_csv_whose_columns_are_not_what_they_seem_is_refused(
    call: Callable, tmp_path: Path, content: str, said: str
) -> None:
    assert call("run", *SHORT, "name=c", "-q").code == 0
    (tmp_path / "m.csv").write_text(content)
    answer = call("compare", "runs/c", "m.csv")
    assert (answer.code, answer.err.startswith(f"m.csv: {said}")) == (2, True), answer.err


def test_a_run_folder_without_a_column_is_refused(call: Callable, tmp_path: Path) -> None:
    assert call("run", *SHORT, "name=c", "-q").code == 0
    file = tmp_path / "runs" / "c" / "requests.parquet"
    pd.read_parquet(file).drop(columns="warmup").to_parquet(file)
    (tmp_path / "m.csv").write_text("token,latency_ms\n0,10\n")
    answer = call("compare", "runs/c", "m.csv")
    assert (answer.code, answer.err.startswith("'warmup': there is no such column")) == (2, True)
