"""How much a sweep costs beyond its runs, beside Hydra's own launchers, in one go.

Cost beyond the runs: all CPU time of the process and its children, less that of starting up, less that of the same
runs made one after the other from scenarios at hand, per point.
"""

from __future__ import annotations

import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.run import scenario_from_config
from experiments.sweep.points import points
from simulator.result import simulate

SWEEP = ["experiment=bench_sweep"]
SAMPLE = 200  # points whose runs are timed alone
SEVERAL = ["workload.first_request=range(0,8)"]  # 1,000 points
FEW = ["policy/cache=lru,lfu", "cache_gib=2,4", "workload.first_request=range(0,8)"]  # 32 points, for Hydra
ONE = ["policy/cache=lru", "cache_gib=4", "workload.first_request=0"]
TWO = ["policy/cache=lru,lfu", "cache_gib=4", "workload.first_request=0"]


def _children_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _command(*arguments: str) -> tuple[float, float]:
    """(CPU, wall) seconds of a command of moesim and all its processes, in an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        cpu, wall = _children_s(), time.perf_counter()
        command = [sys.executable, "-m", "experiments.cli", *arguments]
        environment = {"PYTHONPATH": str(Path(__file__).parent.parent), "PATH": "/usr/bin:/bin"}
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        return _children_s() - cpu, time.perf_counter() - wall


def _runs_s(overrides: Sequence[str]) -> tuple[float, int]:
    """(CPU seconds a run, number of points): a sample of the points, run one after the other."""
    listed = points(overrides)
    sample = random.Random(0).sample(listed, min(SAMPLE, len(listed)))
    scenarios = [scenario_from_config(point.config) for point in sample]
    for scenario in scenarios:
        _ = simulate(scenario).summary
    begin = time.process_time()
    for scenario in scenarios:
        _ = simulate(scenario).summary
    return (time.process_time() - begin) / len(sample), len(listed)


def measure() -> dict[str, Any]:
    """What `make bench` prints and writes of sweeps."""
    _, wall = _command("sweep", *SWEEP, "-q")
    count = len(points(SWEEP))
    out: dict[str, Any] = {"points": count, "wall_s": round(wall, 1), "points_per_wall_s": round(count / wall, 1)}
    # in one process, as only then all CPU time is seen
    run_s, several = _runs_s([*SWEEP, *SEVERAL])
    begin_s, start_s = _command("sweep", *SWEEP, *ONE, "-q", "--workers", "0")
    cpu_s, _ = _command("sweep", *SWEEP, *SEVERAL, "-q", "--workers", "0")
    out["start_wall_s"] = round(start_s, 2)
    out["run_alone_cpu_ms"] = round(1e3 * run_s, 2)
    out["sweep_overhead_cpu_ms_per_point"] = round(1e3 * ((cpu_s - begin_s) / (several - 1) - run_s), 2)
    run_s, few = _runs_s([*SWEEP, *FEW])
    for name in ("basic", "joblib"):
        launcher = f"hydra/launcher={name}"
        begin_s, _ = _command("run", "-m", *SWEEP, *TWO, launcher, "-q")
        cpu_s, _ = _command("run", "-m", *SWEEP, *FEW, launcher, "-q")
        out[f"hydra_{name}_overhead_cpu_ms_per_point"] = round(1e3 * ((cpu_s - begin_s) / (few - 2) - run_s), 1)
    return out
