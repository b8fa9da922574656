"""How much each expert of a layer matters to the prompt of a step."""

from __future__ import annotations

import numpy as np

from simulator.routing import summed


def prompt_importance(ids: np.ndarray, weights: np.ndarray, experts: int, alpha: float) -> np.ndarray:
    """alpha x share of the tokens' choices + (1 - alpha) x share of their gate weight, [experts], sums to 1.

    ids, weights: [n, k], -1 and 0 in empty slots. Context-aware GPU-NDP (arXiv 2512.04476). By what it normalises both
    terms is not known to us: here by their sums.
    """
    chosen = ids[ids >= 0]
    counts = np.bincount(chosen, minlength=experts).astype(np.float64)
    scores = np.zeros(experts)
    for expert, weight in summed(ids, weights).items():
        scores[expert] = weight
    return alpha * counts / max(1.0, counts.sum()) + (1 - alpha) * scores / max(1e-30, scores.sum())


def check_alpha(alpha: float, where: str) -> None:
    """Raises ValueError unless 0 <= alpha <= 1; `where` names the role."""
    if not 0 <= alpha <= 1:
        raise ValueError(f"policy.{where}.alpha is {alpha}; expected a number from 0 to 1.")
