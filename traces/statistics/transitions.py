"""What the experts of a layer say about those of the next one: mutual information and recall."""

from __future__ import annotations

from typing import Any

import numpy as np

from traces.schema import RequestTrace, TraceMeta
from traces.statistics.counting import expert_counts, places, ratio

_ELEMENTS = 1 << 21  # of scores in memory at once
SAMPLE_TOKENS = 1 << 17


def transition_counts(experts: np.ndarray, following: np.ndarray, num_experts: int) -> np.ndarray:
    """Tokens by pairs of their experts in two layers.

    Both [tokens, slots] ids, -1: none. Returns int64 [num_experts, num_experts]: how many tokens chose i in the
    first layer and j in the second.
    """
    size = num_experts + 1
    codes = (experts.astype(np.int64)[:, :, None] + 1) * size + following[:, None, :] + 1
    return np.bincount(codes.ravel(), minlength=size * size).reshape(size, size)[1:, 1:]


def mutual_information_bits(counts: np.ndarray) -> float:
    """Mutual information of row and column, in bits, of the plain estimate counts / sum; NaN without counts."""
    total = counts.sum()
    if total == 0:
        return float("nan")
    joint = counts / total
    rows, columns = joint.sum(axis=1, keepdims=True), joint.sum(axis=0, keepdims=True)
    seen = joint > 0
    return float((joint[seen] * np.log2(joint[seen] / (rows * columns)[seen])).sum())


class Information:
    """Mutual information between a token's experts of adjacent layers, all pairs of slots taken as observations.

    The control pairs each token's experts with the next layer's of a token drawn from all (a permutation): what
    is left is the bias of a finite sample. Both are of the same tokens: all, or if there are more than
    SAMPLE_TOKENS every n-th.
    """

    def __init__(self, meta: TraceMeta, tokens: int, seed: int) -> None:
        self._experts = meta.num_experts
        self._stride = -(-tokens // SAMPLE_TOKENS)
        self._rng = np.random.default_rng(seed)
        self._kept: list[np.ndarray] = []
        self._skip = 0

    def add(self, request: RequestTrace) -> None:
        self._kept.append(request.experts[self._skip :: self._stride].copy())
        self._skip = (self._skip - request.tokens) % self._stride

    def result(self) -> dict[str, Any]:
        experts = np.concatenate(self._kept)
        real, shuffled = [], []
        for layer in range(experts.shape[1] - 1):
            one, other = experts[:, layer], experts[:, layer + 1]
            both = (one >= 0).any(axis=1) & (other >= 0).any(axis=1)
            one, other = one[both], other[both]
            real.append(mutual_information_bits(transition_counts(one, other, self._experts)))
            other = other[self._rng.permutation(len(other))]
            shuffled.append(mutual_information_bits(transition_counts(one, other, self._experts)))
        layers = {
            "next_layer_information_bits": np.array(real),
            "next_layer_information_bits_shuffle": np.array(shuffled),
        }
        return {**{name: _mean(values) for name, values in layers.items()}, "by_layer": layers}


class NextLayerRecall:
    """Share of a layer's experts among the k best guesses from the layer before, or among the k most popular.

    Guesses: P(j in layer l + 1 | i in layer l) summed over the token's experts i of layer l, of equal scores the lower
    id first. Table and popularity are of the *other* requests. Call `add` for all requests, then `add_again` for all.
    """

    def __init__(self, meta: TraceMeta) -> None:
        layers, experts = len(meta.layers), meta.num_experts
        self._top_k, self._experts = meta.top_k, experts
        self._pairs = np.zeros((layers - 1, experts, experts), dtype=np.int64)
        self._counts = np.zeros((layers, experts), dtype=np.int64)
        self._hits = np.zeros((2, layers - 1), dtype=np.int64)  # by table, by popularity
        self._asked = np.zeros(layers - 1, dtype=np.int64)
        self._requests = 0

    def add(self, request: RequestTrace) -> None:
        self._pairs += self._own_pairs(request)
        self._counts += expert_counts(request.experts, self._experts)
        self._requests += 1

    def _own_pairs(self, request: RequestTrace) -> np.ndarray:
        experts = request.experts
        pairs = np.empty(self._pairs.shape, dtype=np.int64)
        for layer in range(len(pairs)):
            pairs[layer] = transition_counts(experts[:, layer], experts[:, layer + 1], self._experts)
        return pairs

    def add_again(self, request: RequestTrace) -> None:
        if self._requests < 2 or not len(self._pairs):
            return
        others = self._pairs - self._own_pairs(request)
        table = np.zeros((len(others), self._experts + 1, self._experts))  # the last row is for -1
        table[:, :-1] = np.nan_to_num(ratio(others, others.sum(axis=2, keepdims=True)))
        popular = (self._counts - expert_counts(request.experts, self._experts))[1:]  # of the layers guessed
        rows = max(1, _ELEMENTS // table[:, 0].size)
        for start in range(0, request.tokens, rows):
            experts = request.experts[start : start + rows]
            self._score(experts[:, :-1], experts[:, 1:], table, popular)

    def _score(self, experts: np.ndarray, following: np.ndarray, table: np.ndarray, popular: np.ndarray) -> None:
        tokens, layers, slots = experts.shape
        ordinals = np.arange(layers)
        scores = np.zeros((tokens, layers, self._experts))
        for slot in range(slots):
            scores += table[ordinals, experts[:, :, slot]]
        known = np.asarray((experts >= 0).any(axis=2))
        chosen = np.where(known[:, :, None], following, -1).transpose(2, 0, 1).reshape(slots, -1)
        by_table = places(np.ascontiguousarray(scores.reshape(-1, self._experts).T), chosen)
        order = (-popular).argsort(axis=1, kind="stable").argsort(axis=1, kind="stable")  # ranks, [layers, experts]
        by_popularity = order[ordinals, chosen.reshape(slots, tokens, layers)].reshape(slots, -1)
        for kind, rank in enumerate((by_table, by_popularity)):
            hit = (rank < self._top_k) & (chosen >= 0)
            self._hits[kind] += hit.reshape(slots * tokens, layers).sum(axis=0)
        self._asked += (chosen >= 0).reshape(slots * tokens, layers).sum(axis=0)

    def result(self) -> dict[str, Any]:
        by_table, by_popularity = ratio(self._hits, self._asked)
        layers = {"next_layer_recall": by_table, "popularity_recall": by_popularity}
        out = {name: float(ratio(hits.sum(), self._asked.sum())) for name, hits in zip(layers, self._hits, strict=True)}
        return {**out, "by_layer": layers}


def _mean(values: np.ndarray) -> float:
    return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")
