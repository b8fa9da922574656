"""Sweeps: composed as Hydra would, durable point by point, the same bytes however they are run."""

from __future__ import annotations

import errno
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from itertools import product
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from experiments.compose import axes, choices, compose_config
from experiments.run import plain, run_config
from experiments.sweep import sweep
from experiments.sweep.identity import point_id
from experiments.sweep.journal import FOLDER, Journal, entries
from experiments.sweep.points import points
from experiments.sweep.runner import Task, run_tasks
from experiments.sweep.sweep import POINTS, REQUESTS

SHORT = ["experiment=smoke", "workload.requests=1", "workload.max_decode_tokens=2", "reference=false"]
TABLES = (POINTS, REQUESTS)


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in TABLES]


# ---- composing

SWEPT = {
    "policy/cache": "lru,lfu,random",
    "policy/prediction": "none,transition,popularity",
    "policy.prediction.count": "2,4",
    "platform": "rtx_3060,rtx_4090",
    "++platform.devices.gpu0.tdp_w": "100,200",
    "system": "on_demand_lfu,transition_prefetch,cpu_in_place",
    "experiment": "smoke,demo",
    "cache_gib": "2,3.5,null",
    "workload.max_decode_tokens": "range(1,4)",
    "settings.io_threads": "1,2",
    "name": "a,b",
    "model": "gpt_oss_20b,gpt_oss_120b",
    "+policy.execution.extra": "1,2",
    "platform.links.0.latency_s": "1e-6,2e-6",
    "workload": "{requests:1}",
}


@pytest.mark.parametrize(
    "keys",
    [
        ("policy/cache", "policy/prediction", "cache_gib"),
        ("system", "policy/cache"),  # a system sets policies; the command line wins
        ("experiment", "cache_gib"),
        ("platform", "++platform.devices.gpu0.tdp_w", "system"),
        ("policy.prediction.count", "policy/prediction", "workload.max_decode_tokens", "settings.io_threads"),
        ("model", "name"),
        ("+policy.execution.extra", "name"),
        ("platform.links.0.latency_s",),
        ("workload",),
    ],
)
def test_a_point_has_the_configuration_that_hydra_composes(keys: tuple[str, ...]) -> None:
    overrides = [f"{key}={SWEPT[key]}" for key in keys]
    listed = points(overrides)
    assert [point.overrides for point in listed] == list(product(*axes(overrides).values()))
    for point in random.Random(1).sample(listed, min(3, len(listed))):
        assert point.config == plain(compose_config(point.overrides)), point.overrides


def test_no_shipped_choice_of_a_plain_group_is_composed_in_every_combination() -> None:
    listed = points([f"policy/cache={','.join(choices()['policy/cache'])}", "cache_gib=range(1,101)"])
    assert len(listed) == 100 * len(choices()["policy/cache"])
    assert listed[-1].config["cache_gib"] == 100.0
    assert listed[-1].choices["policy/cache"] == choices()["policy/cache"][-1]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("cache_gip=1,2", "unknown key 'cache_gip' in 'cache_gip=1,2'; did you mean 'cache_gib'?"),
        ("policy/cache=lru,lur", "policy/cache=lur: there is no such choice; did you mean 'lru'?"),
        ("workload.requests=1,two", "workload.requests=two: expected a whole number."),
        ("hydra.sweep.dir=x", "hydra.sweep.dir=x: of Hydra's own settings only the launcher's are taken"),
    ],
)
def test_a_bad_override_is_refused_before_anything_runs(call: Callable, override: str, sentence: str) -> None:
    said = call("sweep", *SHORT, override)
    assert said.code == 2
    assert said.err.startswith(sentence)
    assert not Path("runs").exists()


# ---- identity


def test_labels_do_not_change_what_a_point_is_but_anything_else_does(tmp_path: Path) -> None:
    def identity(*overrides: str) -> str:
        return point_id(plain(compose_config([*SHORT, *overrides])))

    assert identity() == identity("name=other") == identity("out=/tmp/x")
    assert len({identity(), identity("seed=1"), identity("cache_gib=2"), identity("policy/cache=lfu")}) == 4


