"""A sweep that is killed at any instant loses no finished point and repeats none."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from experiments.sweep import sweep
from experiments.sweep.journal import entries
from experiments.sweep.sweep import POINTS, REQUESTS

MANY = ["experiment=smoke", "workload.requests=1", "workload.max_decode_tokens=8"]
MANY += ["policy/cache=lru,lfu,s3fifo", "cache_gib=1,2", "workload.first_request=range(0,20)"]  # 120 points


def processes_in(folder: Path) -> int:
    """Python processes that work in `folder`."""
    count = 0
    for place in Path("/proc").glob("[0-9]*"):
        try:
            if Path(os.readlink(place / "cwd")) == folder and "python" in os.readlink(place / "exe"):
                count += 1
        except OSError:
            continue  # gone, or not ours
    return count


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="counts processes in /proc")
def test_a_sweep_killed_at_random_instants_loses_and_repeats_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.cli", "sweep", *MANY, "--out", "x", "-q"]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    draw = random.Random(11)
    killed, finished = 0, set()
    while killed < 4:
        before = len(list(entries(tmp_path / "x")))
        process = subprocess.Popen(command, cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL)
        wait_s = draw.uniform(0.1, 0.4)
        end = time.monotonic() + 60
        while len(list(entries(tmp_path / "x"))) == before and process.poll() is None and time.monotonic() < end:
            time.sleep(0.02)  # let it come to running points
            if killed % 3 == 2:
                break  # or kill it while it starts
        time.sleep(wait_s / 4)
        process.kill()
        process.wait()
        killed += 1
        while processes_in(tmp_path) and time.monotonic() < end:
            time.sleep(0.02)
        assert processes_in(tmp_path) == 0, "orphans"
        now = [entry["id"] for entry in entries(tmp_path / "x")]
        assert len(now) == len(set(now)), "a finished point was computed again"
        assert finished <= set(now), "a finished point was lost"
        finished = set(now)
    assert len(finished) > 0
    assert subprocess.run(command, cwd=tmp_path, env=environment).returncode == 0
    assert finished <= {entry["id"] for entry in entries(tmp_path / "x")}
    assert len(list(entries(tmp_path / "x"))) == 120
    sweep(MANY, tmp_path / "whole", workers=2)
    for name in (POINTS, REQUESTS):
        assert (tmp_path / "x" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
