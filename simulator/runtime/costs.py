"""Tables of how long work takes on a worker, in integer picoseconds, made before the event loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import numpy as np

from hwmodels import Device, Work, floor_s, is_memory_bound, time_s
from simulator.engine import PS_PER_S
from simulator.model import ModelSpec
from simulator.plan import Block

KEPT_COSTS, KEPT_BLOCKS = 64, 256  # tables of equal work are made once for all runs of a process
OVERHEAD, MEMORY, COMPUTE = range(3)  # what bounds an operation: launches, HBM or DRAM, arithmetic
T = TypeVar("T")
Parts = tuple[int, tuple[int, int, int]]  # total ps, and that by what bounds it


def _parts_s(work: Work, device: Device, ideal: bool) -> np.ndarray:
    """Seconds of one operation by what bounds it: [..., 3]; `ideal`: what physics allows."""
    total = np.asarray(floor_s(work, device) if ideal else time_s(work, device))
    overhead = np.where(total > 0, 0.0 if ideal else device.launch_overhead_s, 0.0)
    busy = total - overhead
    memory = is_memory_bound(work, device)
    return np.stack([overhead, np.where(memory, busy, 0.0), np.where(memory, 0.0, busy)], axis=-1)


def to_ps_array(duration_s: np.ndarray) -> np.ndarray:
    """Seconds to int64 picoseconds, rounded to the nearest."""
    return np.rint(np.asarray(duration_s, dtype=np.float64) * PS_PER_S).astype(np.int64)


class _Kept(dict[Any, T]):
    """What was made for a key; the oldest go when there are more than `most`.

    Keys may hold the id of an object if what is kept holds the object itself.
    """

    def __init__(self, most: int) -> None:
        super().__init__()
        self._most = most

    def of(self, key: Any, make: Callable[[], T]) -> T:
        if key not in self:
            if len(self) >= self._most:
                del self[next(iter(self))]
            self[key] = make()
        return self[key]


class DenseCosts:
    """Everything but routed experts: per routed layer, what runs from the previous routed layer's end
    to its router; and after the last routed layer. For one worker.
    """

    @classmethod
    def of(cls, model: ModelSpec, device: Device, ideal: bool = False) -> DenseCosts:
        """The costs of this model on this device, with the tables that earlier runs made."""
        return _DENSE.of((id(model), id(device), ideal), lambda: cls(model, device, ideal))

    def __init__(self, model: ModelSpec, device: Device, ideal: bool = False) -> None:
        self._model = model
        self._device = device
        self._ideal = ideal
        self._kept: _Kept[list[tuple[Parts, ...]]] = _Kept(KEPT_BLOCKS)
        moe = set(model.moe_layers)
        self._kinds = [
            (
                model.attention_pattern[layer % len(model.attention_pattern)],
                layer in moe,
                layer < model.encoder_layers,
            )
            for layer in range(model.layers)
        ]

    def table(self, block: Block, mine: list[int] | None = None) -> list[tuple[Parts, ...]]:
        """Per step of the block, per routed layer and once more for the tail: (ps, (launch, memory, compute)).

        `mine` are the indices of the requests that this worker serves (None: all).
        """
        lengths = (tuple(map(tuple, rows)) for rows in (block.request_tokens, block.kv_tokens))
        return self._kept.of((*lengths, None if mine is None else tuple(mine)), lambda: self._table(block, mine))

    def _table(self, block: Block, mine: list[int] | None) -> list[tuple[Parts, ...]]:
        layers = len(self._model.moe_layers)
        tokens = np.array([sum(_of(row, mine)) for row in block.request_tokens], dtype=np.float64)
        sampled = np.array([len(_of(row, mine)) for row in block.kv_tokens], dtype=np.float64)
        cache: dict[tuple[str, bool, bool], np.ndarray] = {}
        stretches: list[list[tuple[str, bool, bool]]] = [[]]  # kinds of layers up to each routed one, then the rest
        for kind in self._kinds:
            stretches[-1].append(kind)
            if kind[1]:
                stretches.append([])
        rows: dict[tuple[object, ...], list[Parts]] = {}
        order = []
        for index, stretch in enumerate(stretches):
            key = (index == 0, index == layers, *stretch)  # equal stretches share one table
            order.append(key)
            if key in rows:
                continue
            parts_s = np.zeros((len(tokens), 3))
            if index == 0:
                parts_s = parts_s + self._sum([self._model.embedding_work(tokens)])
            for kind in stretch:
                if kind not in cache:
                    cache[kind] = self._layer(self._kinds.index(kind), block, mine, tokens)
                parts_s = parts_s + cache[kind]
            if index == layers:
                parts_s = parts_s + self._sum(self._model.head_work(sampled))
            rows[key] = [
                (launch + memory + compute, (launch, memory, compute))
                for launch, memory, compute in to_ps_array(parts_s).tolist()
            ]
        columns = [rows[key] for key in order]
        return list(zip(*columns, strict=True))

    def _layer(self, layer: int, block: Block, mine: list[int] | None, tokens: np.ndarray) -> np.ndarray:
        """[steps, 3] seconds. Attention is summed over the requests of a step, the rest is batched."""
        kv = np.array([_of(row, mine) for row in block.kv_tokens], dtype=np.float64)
        new = np.array([_of(row, mine) for row in block.request_tokens], dtype=np.float64)
        if kv.shape[1] == 0:
            return np.zeros((len(tokens), 3))
        batched = self._model.layer_dense_work(layer, tokens, kv.max(axis=1))
        if kv.shape[1] == 1:
            return self._sum(batched)
        single = self._model.layer_dense_work(layer, new, kv)  # each request by itself, [steps, requests]
        works = []
        for together, alone in zip(batched, single, strict=True):
            if together.kind == "attention":
                flops = np.broadcast_to(alone.flops, kv.shape).sum(axis=1)
                size_bytes = np.broadcast_to(alone.size_bytes, kv.shape).sum(axis=1)
                together = Work(alone.kind, alone.dtype, flops, size_bytes)
            works.append(together)
        return self._sum(works)

    def _sum(self, works: list[Work]) -> np.ndarray:
        """Seconds by what bounds them, [..., 3]."""
        return sum((_parts_s(work, self._device, self._ideal) for work in works), np.zeros(3))


def _of(row: list[int], mine: list[int] | None) -> list[int]:
    return row if mine is None else [row[i] for i in mine if i < len(row)]


class ExpertCosts:
    """Routed experts on a processor: ps by tokens served, without launch; grown on demand."""

    def __init__(self, model: ModelSpec, layer_expert_bytes: list[int], device: Device, ideal: bool = False) -> None:
        self.launch_ps = 0 if ideal else int(to_ps_array(np.asarray(device.launch_overhead_s)))
        per_size = {}
        for size in sorted(set(layer_expert_bytes)):
            variant = model if size == model.expert_bytes else model.with_experts_bits(8 * size / model.expert_params)
            key = (id(model), id(device), size, ideal)
            per_size[size] = _EXPERTS.of(key, functools.partial(_ExpertTable, model, variant, device, ideal))
        self._tables = [per_size[size] for size in layer_expert_bytes]

    def of(self, layer: int, tokens: int) -> tuple[int, int]:
        """(ps, MEMORY or COMPUTE) of one expert of this routed layer serving `tokens` tokens."""
        return self._tables[layer].of(tokens)

    def single(self, most: int) -> list[list[Parts]]:
        """[layer][n]: n experts that serve one token each, run as one launch; n up to `most`."""
        table = []
        for expert in self._tables:
            cost_ps, bound = expert.of(1)
            table.append([self._parts(cost_ps * n, bound) if n else (0, (0, 0, 0)) for n in range(most + 1)])
        return table

    def together(self, layer: int, tokens: Iterable[int]) -> Parts:
        """Experts that serve the given tokens each, run as one launch."""
        memory = compute = 0
        for count in tokens:
            cost_ps, bound = self.of(layer, count)
            if bound == MEMORY:
                memory += cost_ps
            else:
                compute += cost_ps
        return self.launch_ps + memory + compute, (self.launch_ps, memory, compute)

    def _parts(self, cost_ps: int, bound: int) -> Parts:
        split = (self.launch_ps, cost_ps, 0) if bound == MEMORY else (self.launch_ps, 0, cost_ps)
        return self.launch_ps + cost_ps, split


class _ExpertTable:
    def __init__(self, origin: ModelSpec, model: ModelSpec, device: Device, ideal: bool) -> None:
        self._origin = origin  # kept, as its id is part of the key
        self._model, self._device, self._ideal = model, device, ideal
        self._rows: list[tuple[int, int]] = []
        self._grow(64)

    def of(self, tokens: int) -> tuple[int, int]:
        if tokens >= len(self._rows):
            self._grow(2 * tokens)
        return self._rows[tokens]

    def _grow(self, tokens: int) -> None:
        parts = to_ps_array(_parts_s(self._model.expert_work(np.arange(tokens + 1)), self._device, self._ideal))
        memory, compute = parts[:, MEMORY], parts[:, COMPUTE]
        bound = np.where(memory >= compute, MEMORY, COMPUTE)
        self._rows = list(zip((memory + compute).tolist(), bound.tolist(), strict=True))


_DENSE: _Kept[DenseCosts] = _Kept(KEPT_COSTS)
_EXPERTS: _Kept[_ExpertTable] = _Kept(KEPT_COSTS)
