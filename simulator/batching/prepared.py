"""A request's routing in the form in which many steps are counted at once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import numpy as np

from simulator.batching.request import Request
from simulator.batching.steps import StepMaker
from simulator.plan import Plan

KEPT = 256  # of requests whose rows repeat


class Prepared:
    """Experts of a request's rows, of the prompt then of decoding; R rows, L layers, E experts, W words of 64 bits.

    cells   int32 [R, L * k], layer * E + expert, -1 where a slot is empty
    masks   uint64 [R, W, L], bit e of a word says that expert 64 * w + e is asked for
    whole   whether no decode row has an empty slot
    """

    __slots__ = ("_counts", "cells", "experts", "layers", "masks", "whole")

    def __init__(self, rows: np.ndarray, prompt_rows: int, experts: int) -> None:
        self.layers, self.experts = rows.shape[1], experts
        ids = rows.astype(np.int32)
        there = ids >= 0
        offsets = np.arange(self.layers, dtype=np.int32)[:, None] * experts
        self.cells = np.where(there, ids + offsets, -1).reshape(len(ids), -1)
        self.whole = bool(there[prompt_rows:].all())
        decode, bits = ids[prompt_rows:], np.uint64(1)
        words = []
        for word in range(-(-experts // 64)):
            inside = (decode >= 64 * word) & (decode < 64 * word + 64)
            bit = np.where(inside, bits << (np.maximum(decode, 0) & 63).astype(np.uint64), np.uint64(0))
            words.append(np.bitwise_or.reduce(bit, axis=2))
        self.masks = np.stack(words, axis=1)
        self._counts: dict[tuple[int, int], np.ndarray] = {}

    def counts(self, start: int, stop: int) -> np.ndarray:
        """Tokens that each expert serves in some rows, [L, E]."""
        key = start, stop
        if key not in self._counts:
            found = counted(self.cells[start:stop], self.layers * self.experts).reshape(self.layers, self.experts)
            if stop - start < 2 or len(self._counts) > 8:
                return found
            self._counts[key] = found
        return self._counts[key]


class Preparer:
    """Makes them, and keeps those of requests whose rows are those of another.

    `make(rows, prompt_rows)` makes one, from experts [tokens, layers, top_k]; None: `Prepared`.
    """

    def __init__(self, plan: Plan, steps: StepMaker, make: Callable[[np.ndarray, int], Prepared] | None = None) -> None:
        self._plan, self._steps = plan, steps
        self._make = make or (lambda rows, prompt_rows: Prepared(rows, prompt_rows, plan.experts))
        self._kept: OrderedDict[tuple[int, int, int, int], Prepared] = OrderedDict()

    def of(self, request: Request) -> Prepared:
        """That of a request."""
        if not isinstance(request.prepared, Prepared):
            key = request.served.index, request.prompt_rows, request.rows, request.instance
            found = self._kept.get(key) if self._plan.repeats else None
            if found is None:
                self._steps.bind(request)
                parts = [rows.experts for rows in (request.prompt, request.decode) if rows is not None]
                found = self._make(np.concatenate(parts), request.prompt_rows)
                if self._plan.repeats:
                    self._kept[key] = found
                    if len(self._kept) > KEPT:
                        self._kept.popitem(last=False)
            request.prepared = found
        assert isinstance(request.prepared, Prepared)
        return request.prepared


def counted(cells: np.ndarray, size: int) -> np.ndarray:
    """How often each cell is named, [size]; -1 is none."""
    flat = cells.ravel()
    if flat.min(initial=0) < 0:
        flat = flat[flat >= 0]
    return np.bincount(flat, minlength=size)
