"""Serving: requests that a second of CPU time simulates. `python -m benchmarks.serving [requests]`.

Poisson arrivals of 4 requests/s, 512 prompt and 128 decoded tokens, one replica with all experts resident, routing of
every token in every layer counted. Once with requests that follow recorded ones in turn, once with prompts drawn anew
for each request.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import numpy as np
import yaml
from rich.console import Console

from hwmodels import Platform
from simulator.build import build
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.cache.lru import Lru
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.none import NoPrediction
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.slots.whole import GlobalSlots
from simulator.result import Result, run_clock
from simulator.scenario import Scenario, Settings, System
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, data_path, open_trace

CONF = Path(__file__).parent.parent / "experiments" / "conf"
LAYERS, EXPERTS, TOP_K = 24, 32, 4
RECORDED = 64
PROMPT, DECODE, RATE_PER_S = 512, 128, 4
ROUNDS = 3


def serving_trace(path: Path) -> Trace:
    """Requests with prompts, seeded routing of skewed popularity: the benchmark's load, never evidence."""
    meta = TraceMeta(
        model="bench",
        num_experts=EXPERTS,
        top_k=TOP_K,
        native_top_k=TOP_K,
        layers=tuple(range(LAYERS)),
        source="seeded, benchmarks/serving.py",
    )
    tokens = PROMPT + DECODE
    popularity = np.log(1.0 / np.arange(1, EXPERTS + 1) ** 0.75)
    with TraceWriter(path, meta) as writer:
        for number in range(RECORDED):
            rng = np.random.default_rng(number)
            order = np.argsort(-(rng.gumbel(size=(tokens, LAYERS, EXPERTS)) + popularity), axis=2)
            writer.write(
                RequestTrace(
                    id=number,
                    positions=np.arange(tokens, dtype=np.int32),
                    phases=(np.arange(tokens) >= PROMPT).astype(np.int8),
                    experts=order[:, :, :TOP_K].astype(np.int16),
                )
            )
    return open_trace(path)


def scenario(
    trace: Trace, folder: Path, requests: int, synthetic_prefill: bool, rate_per_s: float = RATE_PER_S
) -> Scenario:
    """gpt-oss-20b on an A100 with all its experts there."""
    path = folder / "requests.yaml"
    spec = {
        "requests": requests,
        "arrivals": {"kind": "poisson", "rate_per_s": rate_per_s},
        "prompt_tokens": PROMPT,
        "decode_tokens": DECODE,
    }
    path.write_text(yaml.safe_dump(spec))
    return Scenario(
        model=ModelSpec.from_mapping(yaml.safe_load((CONF / "model" / "gpt_oss_20b.yaml").read_text())),
        trace=trace,
        platform=Platform.from_mapping(yaml.safe_load((CONF / "platform" / "a100_host.yaml").read_text())),
        system=System(
            cache=Lru,
            host_cache=Lru,
            slots=GlobalSlots,
            placement=PopularFirst,
            prediction=NoPrediction,
            prefetch=FetchAhead,
            execution=FetchToGpu,
            pipeline=PlainPipeline,
            scheduling=partial(Continuous, max_batch=256, token_budget=2048),
            name="bench",
        ),
        workload=Workload(file=str(path), binding="cycle", synthetic_prefill=synthetic_prefill),
        settings=Settings(reference=False),
    )


def measure(requests: int = 1000) -> dict[str, float]:
    """Requests per second of CPU time, building the run and its summary included; medians."""
    found = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        traces = {
            "recorded": serving_trace(folder / "serving.parquet"),
            "drawn_prompts": open_trace(data_path("gpt_oss_20b.parquet")),
        }
        for kind, trace in traces.items():
            rates = []
            for _ in range(ROUNDS):
                made = scenario(trace, folder, requests, kind == "drawn_prompts")
                begin = time.process_time()
                run = build(made)
                run_clock(run)
                summary = Result(run).summary
                rates.append(requests / (time.process_time() - begin))
            assert summary["requests"] == requests
            found[f"requests_per_cpu_s_{kind}"] = round(statistics.median(rates), 1)
            found[f"first_{kind}"] = round(rates[0], 1)
    return found


if __name__ == "__main__":
    Console().print_json(json.dumps(measure(*(int(text) for text in sys.argv[1:]))))
