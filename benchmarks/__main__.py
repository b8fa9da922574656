"""`make bench`: speed of the simulator and of its rival in one run; cpu-seconds, median of five.

Writes benchmarks/latest.json. Absolute figures depend on the machine and on what else it does; the
ratio to the rival, measured in alternation, is what to compare.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from rich.console import Console
from rich.table import Table

from benchmarks.cases import EXPERTS, LAYERS, TOP_K, bench_scenario, bench_trace
from benchmarks.naive import Naive, Times
from benchmarks.sweeps import measure
from hwmodels import Platform
from simulator.build import build
from simulator.plan import Plan, Step, Workload
from simulator.policies.cache.lru import Lru
from simulator.replay import replay
from simulator.result import run_clock
from simulator.scenario import Scenario

ROUNDS = 5
TOKENS, RIVAL_TOKENS = 1000, 100
CONF = Path(__file__).parent.parent / "experiments" / "conf"


def cpu_s(function: Callable[[], Any]) -> float:
    """CPU seconds of one call."""
    gc.collect()
    begin = time.process_time()
    function()
    return time.process_time() - begin


def ours(scenario: Scenario) -> float:
    """Seconds of the event loop with plan, prediction, contention and attribution; building is not in it."""
    run = build(scenario)
    return cpu_s(lambda: run_clock(run))


def rival(scenario: Scenario) -> float:
    """Seconds of the naive model for the same first tokens at the same costs."""
    run = build(scenario)
    steps = []
    while len(steps) < RIVAL_TOKENS and isinstance(step := run.workers[0].source.step(len(steps), 0), Step):
        steps.append(step)
    base = [layer * EXPERTS for layer in range(LAYERS)]
    tokens = [[[b - base[la] for b in blobs] for la, (blobs, _) in enumerate(step.groups)] for step in steps]
    guesses = [
        [[b - base[(la + 1) % LAYERS] for b in row] for la, row in enumerate(step.guesses or [])] for step in steps
    ]
    lane = run.workers[0].loader.lane
    size = run.layer_expert_bytes[0]
    chunks = -(-size // lane.chunk_bytes)
    times = Times(
        dense_s=200e-6,
        expert_s=8e-6,
        chunk_s=size / chunks / lane.bottleneck,
        chunks=chunks,
        latency_s=lane.latency_ps / 1e12,
    )
    slots = run.memories[0].cache_bytes // size
    return cpu_s(lambda: Naive(times, slots).run(tokens, guesses))


def cache_alone(scenario: Scenario) -> tuple[float, int]:
    """Seconds and accesses of a replay of the same trace through the same cache."""
    plan = Plan(scenario.trace, Workload(requests=1))
    size = scenario.model.expert_bytes
    accesses = TOKENS * LAYERS * TOP_K

    def run() -> None:
        replay(plan, [size] * LAYERS, EXPERTS, TOP_K, Lru, scenario.settings.cache_bytes or 0)

    return cpu_s(run), accesses


def start_up() -> float:
    """CPU seconds of a fresh process from import to the first event of the default run."""
    code = (
        "import time\n"
        "from experiments.compose import compose_config\n"
        "from experiments.run import scenario_from_config\n"
        "from simulator.build import build\n"
        "run = build(scenario_from_config(compose_config(['experiment=smoke'])))\n"
        "run.clock.process(run.workers[0].process())\n"
        "print(time.process_time())"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(out.stdout.split()[-1])


def main() -> None:
    """Measure, print, write latest.json."""
    console = Console()
    with tempfile.TemporaryDirectory() as folder:
        trace = bench_trace(Path(folder) / "bench.parquet", TOKENS)
        host = Platform.from_mapping(yaml.safe_load((CONF / "platform" / "rtx_3090.yaml").read_text()), "rtx_3090")
        scenario = bench_scenario(trace, host)
        rows: dict[str, list[float]] = {"ours": [], "rival": [], "ratio": [], "replay": [], "start": []}
        for number in range(ROUNDS):
            console.print(f"round {number + 1} of {ROUNDS}", style="dim")
            mine = TOKENS / ours(scenario)
            other = RIVAL_TOKENS / rival(scenario)
            seconds, accesses = cache_alone(scenario)
            rows["ours"].append(mine)
            rows["rival"].append(other)
            rows["ratio"].append(mine / other)
            rows["replay"].append(accesses / seconds)
            rows["start"].append(start_up())
    medians = {name: statistics.median(values) for name, values in rows.items()}
    latest: dict[str, Any] = {
        "decode_tokens_per_cpu_s": round(medians["ours"], 1),
        "naive_decode_tokens_per_cpu_s": round(medians["rival"], 1),
        "ratio_to_naive": round(medians["ratio"], 2),
        "replay_accesses_per_cpu_s": round(medians["replay"]),
        "start_to_first_event_cpu_s": round(medians["start"], 3),
        "case": f"{LAYERS} MoE layers, top-{TOP_K} of {EXPERTS}, LRU over half of the experts, transition-table"
        " prefetch, shared host memory, attribution on",
        "rounds": ROUNDS,
        "machine": _machine(),
        "python": platform.python_version(),
        "numpy": np.__version__,
    }
    console.print("sweeps", style="dim")
    latest["sweeps"] = measure()
    (Path(__file__).parent / "latest.json").write_text(json.dumps(latest, indent=2) + "\n")
    table = Table("what", "median", title=str(latest["case"]))
    for name in list(latest)[:5]:
        table.add_row(name, f"{latest[name]:,}")
    for name, value in latest["sweeps"].items():
        table.add_row(f"sweeps: {name}", f"{value:,}")
    console.print(table)
    console.print(f"{latest['machine']}; written to benchmarks/latest.json")


def _machine() -> str:
    name = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                name = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{name}, {os.cpu_count()} cores"


if __name__ == "__main__":
    main()
