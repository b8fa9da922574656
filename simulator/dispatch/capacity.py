"""Expert capacity as fairseq defines it, and what goes beyond it. Pure functions of numbers.

In evaluation an expert takes `capacity = ceil(fraction * tokens)` rows from every worker, `tokens` being those of that
worker (`moe_eval_capacity_token_fraction` in fairseq/modules/moe/top2gate.py, branch moe): a fraction of *all* tokens,
not a multiple of an even share. GShard's factor (arXiv 2006.16668), c * k * tokens / E, is the fraction c * k / E.
"""

from __future__ import annotations

import math

import numpy as np


def capacity_rows(tokens: int, fraction: float) -> int:
    """Rows that an expert takes from a worker with so many tokens."""
    return math.ceil(fraction * tokens)


def waste_factor(experts: int, top_k: int, fraction: float) -> float:
    """Padded rows over routed ones, E * fraction / k; arXiv 2303.06182 has 12.8 (512, 2, 0.05) and 64 (128, 2, 1)."""
    return experts * fraction / top_k


def beyond_capacity(ids: np.ndarray, capacity: int) -> np.ndarray:
    """Which choices find their expert full: ids [tokens, k] (-1: none) of one worker and layer, bool [tokens, k].

    All first choices take their places before all second ones, tokens in order (`locations2 += sum(mask1)` in
    top2gating).
    """
    flat = ids.T.ravel()
    order = np.argsort(flat, kind="stable")
    ranked = flat[order]
    first = np.searchsorted(ranked, ranked)  # where this expert's choices begin
    place = np.empty(len(flat), dtype=np.int64)
    place[order] = np.arange(len(flat)) - first
    return ((place >= capacity) & (flat >= 0)).reshape(ids.shape[::-1]).T
