"""Do nearby tokens choose the same experts? Overlap by distance in tokens, and what shuffled tokens would share.

The controls are expectations over all permutations, not draws. If c of the n tokens of a set chose an expert, two
different tokens of the set, drawn at random, both chose it with probability c (c - 1) / (n (n - 1)).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import RequestTrace, TraceMeta
from traces.statistics.counting import expert_counts, ratio, routed_tokens

LAGS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # in tokens


def common(earlier: np.ndarray, later: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Experts that pairs of tokens share, by layer.

    Both [pairs, layers, slots] expert ids, -1: none. Returns two int64 [layers]: experts of `later` that
    `earlier` chose too, and all experts of `later`; pairs where `earlier` has none in a layer are left out of both.
    """
    routed = np.asarray((earlier >= 0).any(axis=2))
    earlier = np.where(earlier < 0, -2, earlier)
    shared, asked = np.zeros((2, earlier.shape[1]), dtype=np.int64)
    for slot in range(later.shape[2]):
        expert = later[:, :, slot]
        asked += (routed & (expert >= 0)).sum(axis=0)
        for other in range(earlier.shape[2]):
            shared += np.count_nonzero(expert == earlier[:, :, other], axis=0)
    return shared, asked


def pairs_at(positions: np.ndarray, lag: int) -> np.ndarray | slice:
    """Indices t of tokens for which token t + lag stands `lag` positions on (a slice if all do)."""
    near = positions[lag:] - positions[: max(len(positions) - lag, 0)] == lag
    return slice(0, len(near)) if near.all() else np.flatnonzero(near)


def overlap_at(request: RequestTrace, lag: int) -> tuple[np.ndarray, np.ndarray]:
    """`common` of the tokens of a request that are `lag` positions apart."""
    where = pairs_at(request.positions, lag)
    return common(request.experts[: max(request.tokens - lag, 0)][where], request.experts[lag:][where])


def chance_overlap(counts: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Share of a token's experts that another token of the same set chose too, expected over all pairs; [layers].

    counts [layers, experts]: tokens that chose the expert; tokens [layers]: tokens of the set. NaN below two tokens.
    """
    return ratio((counts * (counts - 1.0)).sum(axis=1), (tokens - 1.0) * counts.sum(axis=1))


class Overlap:
    """Share of a token's experts that an earlier token of its request chose too, by distance and layer.

    "Within request" shuffles the tokens of each request, "global" those of the whole trace, "uniform" draws experts
    uniformly. `first_choice_repeat` is the same with the first slot only.
    """

    def __init__(self, meta: TraceMeta) -> None:
        self._meta = meta
        shape = (len(LAGS), len(meta.layers))
        self._shared = np.zeros(shape, dtype=np.int64)
        self._asked = np.zeros(shape, dtype=np.int64)
        self._by_chance = np.zeros(shape)
        self._first = np.zeros((3, len(meta.layers)))  # repeated, asked, repeated by chance within the request

    def add(self, request: RequestTrace) -> None:
        experts = self._meta.num_experts
        chance = chance_overlap(expert_counts(request.experts, experts), routed_tokens(request.experts))
        for index, lag in enumerate(LAGS):
            if lag >= request.tokens:
                break
            shared, asked = overlap_at(request, lag)
            self._shared[index] += shared
            self._asked[index] += asked
            self._by_chance[index] += np.nan_to_num(chance) * asked
        if self._meta.rank_known and request.tokens > 1:
            first = request.experts[:, :, :1]
            chance = chance_overlap(expert_counts(first, experts), routed_tokens(first))
            where = pairs_at(request.positions, 1)
            repeated, asked = common(first[:-1][where], first[1:][where])
            self._first += [repeated, asked, np.nan_to_num(chance) * asked]

    def result(self, counts: np.ndarray, tokens: np.ndarray) -> dict[str, Any]:
        """`counts` [layers, experts] and `tokens` [layers] are those of the whole trace."""
        uniform = counts.sum(axis=1) / np.maximum(tokens, 1) / counts.shape[1]
        layers = {
            "consecutive_overlap": ratio(self._shared[0], self._asked[0]),
            "consecutive_overlap_within_request_shuffle": ratio(self._by_chance[0], self._asked[0]),
            "consecutive_overlap_global_shuffle": chance_overlap(counts, tokens),
            "consecutive_overlap_uniform": uniform,
        }
        pairs, slots = self._asked[0], counts.sum(axis=1)
        weights = (pairs, pairs, slots, slots)
        out: dict[str, Any] = {name: _mean(layers[name], by) for name, by in zip(layers, weights, strict=True)}
        sums = self._shared.sum(axis=1), self._by_chance.sum(axis=1), self._asked.sum(axis=1)
        out["overlap_by_lag"] = dict(zip(map(str, LAGS), ratio(sums[0], sums[2]), strict=True))
        out["overlap_by_lag_shuffle"] = dict(zip(map(str, LAGS), ratio(sums[1], sums[2]), strict=True))
        if self._meta.rank_known:
            repeated, asked, by_chance = self._first
            layers["first_choice_repeat"] = ratio(repeated, asked)
            layers["first_choice_repeat_shuffle"] = ratio(by_chance, asked)
        for name in ("first_choice_repeat", "first_choice_repeat_shuffle"):
            out[name] = _mean(layers[name], self._first[1]) if name in layers else None
        return {**out, "by_layer": layers}


def _mean(values: np.ndarray, weights: np.ndarray) -> float:
    return float(ratio(np.nansum(values * weights), weights.sum()))
