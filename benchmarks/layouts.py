"""Layouts: simulated tokens per second of CPU time, many steps at once beside step by step.
`python -m benchmarks.layouts [requests]`.

The load of `benchmarks.serving` (512 prompt and 128 decoded tokens, recorded requests in turn) eight times as often, 32
requests/s, for gpt-oss-20b on the eight GPUs of a DGX H100: attention in eight groups, experts dealt to all GPUs,
messages of fitted duration. Step by step the first `STEPWISE` requests have to do.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import yaml
from rich.console import Console

from benchmarks import serving
from hwmodels import Platform
from simulator.build import build
from simulator.layout_choice import LayoutChoice
from simulator.result import Result, run_clock
from simulator.scenario import Scenario

GPUS, STEPWISE, ROUNDS = 8, 64, 3


def scenario(made: Scenario, stepwise: bool) -> Scenario:
    """The same requests on eight GPUs."""
    platform = Platform.from_mapping(yaml.safe_load((serving.CONF / "platform" / "dgx_h100.yaml").read_text()))
    settings = replace(made.settings, collectives="calibrated", stepwise=stepwise)
    return replace(made, platform=platform, settings=settings, layout=LayoutChoice(attention_dp=GPUS))


def measure(requests: int = 1000) -> dict[str, float]:
    """Tokens of prompts and answers per second of CPU time, building the run and its summary included; the
    milliseconds per step that this is; medians of rounds in alternation."""
    rates: dict[bool, list[float]] = {False: [], True: []}
    step_ms: dict[bool, list[float]] = {False: [], True: []}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        trace = serving.serving_trace(folder / "serving.parquet")
        for _ in range(ROUNDS):
            for stepwise, count in ((False, requests), (True, min(STEPWISE, requests))):
                plain = serving.scenario(trace, folder, count, False, serving.RATE_PER_S * GPUS)
                made = scenario(plain, stepwise)
                begin = time.process_time()
                run = build(made)
                run_clock(run)
                summary = Result(run).summary
                tokens = summary["prefill_tokens"] + summary["decode_tokens"]
                spent_s = time.process_time() - begin
                rates[stepwise].append(tokens / spent_s)
                step_ms[stepwise].append(1e3 * spent_s / len(run.workers[0].records))
    fast, slow = (statistics.median(rates[stepwise]) for stepwise in (False, True))
    return {
        "tokens_per_cpu_s": round(fast),
        "stepwise_tokens_per_cpu_s": round(slow),
        "ms_per_step": round(statistics.median(step_ms[False]), 2),
        "stepwise_ms_per_step": round(statistics.median(step_ms[True]), 1),
        "ratio": round(statistics.median(a / b for a, b in zip(rates[False], rates[True], strict=True)), 1),
    }


if __name__ == "__main__":
    Console().print_json(json.dumps(measure(*(int(text) for text in sys.argv[1:]))))
