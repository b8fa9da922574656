"""Small models, platforms, traces and systems for tests of whole runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from hwmodels import Platform
from simulator.build import Run
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.cache.lru import Lru
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.placement.cold import ColdStart
from simulator.policies.prediction.none import NoPrediction
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.policies.slots.whole import GlobalSlots
from simulator.result import Result, simulate
from simulator.scenario import Scenario, Settings, System
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, data_path, open_trace

CONF = Path(__file__).resolve().parents[1] / "experiments" / "conf"
HIDDEN, WIDTH = 32, 64
EXPERT_BYTES = 3 * HIDDEN * WIDTH * 2  # gate, up and down in bf16: 12288


def shipped(kind: str, name: str) -> dict[str, Any]:
    """A model or platform file of experiments/conf as a mapping."""
    return yaml.safe_load((CONF / kind / f"{name}.yaml").read_text())


@cache
def tiny_model(layers: int = 2, experts: int = 4, top_k: int = 2, **fields: Any) -> ModelSpec:
    """Every layer routed; an expert has EXPERT_BYTES."""
    return ModelSpec.from_mapping(
        {
            "name": "tiny",
            "source": "made up for tests",
            "layers": layers,
            "hidden": HIDDEN,
            "vocab": 64,
            "experts": experts,
            "top_k": top_k,
            "expert_intermediate": WIDTH,
            "attention": {"full": {"heads": 2, "kv_heads": 2, "head_dim": 16}},
            **fields,
        }
    )


@cache
def tiny_phone(
    *, ssd_latency_s: float = 2e-6, ssd_table: tuple[tuple[int, int, float], ...] = (), launch_s: float = 1e-6
) -> Platform:
    """A CPU that computes from DRAM and reads experts from flash at 1 GB/s, one hop."""
    host = tiny_platform(
        home="ssd", ssd_bytes_per_s=1e9, ssd_latency_s=ssd_latency_s, ssd_table=ssd_table, launch_s=launch_s
    )
    devices = {name: host.devices[name] for name in ("cpu", "dram", "ssd")}
    links = tuple(link for link in host.links if link.name == "nvme")
    return Platform(name="phone", devices=devices, links=links, workers=("cpu",), home="ssd", cpu=None)


@cache
def tiny_platform(
    workers: int = 1,
    *,
    link_bytes_per_s: float = 1e9,
    link_latency_s: float = 1e-6,
    dram_bytes_per_s: float = 4e9,
    gpu_bytes_per_s: float = 1e10,
    launch_s: float = 1e-6,
    home: str = "dram",
    ssd_bytes_per_s: float = 5e8,
    ssd_latency_s: float = 2e-6,
    ssd_table: tuple[tuple[int, int, float], ...] = (),
    peer_bytes_per_s: float = 2e9,
    peer_latency_s: float = 1e-6,
    cpu_flop_per_s: float = 1e12,
) -> Platform:
    """GPUs behind one switch (or one GPU on its own link), host CPU, DRAM and SSD; copies reach their full rate.

    ssd_table: (active requests, bytes of each, bytes/s of all).
    """
    gpus = {
        f"gpu{i}": {
            "kind": "gpu",
            "peak_flop_per_s": {"bf16": 1e12, "fp32": 1e12},
            "memory_capacity_bytes": 10**9,
            "memory_read_bytes_per_s": gpu_bytes_per_s,
            "launch_overhead_s": launch_s,
            "source": "made up",
        }
        for i in range(workers)
    }
    shared = {"switch": {"kind": "switch", "source": "made up"}} if workers > 1 else {}
    near = "switch" if workers > 1 else "dram"
    pcie = {"kind": "pcie", "source": "made up", "bandwidth_bytes_per_s": link_bytes_per_s}
    links: list[dict[str, Any]] = [
        {**pcie, "name": f"pcie{i}", "a": near, "b": f"gpu{i}", "latency_s": link_latency_s} for i in range(workers)
    ]
    if workers > 1:
        links.append({**pcie, "name": "uplink", "a": "dram", "b": "switch"})
        links += [
            {
                "name": f"nvlink{i}{j}",
                "kind": "nvlink",
                "a": f"gpu{i}",
                "b": f"gpu{j}",
                "bandwidth_bytes_per_s": peer_bytes_per_s,
                "latency_s": peer_latency_s,
                "source": "made up",
            }
            for i in range(workers)
            for j in range(i + 1, workers)
        ]
    links.append(
        {"name": "nvme", "kind": "pcie", "a": "dram", "b": "ssd", "bandwidth_bytes_per_s": 1e12, "source": "made up"}
    )
    return Platform.from_mapping(
        {
            "name": "tiny",
            "workers": list(gpus),
            "home": home,
            "devices": {
                **gpus,
                **shared,
                "cpu": {
                    "kind": "cpu",
                    "memory": "dram",
                    "peak_flop_per_s": {"fp32": cpu_flop_per_s},
                    "launch_overhead_s": launch_s,
                    "source": "made up",
                },
                "dram": {
                    "kind": "dram",
                    "memory_capacity_bytes": 10**9,
                    "memory_read_bytes_per_s": dram_bytes_per_s,
                    "memory_efficiency": {"copy": 1.0},
                    "source": "made up",
                },
                "ssd": {
                    "kind": "ssd",
                    "memory_capacity_bytes": 10**9,
                    "memory_read_bytes_per_s": ssd_bytes_per_s,
                    "memory_latency_s": ssd_latency_s,
                    "memory_efficiency": {"copy": 1.0},
                    "read_bytes_per_s_table": [
                        {"active_requests": active, "request_bytes": size, "bytes_per_s": rate}
                        for active, size, rate in ssd_table
                    ],
                    "source": "made up",
                },
            },
            "links": links,
        }
    )


def tiny_trace(
    requests: Sequence[Any],
    experts: int = 4,
    *,
    prompts: Sequence[int] | None = None,
    guesses: bool = False,
    expert_bytes: tuple[int, ...] | None = None,
    weights: Sequence[Any] | None = None,
) -> Trace:
    """A trace from [request][token][layer][slot] expert ids; the first `prompts[i]` tokens of request i are prompt.

    `guesses=True` records for every layer the truth of the next one as its look-ahead guess (-1 at the last layer).
    """
    arrays = [np.array(request, dtype=np.int16) for request in requests]
    layers, top_k = arrays[0].shape[1:]
    meta = TraceMeta(
        model="tiny",
        num_experts=experts,
        top_k=top_k,
        native_top_k=top_k,
        layers=tuple(range(layers)),
        guess_distances=int(guesses),
        guess_width=top_k if guesses else 0,
        expert_bytes=expert_bytes,
        has_weights=weights is not None,
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.parquet"
        with TraceWriter(path, meta) as writer:
            for number, ids in enumerate(arrays):
                tokens = len(ids)
                ahead = np.concatenate([ids[:, 1:], np.full_like(ids[:, :1], -1)], axis=1)[:, :, None, :]
                writer.write(
                    RequestTrace(
                        id=number,
                        positions=np.arange(tokens, dtype=np.int32),
                        phases=(np.arange(tokens) >= (prompts[number] if prompts else 0)).astype(np.int8),
                        experts=ids,
                        guesses=ahead if guesses else None,
                        weights=np.array(weights[number], dtype=np.float32) if weights is not None else None,
                    )
                )
        trace = open_trace(path)
        for index in range(len(trace)):  # read while the file is there
            trace.request(index)
        return _Kept(trace)  # type: ignore[return-value]


class _Kept:
    """A trace held in memory, with what a run asks of one."""

    def __init__(self, trace: Trace) -> None:
        self.meta, self.requests = trace.meta, trace.requests
        self._rows = [trace.request(index) for index in range(len(trace))]

    def __len__(self) -> int:
        return len(self._rows)

    def request(self, index: int) -> RequestTrace:
        return self._rows[index]


def random_trace(
    seed: int,
    requests: int,
    tokens: int,
    layers: int,
    experts: int,
    top_k: int,
    prompt: int = 0,
    guesses: bool = True,
    expert_bytes: tuple[int, ...] | None = None,
) -> Trace:
    """Uniform routing; request i has `tokens + i` tokens."""
    rng = np.random.default_rng(seed)
    ids = [
        np.argsort(rng.random((tokens + i, layers, experts)), axis=2)[:, :, :top_k].tolist() for i in range(requests)
    ]
    return tiny_trace(ids, experts, prompts=[prompt] * requests, guesses=guesses, expert_bytes=expert_bytes)


def system(**roles: Callable[[], Any]) -> System:
    """On-demand LRU with one global budget, but for the roles given."""
    plain: dict[str, Callable[[], Any]] = {
        "cache": Lru,
        "host_cache": Lru,
        "slots": GlobalSlots,
        "placement": ColdStart,
        "prediction": NoPrediction,
        "prefetch": FetchAhead,
        "execution": FetchToGpu,
        "pipeline": PlainPipeline,
    }
    return System(**{**plain, **roles})


def run(
    model: ModelSpec,
    trace: Trace,
    platform: Platform,
    choice: System | None = None,
    workload: Workload | None = None,
    layout: LayoutChoice | None = None,
    **settings: Any,
) -> Result:
    """Simulate with no workspace and the transfers logged, unless said otherwise."""
    everything = {"timeline": True, "timeline_requests": None, "timeline_slices": None}
    settings = {"workspace_bytes": 0, **everything, **settings}
    made = Settings(**settings)
    return simulate(
        Scenario(model, trace, platform, choice or system(), workload or Workload(), made, layout or LayoutChoice())
    )


def real_trace(name: str) -> Trace:
    """A trace shipped with the package."""
    return open_trace(data_path(f"{name}.parquet"))


def counts(result: Result) -> dict[str, int]:
    """Hits, late, loads and on_cpu of the whole run."""
    return {name: sum(getattr(r, name) for r in result.records) for name in ("hits", "late", "loads", "on_cpu")}


def steps_of(run_or_result: Run | Result) -> list[tuple[Any, ...]]:
    """Everything the workers recorded, comparable."""
    built = run_or_result.run if isinstance(run_or_result, Result) else run_or_result
    return [
        (worker.name, r.number, r.start_ps, r.end_ps, r.hits, r.late, r.loads, r.on_cpu, r.load_bytes)
        + (r.prefetches, r.prefetch_bytes, r.useful_prefetches, tuple(sorted(r.waited_ps.items())))
        for worker in built.workers
        for r in worker.records
    ]
