"""Routes for a run whose own were not recorded: every look-up misses with one probability.

From token to token a layer keeps its experts, except that each is replaced with the probability of a miss, by the
expert of the layer that was used longest ago. An LRU cache that holds two tokens' experts, but not what is replaced
until an expert comes round again, then misses exactly the replaced ones.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from experiments.validation.phone_runs import RecordedRun
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, open_trace
from traces.schema import DECODE

WARM_UP = 40  # tokens in which the cache fills


def miss_rate(run: RecordedRun, like: Trace) -> float:
    """Misses over look-ups of the decoded tokens, from the cumulative hit rate after the last one.

    That rate counts the prompt too, one look-up per distinct expert and layer, none a hit as the cache was empty.
    How many those were is taken from `like`, routes of the same model: its distinct experts in as many tokens, times
    the ratio of the two top-k.
    """
    decoded = len(run.tokens) * len(like.meta.layers) * run.top_k
    first = like.request(0).experts[: run.prompt_tokens]
    distinct = sum(len(np.unique(chosen[chosen >= 0])) for chosen in np.moveaxis(first, 1, 0))
    asked = distinct * run.top_k / like.meta.top_k
    hits = float(run.tokens["hit_rate"].iloc[-1]) * (asked + decoded)
    return float(1 - hits / decoded)


def write_routes(path: Path, like: TraceMeta, top_k: int, tokens: int, first_position: int, rate: float) -> Trace:
    """Write and open a decode-only trace of `tokens` tokens after WARM_UP, with the sizes and layers of `like`."""
    generator = np.random.default_rng(0)
    layers, experts = len(like.layers), like.num_experts
    rows = np.empty((WARM_UP + tokens, layers, top_k), dtype=np.int16)
    for layer in range(layers):
        order = [
            int(expert) for expert in generator.permutation(experts)
        ]  # those in use last, the longest unused first
        for number in range(WARM_UP + tokens):
            using, replaced = order[-top_k:], generator.random(top_k) < rate
            fresh = order[: int(replaced.sum())] if number else []
            if fresh:
                gone = [expert for expert, leaves in zip(using, replaced, strict=True) if leaves]
                kept = [expert for expert, leaves in zip(using, replaced, strict=True) if not leaves]
                order = [*order[len(fresh) : -top_k], *gone, *kept, *fresh]
            rows[number, layer] = order[-top_k:]
    meta = TraceMeta(
        model=like.model,
        num_experts=experts,
        top_k=top_k,
        native_top_k=like.native_top_k,
        layers=like.layers,
        rank_known=False,
        expert_bytes=like.expert_bytes,
        source=f"drawn: every look-up misses with probability {rate:.4f}",
    )
    positions = np.arange(first_position, first_position + len(rows), dtype=np.int32)
    with TraceWriter(path, meta) as writer:
        writer.write(RequestTrace(id=0, positions=positions, phases=np.full(len(rows), DECODE, np.int8), experts=rows))
    return open_trace(path)
