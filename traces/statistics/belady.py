"""Hits of a clairvoyant cache (Belady's MIN) of any size, one for each layer.

MIN drops the expert whose next use is farthest (Belady, IBM Systems Journal 5, 1966); what is accessed is always
brought in. It is a stack algorithm (Mattson et al., IBM Systems Journal 9, 1970): the accessed expert goes to the top
of a stack, what was there moves down, and at every place the expert needed sooner stays while the other moves on,
down to where the accessed expert was. Knowing of each expert only its next use is enough, and all layers move together.
"""

from __future__ import annotations

import numpy as np

_NEVER = 1 << 60  # plus its id: the next use of an expert that is not used again
_EMPTY = 1 << 62  # a place of the stack without an expert


class FirstUses:
    """For each block of a trace, when each expert is first used in it: all that MIN must know of what comes later."""

    def __init__(self, layers: int, num_experts: int) -> None:
        self._shape = (layers, num_experts)
        self._blocks: list[np.ndarray] = []
        self._time = 0

    def add(self, experts: np.ndarray) -> None:
        """`experts` [tokens, layers, slots], -1: none, is the next block."""
        tokens, layers, slots = experts.shape
        first = _never(*self._shape)
        times = np.arange(self._time, self._time + tokens * slots)[::-1]
        for layer in range(layers):
            ids = experts[::-1, layer, ::-1].ravel()  # backwards, so that the first use is written last
            first[layer, ids[ids >= 0]] = times[ids >= 0]
        self._blocks.append(first)
        self._time += tokens * slots

    def after(self) -> list[np.ndarray]:
        """For each block, when each expert is first used after it; int64 [layers, num_experts]."""
        tables, later = [], _never(*self._shape)
        for first in reversed(self._blocks):
            tables.append(later)
            later = np.minimum(first, later)
        return tables[::-1]


def _never(layers: int, num_experts: int) -> np.ndarray:
    return np.tile(_NEVER + np.arange(num_experts, dtype=np.int64), (layers, 1))


def next_uses(experts: np.ndarray, after: np.ndarray, start: int) -> np.ndarray:
    """When the expert of each access of a block is used next.

    experts  [tokens, layers, slots], -1: none
    after    [layers, num_experts]: first uses after the block
    start    time of the block's first slot
    Returns int64 [tokens * slots, layers], _EMPTY where there is no access.
    """
    tokens, layers, slots = experts.shape
    ids = np.ascontiguousarray(experts.transpose(0, 2, 1).reshape(tokens * slots, layers))
    times = np.empty(ids.shape, dtype=np.int64)
    for layer in range(layers):
        order = np.argsort(ids[:, layer], kind="stable")
        ranked = ids[order, layer]
        final = np.append(ranked[1:] != ranked[:-1], True)
        following = np.append(order[1:] + start, 0)
        following[final] = after[layer, ranked[final]]
        times[order, layer] = following
    times[ids < 0] = _EMPTY
    return times


class BeladyDepths:
    """Histogram of MIN's stack depths by layer; accesses token by token, slot by slot.

    `after` is what `FirstUses.after` says of the same blocks. Places work in turn, like the stages of a
    pipeline: while the top takes an access, place i takes what moved down to it from the access i earlier.
    """

    def __init__(self, layers: int, num_experts: int, after: list[np.ndarray]) -> None:
        shape = (num_experts, layers)
        self._counts = np.zeros(shape, dtype=np.int64)
        self._stack = np.full(shape, _EMPTY, dtype=np.int64)  # next uses, the top first
        self._moving = np.full((2, num_experts + 1, layers), _EMPTY, dtype=np.int64)  # to each place; now, next
        self._now = -np.arange(num_experts, dtype=np.int64)[:, None]  # the access that each place takes
        self._after = iter(after)
        self._time = 0

    def add(self, experts: np.ndarray) -> None:
        """Go on with a block, [tokens, layers, slots], -1: none."""
        times = next_uses(experts, next(self._after), self._time)
        self._run(times)
        self._time += len(times)

    def counts(self) -> np.ndarray:
        """Accesses that hit in caches of more than so many experts, int64 [layers, num_experts]; ends the trace."""
        self._run(np.full(self._stack.shape, _EMPTY, dtype=np.int64))  # until the last access is through
        return self._counts.T

    def _run(self, times: np.ndarray) -> None:
        """Let every place take the next accesses: `times` [accesses, layers] of next uses, _EMPTY where there is none.

        The expert accessed now is the one whose next use is now. Its place is emptied and takes what moves down; an
        expert that is not in the stack stops at the first empty place. _EMPTY on the move changes nothing.
        """
        stack, now, (moving, moved) = self._stack, self._now, self._moving
        found = np.empty(stack.shape, dtype=bool)
        recent = np.zeros(stack.shape, dtype=np.uint8)  # counts of at most 255 accesses
        complete = (times != _EMPTY).all(axis=1).tolist()
        for step, following in enumerate(times):
            np.equal(stack, now, out=found)
            np.copyto(stack, _EMPTY, where=found)
            recent += found.view(np.uint8)
            if complete[step]:
                moved[1] = stack[0]
                stack[0] = following
            else:
                asked = following != _EMPTY
                moved[1] = np.where(asked, stack[0], _EMPTY)
                stack[0] = np.where(asked, following, stack[0])
            np.maximum(moving[1:-1], stack[1:], out=moved[2:])
            np.minimum(moving[1:-1], stack[1:], out=stack[1:])
            moving, moved = moved, moving
            now += 1
            if step % 255 == 254:
                self._counts += recent
                recent[:] = 0
        self._counts += recent
        self._moving = np.stack([moving, moved])
