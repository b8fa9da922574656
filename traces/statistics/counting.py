"""Counting experts and ranking them by scores: what the other statistics are made of."""

from __future__ import annotations

import numpy as np

from traces.schema import RequestTrace


def expert_counts(experts: np.ndarray, num_experts: int) -> np.ndarray:
    """[tokens, layers, slots] expert ids (-1: none) -> how often each was chosen, int64 [layers, num_experts].

    >>> expert_counts(np.array([[[0, 2]], [[2, -1]]]), 3).tolist()  # two tokens, one layer
    [[1, 0, 2]]
    """
    layers = experts.shape[1]
    counts = [np.bincount(experts[:, layer].ravel() + 1, minlength=num_experts + 1)[1:] for layer in range(layers)]
    return np.array(counts, dtype=np.int64)


def routed_tokens(experts: np.ndarray) -> np.ndarray:
    """[tokens, layers, slots] expert ids -> tokens with at least one expert, int64 [layers]."""
    found: np.ndarray = (experts >= 0).any(axis=2).sum(axis=0, dtype=np.int64)
    return found


def places(scores: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Rank of the chosen experts by descending score, 0 for the best; of equals the lower id comes first.

    scores  [num_experts, n], a score for each expert
    chosen  [slots, n] expert ids; the rank of -1 (no expert) is num_experts
    Returns int32 [slots, n].
    """
    own = np.take_along_axis(scores, np.maximum(chosen, 0), axis=0)
    rank = np.zeros(chosen.shape, dtype=np.int32)
    for expert, score in enumerate(scores):
        rank += (score > own) | ((score == own) & (expert < chosen))
    rank[chosen < 0] = len(scores)
    return rank


def ratio(part: np.ndarray | float, whole: np.ndarray | float) -> np.ndarray:
    """`part` / `whole` in float64, NaN where `whole` is 0."""
    part, whole = np.asarray(part, dtype=np.float64), np.asarray(whole, dtype=np.float64)
    return np.divide(part, whole, out=np.full(np.broadcast_shapes(part.shape, whole.shape), np.nan), where=whole > 0)


def shuffled_order(request: RequestTrace, seed: int) -> np.ndarray:
    """A permutation of the tokens of a request, always the same for a seed and a request's id."""
    return np.random.default_rng([seed, request.id]).permutation(request.tokens)


def shared_mass(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Similarity of how two sets of tokens spread over experts: 1 - total variation distance.

    [..., layers, experts] counts each -> [...], the mean over the layers that both have counts in; 1 if the
    distributions are the same, 0 if no expert is used by both; NaN if no layer has counts in both.
    """
    totals = one.sum(axis=-1), other.sum(axis=-1)
    both = (totals[0] > 0) & (totals[1] > 0)
    shares = [counts / np.maximum(total, 1)[..., None] for counts, total in zip((one, other), totals, strict=True)]
    overlap = np.minimum(*shares).sum(axis=-1)
    return ratio(np.where(both, overlap, 0.0).sum(axis=-1), both.sum(axis=-1))
