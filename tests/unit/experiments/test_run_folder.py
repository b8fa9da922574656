"""Run folders: the same run gives the same bytes, and nothing else is replaced."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.compose import compose_config
from experiments.run import TABLES, replaced, run_config, write_result

OVERRIDES = ["experiment=smoke", "workload.max_decode_tokens=4", "timeline=true", "policy/cache=random"]


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def test_the_same_run_gives_the_same_bytes_wherever_it_is_written(tmp_path: Path) -> None:
    for name in ("a", "b"):
        cfg = compose_config([*OVERRIDES, f"out={tmp_path / name}"])
        write_result(run_config(cfg), cfg, tmp_path / name)
    assert digests(tmp_path / "a") == digests(tmp_path / "b")
    assert len(digests(tmp_path / "a")) == 4 + len(TABLES)


def test_the_same_run_gives_the_same_bytes_in_two_processes_with_different_hash_seeds(tmp_path: Path) -> None:
    for seed in ("1", "2"):
        command = [sys.executable, "-m", "experiments.cli", "run", *OVERRIDES, "policy/prediction=recall", "-q"]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([*command, f"out={tmp_path / seed}"], env=environment, check=True, cwd=tmp_path)
    assert digests(tmp_path / "1") == digests(tmp_path / "2")


def test_a_rerun_replaces_the_old_folder_whole(call: Callable, tmp_path: Path) -> None:
    short = ["experiment=smoke", "workload.max_decode_tokens=2", "reference=false", "-q"]
    assert call("run", *short, "timeline=true").code == 0
    assert call("run", *short).code == 0
    assert not (tmp_path / "runs" / "smoke" / "timeline.json").exists()


def test_a_written_configuration_runs_again_to_the_same_hash(call: Callable, tmp_path: Path) -> None:
    cfg = compose_config(OVERRIDES)
    write_result(run_config(cfg), cfg, tmp_path / "a")
    written = OmegaConf.load(tmp_path / "a" / "config.yaml")
    assert "out" not in written
    assert written.workload.max_decode_tokens == 4


def test_a_failure_while_writing_keeps_the_old_folder(tmp_path: Path) -> None:
    cfg = compose_config(["experiment=smoke", "workload.max_decode_tokens=2", "reference=false"])
    write_result(run_config(cfg), cfg, tmp_path / "a")
    before = digests(tmp_path / "a")

    def fail_half_way() -> None:
        with replaced(tmp_path / "a") as temporary:
            (temporary / "summary.json").write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail_half_way()
    assert digests(tmp_path / "a") == before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
