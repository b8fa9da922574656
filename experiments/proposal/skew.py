"""How unevenly experts are used: the routings of the map, in words and in figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from experiments.run import trace_of

BUSIEST = 8  # one in so many experts counts as busy
REQUESTS = 64  # of a trace, the first ones, that are counted
WORDS = {
    None: "routing as recorded",
    "shuffle uniform": "every expert alike",
    "skew 1": "popularity 1/rank",
    "skew 2": "popularity 1/rank²",
}


def words(skew: str | None) -> str:
    """What a transform of the trace means here."""
    return WORDS.get(skew, str(skew))


def busiest_share(config: Mapping[str, Any]) -> float:
    """Share of tokens' experts that are of the busiest eighth of their layer, mean over layers; of the trace of a
    configuration, counted in its first requests."""
    trace = trace_of(config)
    experts, layers = trace.meta.num_experts, len(trace.meta.layers)
    counts = np.zeros((layers, experts), dtype=np.int64)
    for place in range(min(REQUESTS, len(trace.requests))):
        chosen = trace.request(place).experts
        for layer in range(layers):
            used = chosen[:, layer]
            counts[layer] += np.bincount(used[used >= 0], minlength=experts)
    busy = np.sort(counts, axis=1)[:, -max(1, experts // BUSIEST) :].sum(axis=1)
    return float((busy / np.maximum(1, counts.sum(axis=1))).mean())
