"""How evenly the tokens of a trace spread over the experts of each layer."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import RequestTrace, TraceMeta
from traces.statistics.counting import expert_counts, ratio, routed_tokens


def variation(counts: np.ndarray) -> np.ndarray:
    """[..., experts] counts -> coefficient of variation: standard deviation (of all experts) over mean."""
    return ratio(counts.std(axis=-1), counts.mean(axis=-1))


def max_over_mean(counts: np.ndarray) -> np.ndarray:
    """[..., experts] counts -> the largest over their mean: 1 if all are loaded alike."""
    return ratio(counts.max(axis=-1), counts.mean(axis=-1))


def gini(counts: np.ndarray) -> np.ndarray:
    """[..., experts] counts -> Gini coefficient: 0 if all are loaded alike, towards 1 if one takes it all."""
    experts = counts.shape[-1]
    ranked = np.sort(counts, axis=-1)
    weighted = (ranked * np.arange(1, experts + 1)).sum(axis=-1)
    return ratio(2.0 * weighted, experts * counts.sum(axis=-1)) - (experts + 1) / experts


MEASURES = {"load_cv": variation, "load_max_over_mean": max_over_mean, "load_gini": gini}


class Load:
    """Load of each expert, beside that of a router which draws experts uniformly (as many tokens and slots)."""

    def __init__(self, meta: TraceMeta, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        self.counts = np.zeros((len(meta.layers), meta.num_experts), dtype=np.int64)
        self.tokens = np.zeros(len(meta.layers), dtype=np.int64)

    def add(self, request: RequestTrace) -> None:
        self.counts += expert_counts(request.experts, self.counts.shape[1])
        self.tokens += routed_tokens(request.experts)

    def result(self) -> dict[str, Any]:
        experts = self.counts.shape[1]
        chance = np.minimum(np.nan_to_num(ratio(self.counts.sum(axis=1), self.tokens * experts)), 1.0)
        uniform = self._rng.binomial(self.tokens[:, None], chance[:, None], size=self.counts.shape)
        out: dict[str, Any] = {"by_layer": {}}
        for name, measure in MEASURES.items():
            for key, counts in ((name, self.counts), (f"{name}_uniform", uniform)):
                out["by_layer"][key] = measure(counts)
                out[key] = np.nanmean(measure(counts)) if counts.any() else np.nan
        return out
