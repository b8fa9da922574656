"""How often an accelerator reads an expert's weights in a layer, by the order in which it takes tokens and experts."""

from __future__ import annotations

import numpy as np


def visits(ids: np.ndarray, experts: int, window: int | None = None, queue: int | None = None) -> dict[int, list[int]]:
    """Expert -> tokens served in each of its visits, in order; an expert's weights are read once per visit.

    ids [n, k] are the experts of each token, -1 in empty slots. Tokens are collected in queues, one for each expert.
    `window` tokens on (None: at the end of all), every queue that is not empty is served, and before that each queue
    that holds `queue` tokens (None: any number). So window 1 is token by token, None and None expert by expert
    (Edge-MoE, arXiv 2305.18691), and queues between are those of an out-of-order router (Space-Mate, ISSCC 2024).
    That an expert may still be there when its next visit begins does not count. Reads are those of the worker's own
    memory; what has to be copied there first is copied once.
    """
    tokens = len(ids)
    size = tokens if window is None else min(window, tokens)
    if not tokens:
        return {}
    token, slot = np.nonzero(ids >= 0)
    served = np.zeros((-(-tokens // size), experts), dtype=np.int64)
    np.add.at(served, (token // size, ids[token, slot]), 1)
    found: dict[int, list[int]] = {}
    for expert in np.flatnonzero(served.any(axis=0)).tolist():
        counts = served[:, expert]
        found[expert] = [part for count in counts[counts > 0].tolist() for part in _parts(count, queue)]
    return found


def _parts(count: int, most: int | None) -> list[int]:
    """A number as as many whole `most` as fit, and the rest."""
    if most is None or count <= most:
        return [count]
    whole, rest = divmod(count, most)
    return [most] * whole + [rest] * (rest > 0)