def test_editing_a_policy_of_ones_own_makes_other_points(tmp_path: Path) -> None:
    program = (
        "import sys; sys.path.insert(0, '.')\n"
        "from experiments.compose import compose_config; from experiments.run import plain\n"
        "from experiments.sweep.identity import point_id\n"
        "print(point_id(plain(compose_config(['policy/cache=own.yaml']))))"
    )
    (tmp_path / "own.yaml").write_text("_target_: own.Own\n")
    found = []
    for comment in ("# one\n", "# other\n"):
        (tmp_path / "own.py").write_text(
            f"from simulator.policies.cache.lru import Lru\nclass Own(Lru): pass\n{comment}"
        )
        found.append(subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True))
    assert [result.stderr for result in found] == ["", ""]
    assert len({result.stdout for result in found}) == 2


def test_a_policy_edited_in_a_living_process_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "edited.yaml").write_text("_target_: edited.Edited\n")
    hits = []
    for base in ("lru", "lfu", "random_eviction"):
        kind = {"lru": "Lru", "lfu": "Lfu", "random_eviction": "RandomEviction"}[base]
        source = f"from simulator.policies.cache.{base} import {kind}\nclass Edited({kind}): pass\n"
        (tmp_path / "edited.py").write_text(source)
        common = [*SHORT[:2], "workload.max_decode_tokens=16", "cache_gib=2"]
        report = sweep([*common, "policy/cache=./edited.yaml"], tmp_path / "x", workers=0)
        alone = run_config(compose_config([*common, f"policy/cache={base.split('_')[0]}"]))
        assert (report.reused, report.points["hit_rate"][0]) == (0, alone.summary["hit_rate"]), base
        hits.append(alone.summary["hit_rate"])
    assert len(set(hits)) == 3


