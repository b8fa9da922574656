"""The benchmark's model, machine and trace: 32 MoE layers, top-8 of 128 experts."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from hwmodels import Platform
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.cache.lru import Lru
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.placement.cold import ColdStart
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.policies.slots.whole import GlobalSlots
from simulator.scenario import Scenario, Settings, System
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, open_trace

LAYERS, EXPERTS, TOP_K = 32, 128, 8
CACHED_SHARE = 0.5  # of all experts

MODEL = {
    "name": "bench-32x128-top8",
    "source": "benchmark: Qwen3-30B-A3B's layer shape at 32 layers",
    "layers": LAYERS,
    "hidden": 2048,
    "vocab": 151936,
    "experts": EXPERTS,
    "top_k": TOP_K,
    "expert_intermediate": 768,
    "experts_bits": 4.5,
    "attention": {"full": {"heads": 32, "kv_heads": 4, "head_dim": 128, "qk_norm": "head"}},
}


def routing(tokens: int, seed: int) -> np.ndarray:
    """Seeded routing with skewed popularity and sticky experts, int16 [tokens, LAYERS, TOP_K].

    A quarter of the experts carries two thirds of the selections and 40 % of a token's experts are
    those of the token before: the skew and overlap seen in traces of Qwen3-30B-A3B. Only the
    benchmark's load, never evidence.
    """
    rng = np.random.default_rng(seed)
    popularity = 1.0 / np.arange(1, EXPERTS + 1) ** 0.75
    gumbel = rng.gumbel(size=(tokens, LAYERS, EXPERTS)) + np.log(popularity)
    order = np.stack([np.random.default_rng([7, layer]).permutation(EXPERTS) for layer in range(LAYERS)])
    fresh = np.argsort(-gumbel, axis=2)[:, :, : 2 * TOP_K]
    out = np.empty((tokens, LAYERS, TOP_K), dtype=np.int16)
    stays = rng.random((tokens, LAYERS, TOP_K)) < 0.4
    for token in range(tokens):
        for layer in range(LAYERS):
            kept = out[token - 1, layer][stays[token, layer]].tolist() if token else []
            for expert in order[layer][fresh[token, layer]].tolist():
                if len(kept) == TOP_K:
                    break
                if expert not in kept:
                    kept.append(expert)
            out[token, layer] = kept
    return out


def bench_trace(path: Path, tokens: int) -> Trace:
    """Write and open a decode-only trace: request 0 of `tokens` tokens to serve, request 1 to learn from."""
    meta = TraceMeta(
        model="bench",
        num_experts=EXPERTS,
        top_k=TOP_K,
        native_top_k=TOP_K,
        layers=tuple(range(LAYERS)),
        source="seeded, benchmarks/cases.py",
    )
    with TraceWriter(path, meta) as writer:
        for number, length in enumerate((tokens, 256)):
            writer.write(
                RequestTrace(
                    id=number,
                    positions=np.arange(64, 64 + length, dtype=np.int32),
                    phases=np.ones(length, dtype=np.int8),
                    experts=routing(length, seed=number),
                )
            )
    return open_trace(path)


def bench_scenario(trace: Trace, platform: Platform) -> Scenario:
    """LRU over half of the experts, transition-table prefetch, shared host memory, attribution on."""
    model = ModelSpec.from_mapping(MODEL)
    system = System(
        cache=Lru,
        host_cache=Lru,
        slots=GlobalSlots,
        placement=ColdStart,
        prediction=TransitionPrediction,
        prefetch=FetchAhead,
        execution=FetchToGpu,
        pipeline=PlainPipeline,
        name="bench",
    )
    cache_bytes = int(CACHED_SHARE * LAYERS * EXPERTS * model.expert_bytes)
    return Scenario(
        model, trace, platform, system, Workload(requests=1), Settings(cache_bytes=cache_bytes, reference=False)
    )
