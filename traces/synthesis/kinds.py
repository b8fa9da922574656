"""Kinds of requests: clusters of how requests spread over experts."""

from __future__ import annotations

import numpy as np
from scipy.cluster.vq import kmeans2

REQUESTS_PER_KIND, MOST_KINDS = 8, 24


def request_kinds(counts: np.ndarray, seed: int) -> np.ndarray:
    """Cluster of each request, int64 [R], numbered from 0 without gaps.

    counts [R, L, E]: choices. K-means (Lloyd, k-means++ start) on the square roots of the shares, whose
    Euclidean distance is Hellinger's.
    """
    requests = len(counts)
    number = min(MOST_KINDS, max(1, requests // REQUESTS_PER_KIND))
    if number == 1:
        return np.zeros(requests, dtype=np.int64)
    shares = np.sqrt((counts + 0.0) / np.maximum(counts.sum(axis=2, keepdims=True), 1)).reshape(requests, -1)
    _, labels = kmeans2(shares, number, minit="++", seed=np.random.default_rng(seed))
    return np.unique(labels, return_inverse=True)[1].astype(np.int64)
