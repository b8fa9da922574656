"""What a model is held to: a few means per layer, of real or of drawn routing."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from traces.statistics.hits import capacity
from traces.statistics.lru import LruDepths

NEAR, MIDDLE = 1, (2, 4, 8, 16)  # lags in tokens
_SCORES = 1 << 17  # of experts, computed for a layer


@dataclass(frozen=True, eq=False)
class Moments:
    """Means over tokens by layer.

    use [L, E] choices per token; near, middle [L] share of a token's experts chosen NEAR, MIDDLE tokens before too;
    within [L] the same for two tokens of a request drawn at random; recall [L] share of the experts among the k that
    `tables` ranks highest given those of the layer before, 0 for the first layer;
    hits [L] hit rate of an LRU cache of half a layer's experts, kept from request to request
    """

    use: np.ndarray
    near: np.ndarray
    middle: np.ndarray
    within: np.ndarray
    recall: np.ndarray
    hits: np.ndarray


def moments(
    requests: list[np.ndarray], num_experts: int, tables: np.ndarray | None = None, folds: np.ndarray | None = None
) -> Moments:
    """Of requests [tokens, L, k] each.

    tables  [F, L, E, E] scores of an expert of layer l, given one of layer l - 1; without them `recall` is 0
    folds   [requests] which of the tables each request is scored by (default: the first)
    """
    layers, slots = requests[0].shape[1:]
    counts = np.array([use_counts(experts, num_experts) for experts in requests])
    lengths = np.array([len(experts) for experts in requests])
    pairs = (counts * (counts - 1)).sum(axis=2) / (slots * np.maximum(lengths - 1, 1))[:, None]
    within = pairs.sum(axis=0) / lengths.sum()
    return Moments(
        use=counts.sum(axis=0) / lengths.sum(),
        near=_overlap(requests, NEAR),
        middle=np.mean([_overlap(requests, lag) for lag in MIDDLE], axis=0),
        within=within,
        recall=np.zeros(layers) if tables is None else _recall(requests, tables, folds),
        hits=_hits(requests, num_experts),
    )


def use_counts(experts: np.ndarray, num_experts: int) -> np.ndarray:
    """[tokens, L, k] -> choices float64 [L, E]."""
    return np.array(
        [np.bincount(experts[:, layer].ravel(), minlength=num_experts) for layer in range(experts.shape[1])],
        dtype=np.float64,
    )


def _overlap(requests: list[np.ndarray], lag: int) -> np.ndarray:
    shared, tokens = 0.0, 0
    for experts in requests:
        if len(experts) > lag:
            same = experts[lag:, :, :, None] == experts[:-lag, :, None, :]
            shared = shared + same.sum(axis=(0, 2, 3))
            tokens += len(experts) - lag
    return np.asarray(shared) / max(1, tokens * requests[0].shape[2]) * np.ones(requests[0].shape[1])


def _hits(requests: list[np.ndarray], num_experts: int) -> np.ndarray:
    depths = LruDepths(requests[0].shape[1], num_experts)
    depths.add(np.concatenate(requests))
    hits = depths.counts.cumsum(axis=1)[:, capacity(0.5, num_experts) - 1]
    return np.asarray(hits / depths.accesses)


def _recall(requests: list[np.ndarray], tables: np.ndarray, folds: np.ndarray | None) -> np.ndarray:
    layers, slots = requests[0].shape[1:]
    experts = np.concatenate(requests).astype(np.int64)
    fold = np.repeat(np.zeros(len(requests), dtype=int) if folds is None else folds, [len(part) for part in requests])
    stride = max(1, len(experts) * tables.shape[2] // _SCORES)
    experts, fold = experts[::stride], fold[::stride, None]
    found = np.zeros(layers)
    for layer in range(1, layers):
        scores = tables[fold, layer, experts[:, layer - 1]].sum(axis=1)
        best = np.argpartition(-scores, slots - 1, axis=1)[:, :slots]
        found[layer] = (best[:, :, None] == experts[:, layer, None, :]).any(axis=1).mean()
    return found


def transition_tables(experts: np.ndarray, num_experts: int) -> np.ndarray:
    """[tokens, L, k] -> P(expert of layer l | expert of layer l - 1), float32 [L, E, E]; zero for the first layer."""
    layers = experts.shape[1]
    tables = np.zeros((layers, num_experts, num_experts), dtype=np.float32)
    for layer in range(1, layers):
        pairs = experts[:, layer - 1, :, None].astype(np.int64) * num_experts + experts[:, layer, None, :]
        counts = np.bincount(pairs.ravel(), minlength=num_experts**2).reshape(num_experts, num_experts)
        tables[layer] = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return tables
