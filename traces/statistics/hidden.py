"""What the hidden states say: norms by layer, and whether requests with similar embeddings are routed alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy import stats

from traces.schema import RequestTrace, TraceMeta


class Norms:
    """Mean and coefficient of variation of the norms of the hidden states that each layer's router is given."""

    def __init__(self, meta: TraceMeta) -> None:
        self._there = meta.has_norms
        self._sums = np.zeros((3, len(meta.layers)))  # tokens, norms, their squares

    def add(self, request: RequestTrace) -> None:
        if request.norms is None:
            return
        norms = request.norms.astype(np.float64)
        known = np.where(np.isnan(norms), 0.0, norms)
        self._sums += np.stack([(~np.isnan(norms)).sum(0), known.sum(0), (known**2).sum(0)])

    def result(self) -> dict[str, Any]:
        if not self._there or not self._sums[0].any():
            return {"norm_mean": None, "norm_cv": None}
        with np.errstate(invalid="ignore", divide="ignore"):  # a layer without a token has no mean
            mean = self._sums[1] / self._sums[0]
            cv = np.sqrt((self._sums[2] / self._sums[0] - mean**2).clip(min=0)) / mean
        whole = {name: float(np.nanmean(values)) for name, values in (("norm_mean", mean), ("norm_cv", cv))}
        return {**whole, "by_layer": {"norm_mean": mean, "norm_cv": cv}}


EMBEDDING_KEYS = (
    "embedding_cosine",
    "same_task_embedding_cosine",
    "other_task_embedding_cosine",
    "nearest_request_similarity",
    "embedding_routing_correlation",
    "embedding_routing_correlation_shuffle",
)


def embedding_statistics(
    embeddings: np.ndarray, routing: np.ndarray, same_task: np.ndarray | None, seed: int
) -> dict[str, float | None]:
    """Return how requests with similar embeddings are routed.

    embeddings  float32 [N, H]; a request whose embedding is not known (NaN) or zero is left out
    routing     [N, N] similarity of request i's first half to request j's second half
    same_task   bool [N, N], or None if there are no tasks to compare
    seed        of the control, in which embeddings are dealt to the requests at random

    Requests are compared by the cosine of their embeddings, as FineMoE does (arXiv:2502.05370). All values are None
    for fewer than three requests.
    """
    out: dict[str, float | None] = dict.fromkeys(EMBEDDING_KEYS)
    lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
    known = np.flatnonzero(lengths > 0)  # NaN is not
    if len(known) < 3:
        return out
    directions = embeddings[known] / lengths[known, None]
    cosine, routing = directions @ directions.T, routing[np.ix_(known, known)]
    other = ~np.eye(len(known), dtype=bool)
    out["embedding_cosine"] = float(cosine[other].mean())
    if same_task is not None:
        same = same_task[np.ix_(known, known)]
        for name, where in (("same_task", same & other), ("other_task", ~same & other)):
            out[f"{name}_embedding_cosine"] = float(cosine[where].mean()) if where.any() else None
    nearest = np.where(other, cosine, -np.inf).argmax(axis=1)
    out["nearest_request_similarity"] = float(np.nanmean(routing[np.arange(len(known)), nearest]))
    pairs = np.triu_indices(len(known), 1)
    alike = ((routing + routing.T) / 2)[pairs]
    dealt = np.random.default_rng(seed).permutation(len(known))
    for name, values in (("", cosine), ("_shuffle", cosine[np.ix_(dealt, dealt)])):
        out[f"embedding_routing_correlation{name}"] = _rank_correlation(values[pairs], alike)
    return out


def _rank_correlation(one: np.ndarray, other: np.ndarray) -> float | None:
    """Spearman's; None where one of them does not vary."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return None
    return float(stats.spearmanr(one, other).statistic)
