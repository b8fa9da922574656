"""Plackett-Luce likelihood of ranked choices, and its gradient."""

from __future__ import annotations

import numpy as np


def ranked_loss(scores: np.ndarray, chosen: np.ndarray) -> tuple[float, np.ndarray]:
    """Mean negative log-likelihood in nats of `chosen` [n, k] in rank order, and its gradient by `scores` [n, E].

    Choice j is softmax(scores) over what the choices before it have left. `scores` is overwritten.
    """
    scores -= scores.max(axis=1, keepdims=True)
    own = np.take_along_axis(scores, chosen, axis=1)
    weights = np.exp(scores, out=scores)
    taken = np.take_along_axis(weights, chosen, axis=1)
    left = weights.sum(axis=1, keepdims=True) - taken.cumsum(axis=1) + taken
    left = np.maximum(left, np.maximum(taken, 1e-20))
    loss = float((np.log(left) - own).sum() / len(scores))
    inverse = 1.0 / left
    weights *= inverse.sum(axis=1, keepdims=True)
    np.put_along_axis(weights, chosen, taken * inverse.cumsum(axis=1) - 1.0, axis=1)
    weights /= len(scores)
    return loss, weights