# ---- the journal


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_journal_cut_anywhere_gives_the_whole_entries_before_the_cut(data: st.DataObject) -> None:
    import tempfile

    wanted = [{"id": str(number), "metrics": {"x": number / 3, "text": "a\nb €"}} for number in range(4)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        sizes = []
        with Journal(folder) as journal:
            for entry in wanted:
                journal.append(entry)
                sizes.append(os.path.getsize(journal.name))
        file = Path(journal.name)
        cut = data.draw(st.integers(0, sizes[-1]))
        file.write_bytes(file.read_bytes()[:cut])
        # a line whose newline alone is missing was written whole
        assert list(entries(folder)) == [e for e, size in zip(wanted, sizes, strict=True) if size - 1 <= cut]


def test_a_damaged_line_is_passed_over(tmp_path: Path) -> None:
    with Journal(tmp_path) as journal:
        journal.append({"id": "a"})
        journal.append({"id": "b"})
    file = Path(journal.name)
    file.write_bytes(file.read_bytes().replace(b'"a"', b'"c"'))
    assert list(entries(tmp_path)) == [{"id": "b"}]


# ---- running

LISTED = [*SHORT, "policy/cache=lru,lfu,random", "cache_gib=1,2", "seed=0,1"]


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep run in this process, point after point."""
    folder = tmp_path_factory.mktemp("sweep") / "in_process"
    report = sweep(LISTED, folder, workers=0)
    assert (report.total, len(report.points), report.reused, report.failures) == (12, 12, 0, {})
    return folder


def test_the_tables_hold_what_single_runs_give(reference: Path) -> None:
    table, requests = pd.read_parquet(reference / POINTS), pd.read_parquet(reference / REQUESTS)
    row = table.iloc[5]
    assert (row["policy.cache"], row["cache_gib"], row["seed"], row["workload.requests"]) == ("lfu", 1.0, 1, 1)
    result = run_config(compose_config([*SHORT, "policy/cache=lfu", "cache_gib=1", "seed=1"]))
    for name, value in result.summary.items():
        if name != "attribution" and value is not None:
            assert row[name] == value, name
    assert row["pcie_share"] == result.summary["attribution"]["pcie"]
    own = requests[requests["point"] == row["point"]]
    assert own["latency_s"].tolist() == result.requests["latency_s"].tolist()
    assert own["hits"].sum() / own["accesses"].sum() == row["hit_rate"]


def test_a_pool_of_processes_gives_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    sweep(LISTED, tmp_path / "pool", workers=2)
    assert tables(tmp_path / "pool") == tables(reference)


def test_points_in_any_order_give_the_same_bytes(reference: Path, tmp_path: Path) -> None:
    tasks = [Task(point_id(point.config), point.config) for point in points(LISTED)]
    random.Random(3).shuffle(tasks)
    run_tasks(tasks, tmp_path / "s", workers=0)
    report = sweep(LISTED, tmp_path / "t", workers=0)
    (tmp_path / "s" / "sweep.json").write_bytes((tmp_path / "t" / "sweep.json").read_bytes())
    again = sweep(LISTED, tmp_path / "s", workers=0)
    assert (report.reused, again.reused) == (0, 12)
    assert tables(tmp_path / "s") == tables(tmp_path / "t") == tables(reference)


@pytest.mark.parametrize("launcher", ["basic", "joblib"])
def test_hydras_launchers_carry_batches_and_give_the_same_bytes(
    reference: Path, tmp_path: Path, launcher: str, call: Callable
) -> None:
    if launcher == "joblib":
        pytest.importorskip("hydra_plugins.hydra_joblib_launcher")
    said = call("sweep", *LISTED, f"hydra/launcher={launcher}", "--batches", "3", "--out", "x", "-q")
    assert said == (0, "", "")
    assert tables(tmp_path / "x") == tables(reference)
    assert len(list((tmp_path / "x" / FOLDER).iterdir())) == 3
    assert not (tmp_path / "x" / "batches").exists()


def test_a_launcher_that_is_not_there_is_named(call: Callable) -> None:
    said = call("sweep", *LISTED, "hydra/launcher=nosuch")
    assert (said.code, said.err) == (2, "hydra/launcher=nosuch: this launcher is not installed.\n")


def test_a_wider_sweep_runs_only_what_is_new(tmp_path: Path) -> None:
    narrow = sweep([*SHORT, "cache_gib=1,2"], tmp_path / "x", workers=0)
    wide = sweep([*SHORT, "cache_gib=2,3,1"], tmp_path / "x", workers=0)
    assert (narrow.reused, wide.reused) == (0, 2)
    assert wide.points["cache_gib"].tolist() == [2.0, 3.0, 1.0]
    assert wide.points["point"].tolist() == [0, 1, 2]


def test_points_with_one_configuration_run_once_and_are_all_in_the_table(tmp_path: Path) -> None:
    report = sweep([*SHORT, "name=a,b"], tmp_path / "x", workers=0)
    assert report.points["name"].tolist() == ["a", "b"]
    assert report.points["point_id"].nunique() == 1
    assert len(list(entries(tmp_path / "x"))) == 1


# ---- failures


def test_failures_go_to_a_table_and_the_rest_runs_on(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "odd.py").write_text(
        "from simulator.policies.cache.lru import Lru\n"
        "class Odd(Lru):\n"
        "    def victims(self, need_bytes, incoming, view):\n"
        "        return 1 / 0\n"
    )
    (tmp_path / "odd.yaml").write_text("_target_: odd.Odd\n")
    said = call("sweep", *SHORT, "policy/cache=./odd.yaml,lru", "cache_gib=0.001,1", "--json", "--out", "x")
    assert (said.code, said.err) == (1, "")
    printed = json.loads(said.out)
    assert (printed["points"], printed["finished"]) == (4, 1)
    failures = pd.read_csv(tmp_path / "x" / "failures.csv")
    assert failures["point"].tolist() == [0, 1, 2]
    assert failures["error"][1] == "odd.py:4 in victims: ZeroDivisionError: division by zero."
    assert failures["error"][0] == failures["error"][2]
    assert "expected at least one expert of 13236480 bytes" in failures["error"][0]
    assert failures["overrides"][0].endswith("policy/cache='./odd.yaml' cache_gib=0.001")
    assert pd.read_parquet(tmp_path / "x" / POINTS)["point"].tolist() == [3]
    again = call("sweep", *SHORT, "policy/cache=./odd.yaml,lru", "cache_gib=0.001,1", "--json", "--out", "x")
    assert json.loads(again.out)["reused"] == 1


def test_a_full_disk_ends_in_one_sentence_and_the_sweep_resumes(
    call: Callable, tmp_path: Path, reference: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, room = os.write, 5000

    def write(file: int, data: bytes) -> int:
        nonlocal room
        if room <= 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        room -= len(data)
        return real(file, data if room >= 0 else data[:room])  # the last write is cut short

    monkeypatch.setattr("experiments.sweep.journal.os.write", write)
    said = call("sweep", *LISTED, "--workers", "0", "--out", "x")
    assert said.code == 2
    assert said.err == (
        "x: no space left on device; the finished points are kept, and the same command goes on from there.\n"
    )
    kept = len(list(entries(tmp_path / "x")))
    assert 0 < kept < 12
    monkeypatch.setattr("experiments.sweep.journal.os.write", real)
    assert json.loads(call("sweep", *LISTED, "--workers", "0", "--out", "x", "--json").out)["reused"] == kept
    assert tables(tmp_path / "x") == tables(reference)


def test_a_folder_with_other_things_is_not_touched(call: Callable, tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "thesis.tex").write_text("years of work")
    said = call("sweep", *SHORT, "--out", "x")
    assert (said.code, said.err) == (
        2,
        "out=x: the folder holds 'thesis.tex', which is no part of a run; choose another.\n",
    )
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["thesis.tex"]


def test_a_dry_run_writes_nothing_and_its_configuration_is_that_of_the_run(call: Callable, tmp_path: Path) -> None:
    import yaml

    said = call("sweep", *SHORT, "cache_gib=1,2", "--dry-run")
    assert said.code == 0
    assert yaml.safe_load(said.out) == {
        key: value for key, value in points([*SHORT, "cache_gib=1,2"])[0].config.items() if key != "out"
    }
    assert "# simulated memory of gpu0: dense weights 3.35 GiB" in said.out
    assert "# this machine: 2 runs of 4 tokens in all; about " in said.out
    assert list(tmp_path.iterdir()) == []


def test_glob_takes_every_choice_and_unordered_or_odd_lists_are_refused(call: Callable) -> None:
    listed = points([*SHORT, "policy/cache=glob(l*)"])
    assert [point.choices["policy/cache"] for point in listed] == [
        name for name in choices()["policy/cache"] if name.startswith("l")
    ]
    for override, words in (
        ("policy/cache=glob(x*)", "there is no such choice"),
        ("policy/cache=[lru,lfu]", "no brackets"),
        ("cache_gib=shuffle(1,2,3)", "leave out shuffle"),
        ("cache_gib=interval(1,2)", "only a search takes intervals"),
        ("name=/tmp/elsewhere", "text that can name a folder"),
    ):
        said = call("sweep", *SHORT, override, "--workers", "0")
        assert (said.code, said.out) == (2, "") or (said.code == 1 and words in said.out), override
        assert words in said.err + said.out


def test_an_interrupt_keeps_the_tables_of_what_is_finished(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    from experiments import results
    from experiments.sweep import runner

    real = runner.run_config
    left = 5

    def run(config: dict) -> object:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return real(config)

    monkeypatch.setattr(runner, "run_config", run)
    said = call("sweep", *LISTED, "--workers", "0", "--out", "x")
    assert said.code == 130
    assert said.err == "interrupted; the finished points are kept, and the same command goes on from there.\n"
    assert results.load("x")["point"].tolist() == [0, 1, 2, 3, 4]
