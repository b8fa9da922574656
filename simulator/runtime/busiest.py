"""What the busiest GPU sends to experts or receives for its own, for many layers and steps at once.

The numbers of `Exchange.busiest_bytes`, without the matrix of all pairs. A worker's GPU of group g sends its share of
c[g, p] tokens to each of `each` GPUs of each worker of part p, but to one GPU less of its own worker, itself: sums over
receivers and over senders are products with how many workers a part and a group have.
"""

from __future__ import annotations

import numpy as np

from simulator.runtime.ranks import Ranks


def busiest_bytes(ranks: Ranks, counts: np.ndarray, hidden_bytes: int) -> np.ndarray:
    """[...] bytes, from the tokens of each group that have experts of each part, [..., groups, parts]; one stage."""
    places = ranks.places[: ranks.per_stage]
    groups, parts = np.array([place.group for place in places]), np.array([place.part for place in places])
    tp = ranks.layout.tp if ranks.layout is not None else 1
    of_part, of_group = np.bincount(parts, minlength=ranks.parts), np.bincount(groups, minlength=ranks.groups)

    def bytes_to(gpus: int) -> np.ndarray:
        found: np.ndarray = -(-counts * gpus * hidden_bytes // tp)
        return found

    out = bytes_to(ranks.each)
    own = (bytes_to(ranks.each - 1) - out)[..., groups, parts]
    sent = (out * of_part).sum(axis=-1)[..., groups] + own
    received = (out * of_group[:, None]).sum(axis=-2)[..., parts] + own
    busiest: np.ndarray = np.maximum(sent, received).max(axis=-1)
    return busiest
