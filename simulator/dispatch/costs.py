"""Costs of the kernels around experts, put where they run on a worker; and of experts one after the other."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from hwmodels import Device, Work, is_memory_bound, split_s
from simulator.batching.source import StepSource
from simulator.dispatch.base import Dispatch, tokens_of
from simulator.model import ModelSpec
from simulator.plan import Block, Step
from simulator.runtime.costs import DenseTable, ExpertCosts, Parts, to_ps_array


class DispatchedDense:
    """Dense costs, with the kernels before a layer's experts at the end of its dense part, and those behind them at the
    beginning of the next one's. All workers take the time of the one with most tokens, to which the others pad."""

    def __init__(self, dense: DenseTable, dispatch: Dispatch, device: Device) -> None:
        self._dense, self._dispatch, self._device = dense, dispatch, device
        self._kept: dict[int, tuple[Parts, Parts]] = {}

    def table(self, block: Block, mine: list[int] | None = None) -> list[tuple[Parts, ...]]:
        """As `DenseCosts.table`."""
        rows = self._dense.table(block, mine)
        return [self._row(row, tokens, block.slots) for row, tokens in zip(rows, block.request_tokens, strict=True)]

    def _row(self, row: tuple[Parts, ...], tokens: list[int], slots: list[int]) -> tuple[Parts, ...]:
        slots = slots or list(range(len(tokens)))
        into, back = self._around(max(tokens_of(tokens, slots, self._dispatch.workers)))
        found = [_sum(part, into) for part in row[:-1]] + [row[-1]]
        return (found[0], *(_sum(part, back) for part in found[1:]))

    def _around(self, tokens: int) -> tuple[Parts, Parts]:
        if tokens not in self._kept:
            into, back = self._dispatch.works(tokens)
            self._kept[tokens] = parts_of(into, self._device), parts_of(back, self._device)
        return self._kept[tokens]


class SequentialExperts(ExpertCosts):
    """Experts that run one after the other, `launches` kernels each, in place of one launch for all."""

    def __init__(self, model: ModelSpec, layer_expert_bytes: list[int], device: Device, launches: int) -> None:
        super().__init__(model, layer_expert_bytes, device)
        self._launches = launches
        self._one_ps = int(to_ps_array(np.asarray(device.launch_overhead_s)))

    def together(self, layer: int, tokens: Sequence[int]) -> Parts:
        """As `ExpertCosts.together`."""
        return self._apart(super().together(layer, tokens), len(tokens))

    def single(self, most: int) -> list[list[Parts]]:
        """As `ExpertCosts.single`."""
        rows = super().single(most)
        shared = {id(row): [self._apart(part, count) for count, part in enumerate(row)] for row in rows}
        return [shared[id(row)] for row in rows]

    def _apart(self, together: Parts, experts: int) -> Parts:
        total, (launch, memory, compute) = together
        more = max(0, self._launches * experts - 1) * self._one_ps
        return total + more, (launch + more, memory, compute)


class RewrittenSteps:
    """Steps of a source as a dispatch makes them, each made once for all workers."""

    def __init__(self, source: StepSource, dispatch: Dispatch) -> None:
        self._source, self._dispatch = source, dispatch
        self._pair: tuple[Step, Step] | None = None

    def step(self, number: int, time_ps: int) -> Step | int | None:
        """As that of the source."""
        step = self._source.step(number, time_ps)
        if not isinstance(step, Step):
            return step
        if self._pair is None or self._pair[0] is not step:
            self._pair = step, self._dispatch.rewrite(step)
        return self._pair[1]


def parts_of(works: Sequence[Work], device: Device) -> Parts:
    """ps of operations one after the other, in all and by what bounds them."""
    parts_s = np.zeros(3)
    for work in works:
        overhead, busy = (float(part) for part in split_s(work, device))
        memory = bool(is_memory_bound(work, device))
        parts_s += (overhead, busy if memory else 0.0, 0.0 if memory else busy)
    launch, memory_ps, compute = to_ps_array(parts_s).tolist()
    return launch + memory_ps + compute, (launch, memory_ps, compute)


def _sum(one: Parts, other: Parts) -> Parts:
    split = (one[1][0] + other[1][0], one[1][1] + other[1][1], one[1][2] + other[1][2])
    return one[0] + other[0], split
