"""The tokens of a trace in blocks of bounded size, whatever the lengths of its requests."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

BLOCK_TOKENS = 4096


def blocks(pieces: Iterable[np.ndarray], tokens: int = BLOCK_TOKENS) -> Iterator[np.ndarray]:
    """Cut and join `pieces`, [any, ...] each, along their first axis into blocks of `tokens`; the last may be shorter.

    >>> [block.tolist() for block in blocks([np.arange(3), np.arange(3, 5)], tokens=2)]
    [[0, 1], [2, 3], [4]]
    """
    kept: list[np.ndarray] = []
    length = 0
    for piece in pieces:
        while len(piece):
            part = piece[: tokens - length]
            kept.append(part)
            length += len(part)
            piece = piece[len(part) :]
            if length == tokens:
                yield np.concatenate(kept)
                kept, length = [], 0
    if kept:
        yield np.concatenate(kept)
