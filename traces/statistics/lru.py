"""Hits of a least-recently-used cache of any size, one for each layer.

LRU is a stack algorithm (Mattson et al., "Evaluation techniques for storage hierarchies", IBM Systems Journal 9,
1970): an access hits in a cache of C experts if fewer than C others were used since its expert's last use.
"""

from __future__ import annotations

import numpy as np

_NEVER = -1
_ELEMENTS = 1 << 21  # of the table of last uses that is in memory at once


class LruDepths:
    """Histogram of LRU stack depths by layer; accesses token by token, slot by slot.

    `counts` int64 [layers, num_experts]: accesses that hit in caches of more than so many experts.
    `accesses` int64 [layers]: all, first uses included.
    """

    def __init__(self, layers: int, num_experts: int) -> None:
        self.counts = np.zeros((layers, num_experts), dtype=np.int64)
        self.accesses = np.zeros(layers, dtype=np.int64)
        self._last = np.full((num_experts, layers), _NEVER, dtype=np.int32)  # order of last uses

    def add(self, experts: np.ndarray) -> None:
        """Go on with the accesses of `experts`, [tokens, layers, slots], -1: none."""
        layers, num_experts = self.counts.shape
        rows = max(1, _ELEMENTS // (layers * num_experts))
        for start in range(0, len(experts), rows):
            depths, self._last = lru_depths(experts[start : start + rows], self._last)
            for layer in range(layers):
                found = np.bincount(depths[:, :, layer].ravel(), minlength=num_experts + 2)
                self.counts[layer] += found[:num_experts]
                self.accesses[layer] += found[: num_experts + 1].sum()


def lru_depths(experts: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number of other experts used since the last use of each accessed one.

    experts  [tokens, layers, slots], -1: none
    last     int32 [num_experts, layers]: larger means used later, -1: never
    Returns int16 [slots, tokens, layers], num_experts for a first use and num_experts + 1 for no access; and `last`
    after these tokens, as ranks.
    """
    tokens, layers, slots = experts.shape
    num_experts = len(last)
    chosen = np.ascontiguousarray(np.moveaxis(experts, 2, 0))
    used = np.full((num_experts, tokens + 1, layers), _NEVER, dtype=np.int32)
    used[:, 0] = last
    slot, token, layer = np.nonzero(chosen >= 0)
    used[chosen[slot, token, layer], token + 1, layer] = num_experts + token * slots + slot
    np.maximum.accumulate(used, axis=1, out=used)
    before = used[:, :-1]
    own = np.take_along_axis(before, np.maximum(chosen, 0), axis=0)
    depths = np.zeros(chosen.shape, dtype=np.int16)
    for row in before:
        depths += row > own
    for later in range(1, slots):  # experts of earlier slots of the same token, unless counted already
        for earlier in range(later):
            depths[later] += (own[earlier] < own[later]) & (chosen[earlier] >= 0)
    depths[own == _NEVER] = num_experts
    depths[chosen < 0] = num_experts + 1
    ranks = used[:, -1].argsort(axis=0, kind="stable").argsort(axis=0, kind="stable").astype(np.int32)
    ranks[used[:, -1] == _NEVER] = _NEVER
    return depths, ranks
