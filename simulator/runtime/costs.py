"""Tables of how long work takes on a worker, in integer picoseconds, made before the event loop."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any, Protocol, TypeVar

import numpy as np

from hwmodels import Device, Work, floor_s, is_memory_bound, split_s
from hwmodels.kernels.moe import TILES
from simulator.engine import PS_PER_S
from simulator.model import ModelSpec
from simulator.plan import Block

KEPT_COSTS, KEPT_BLOCKS, KEPT_LAUNCHES = 64, 256, 8192  # tables of equal work are made once for all runs of a process
KEPT_FIRSTS = 4096  # of launches of one expert, two, three, ... of a layer
OVERHEAD, MEMORY, COMPUTE = range(3)  # what bounds an operation: launches, HBM or DRAM, arithmetic
T = TypeVar("T")
Parts = tuple[int, tuple[int, int, int]]  # total ps, and that by what bounds it
Stretch = tuple[bool, bool, tuple[int, ...]]  # with the embedding, with the head, layers by the first of their kind


def _parts_s(work: Work, device: Device, ideal: bool) -> np.ndarray:
    """Seconds of one operation by what bounds it: [..., 3]; `ideal`: what physics allows."""
    overhead, busy = (np.zeros_like(work.flops), floor_s(work, device)) if ideal else split_s(work, device)
    memory = is_memory_bound(work, device)
    return np.stack([overhead, np.where(memory, busy, 0.0), np.where(memory, 0.0, busy)], axis=-1)


def to_ps_array(duration_s: np.ndarray) -> np.ndarray:
    """Seconds to int64 picoseconds, rounded to the nearest."""
    return np.rint(np.asarray(duration_s, dtype=np.float64) * PS_PER_S).astype(np.int64)


class Kept(dict[Any, T]):
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

    def latest(self, key: Any, make: Callable[[], T]) -> T:
        """As `of`, but what was asked for longest ago goes first."""
        found = self.of(key, make)
        del self[key]
        self[key] = found
        return found


class DenseCosts:
    """Everything but routed experts: per routed layer, what runs from the previous routed layer's end
    to its router; and after the last routed layer. For one worker.
    """

    @classmethod
    def of(cls, model: ModelSpec, device: Device, ideal: bool = False) -> DenseCosts:
        """The costs of this model on this device, with the tables that earlier runs made."""
        return _DENSE.latest((id(model), id(device), ideal), lambda: cls(model, device, ideal))

    def __init__(self, model: ModelSpec, device: Device, ideal: bool = False) -> None:
        self.model = self._model = model
        self._device = device
        self._ideal = ideal
        self._kept: Kept[list[tuple[Parts, ...]]] = Kept(KEPT_BLOCKS)
        moe = set(model.moe_layers)
        self._kinds = [
            (
                model.attention_pattern[layer % len(model.attention_pattern)],
                layer in moe,
                layer < model.encoder_layers,
            )
            for layer in range(model.layers)
        ]
        self.stretches: list[Stretch] = []
        """From one routed layer's end to the next one's router, in order, then the rest; layers by kind."""
        kinds: list[int] = []
        for layer in range(model.layers):
            kinds.append(self._kinds.index(self._kinds[layer]))
            if layer in moe:
                self.stretches.append((not self.stretches, False, tuple(kinds)))
                kinds = []
        self.stretches.append((not self.stretches, True, tuple(kinds)))

    def table(self, block: Block, mine: list[int] | None = None) -> list[tuple[Parts, ...]]:
        """Per step of the block, per routed layer and once more for the tail: (ps, (launch, memory, compute)).

        `mine` are the indices of the requests that this worker serves (None: all).
        """
        lengths = (tuple(map(tuple, rows)) for rows in (block.request_tokens, block.kv_tokens))
        wanted = None if block.samples is None else tuple(map(tuple, block.samples))
        key = (*lengths, block.mixed, wanted, None if mine is None else tuple(mine))
        return self._kept.of(key, lambda: self._table(block, mine))

    def _table(self, block: Block, mine: list[int] | None) -> list[tuple[Parts, ...]]:
        tokens = np.array([sum(rows_of_requests(row, mine)) for row in block.request_tokens], dtype=np.float64)
        wanted = block.samples or [[1] * len(row) for row in block.kv_tokens]
        sampled = np.array([sum(rows_of_requests(row, mine)) for row in wanted], dtype=np.float64)
        ends_s = self.embedding_s(tokens), self.head_s(sampled)
        cache: dict[int, np.ndarray] = {}
        rows: dict[Stretch, list[Parts]] = {}
        for stretch in self.stretches:
            if stretch in rows:  # equal stretches share one table
                continue
            for layer in stretch[2]:
                if layer not in cache:
                    cache[layer] = self._layer(layer, block, mine, tokens)
            parts_s = stretch_s(stretch, cache, *ends_s)
            rows[stretch] = [
                (launch + memory + compute, (launch, memory, compute))
                for launch, memory, compute in to_ps_array(parts_s).tolist()
            ]
        columns = [rows[stretch] for stretch in self.stretches]
        return list(zip(*columns, strict=True))

    def works_s(self, works: list[Work]) -> np.ndarray:
        """Seconds of some operations by what bounds them, [..., 3]."""
        return self._sum(works)

    def embedding_s(self, tokens: np.ndarray) -> np.ndarray:
        """[steps, 3] seconds of looking up so many tokens."""
        return self._sum([self._model.embedding_work(tokens)])

    def head_s(self, sampled: np.ndarray) -> np.ndarray:
        """[steps, 3] seconds of the final norm and the head for so many tokens."""
        return self._sum(self._model.head_work(sampled))

    def _layer(self, layer: int, block: Block, mine: list[int] | None, tokens: np.ndarray) -> np.ndarray:
        """[steps, 3] seconds. Attention is summed over the requests of a step, the rest is batched."""
        kv = np.array([rows_of_requests(row, mine) for row in block.kv_tokens], dtype=np.float64)
        new = np.array([rows_of_requests(row, mine) for row in block.request_tokens], dtype=np.float64)
        if kv.shape[1] == 0:
            return np.zeros((len(tokens), 3))
        return self.tokenwise_s(layer, tokens) + self.attention_s(layer, new, kv, block.mixed)

    def tokenwise_s(self, layer: int, tokens: np.ndarray) -> np.ndarray:
        """[steps, 3] seconds of all of a layer but its attention, for so many tokens in each step."""
        works = self._model.layer_dense_work(layer, tokens, tokens)
        return self._sum([work for work in works if work.kind != "attention"])

    def attention_s(self, layer: int, new: np.ndarray, kv: np.ndarray, mixed: bool = False) -> np.ndarray:
        """[steps, 3] seconds of a layer's attention; new tokens and context length of each request, [steps, requests].

        The requests of a step run in one launch; where they are `mixed`, those of one new token in one, the others in
        another.
        """
        works = [work for work in self._model.layer_dense_work(layer, new, kv) if work.kind == "attention"]
        if mixed:
            return self._sum([joined(work, new == 1) for work in works]) + self._sum(
                [joined(work, new > 1) for work in works]
            )
        if kv.shape[1] == 1:
            return self._sum([_flat(work) for work in works])
        return self._sum([joined(work, new > 0) for work in works])

    def _sum(self, works: list[Work]) -> np.ndarray:
        """Seconds by what bounds them, [..., 3]."""
        return sum((_parts_s(work, self._device, self._ideal) for work in works), np.zeros(3))


def stretch_s(
    stretch: Stretch, layers_s: Mapping[int, np.ndarray], embedding_s: np.ndarray, head_s: np.ndarray
) -> np.ndarray:
    """Seconds of a stretch, from those of its layers by the first of their kind; all of shape [..., 3]."""
    first, last, layers = stretch
    parts_s = embedding_s if first else np.zeros(embedding_s.shape)
    for layer in layers:
        parts_s = parts_s + layers_s[layer]
    return parts_s + head_s if last else parts_s


class DenseTable(Protocol):
    """Dense costs by block, as `DenseCosts.table`."""

    def table(self, block: Block, mine: list[int] | None = None) -> list[tuple[Parts, ...]]: ...


class HostedDense:
    """Dense costs of a worker, but those of the host CPU for some routed layers (`on_host`, one flag for each)."""

    def __init__(self, worker: DenseTable, host: DenseTable, on_host: Sequence[bool]) -> None:
        self.worker, self._host, self.on_host = worker, host, (*on_host, False)

    def table(self, block: Block, mine: list[int] | None = None) -> list[tuple[Parts, ...]]:
        """As `DenseCosts.table`."""
        both = zip(self.worker.table(block, mine), self._host.table(block, mine), strict=True)
        return [
            tuple(there if hosted else here for here, there, hosted in zip(*rows, self.on_host, strict=True))
            for rows in both
        ]


def _flat(work: Work) -> Work:
    """The work of steps of one request, [steps, 1], as [steps]."""
    shape = {name: value if np.ndim(value) == 0 else np.asarray(value).ravel() for name, value in work.shape.items()}
    return replace(work, flops=work.flops.ravel(), size_bytes=work.size_bytes.ravel(), shape=shape)


def joined(work: Work, there: np.ndarray) -> Work:
    """Attention of the requests of a step that are `there` in one launch, from that of each, [steps, requests].

    A kernel model takes sequences of one length: in decode the mean, in prefill the root of the mean square, as the
    work grows with the length and with its square.
    """
    shape = {name: np.asarray(value, dtype=np.float64) for name, value in work.shape.items()}
    count = np.maximum(there.sum(axis=1), 1)

    def mean(value: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(there, value, 0.0).sum(axis=1) / count)

    decode = np.where(there, shape["tokens"], 0.0).max(axis=1) <= 1
    square = {name: np.sqrt(mean(shape[name] ** 2)) for name in ("tokens", "kv_len")}
    joined = {name: np.where(decode, mean(shape[name]), square[name]) for name in square}
    return replace(
        work,
        flops=np.where(there, work.flops, 0.0).sum(axis=1),
        size_bytes=np.where(there, work.size_bytes, 0.0).sum(axis=1),
        shape={**work.shape, **joined, "sequences": there.sum(axis=1).astype(np.float64)},
    )


def rows_of_requests(row: list[int], mine: list[int] | None) -> list[int]:
    """Of one number for each request of a step, those of `mine` (None: all)."""
    return row if mine is None else [row[i] for i in mine if i < len(row)]


class ExpertCosts:
    """Routed experts on a processor, by layer and the tokens that each expert serves."""

    def __init__(self, model: ModelSpec, layer_expert_bytes: list[int], device: Device, ideal: bool = False) -> None:
        per_size = {}
        for size in sorted(set(layer_expert_bytes)):
            variant = model if size == model.expert_bytes else model.with_experts_bits(8 * size / model.expert_params)
            key = (id(model), id(device), size, ideal)
            make = _KernelTable if device.engine and not ideal else _AdditiveTable
            per_size[size] = _EXPERTS.latest(key, functools.partial(make, model, variant, device, ideal))
        self._tables = [per_size[size] for size in layer_expert_bytes]
        self.alike = len(per_size) == 1
        """Whether experts of all layers have one size."""

    def alone_ps(self, layer: int, tokens: int) -> int:
        """One expert that serves so many tokens, without launch."""
        return self._tables[layer].alone_ps(tokens)

    def launch_ps(self, layer: int = 0) -> int:
        """What starting one expert costs before it does anything."""
        return self._tables[layer].together((1,))[1][0]

    def single(self, most: int) -> list[list[Parts]]:
        """[layer][n]: n experts that serve one token each, run as one launch; n up to `most`."""
        tables = {id(table): table for table in self._tables}
        rows = {key: [table.together((1,) * n) for n in range(most + 1)] for key, table in tables.items()}
        return [rows[id(table)] for table in self._tables]

    def together(self, layer: int, tokens: Sequence[int]) -> Parts:
        """Experts that serve the given tokens each, run as one launch."""
        return self._tables[layer].together(tokens)

    def firsts_ps(self, layer: int, tokens: Sequence[int]) -> list[int]:
        """[n]: how long the first n of these experts run as one launch, n from 0 to all."""
        return self._tables[layer].firsts_ps(tokens)

    def launches(self, counts: np.ndarray) -> np.ndarray:
        """As `together` for many launches, without the sums: tokens of each expert [..., layers, experts], to ps by
        what bounds it [..., layers, 3]."""
        if self.alike:
            return self._tables[0].launches(counts.reshape(-1, counts.shape[-1])).reshape(*counts.shape[:-1], 3)
        found = np.zeros((*counts.shape[:-1], 3), dtype=np.int64)
        for table in {id(table): table for table in self._tables}.values():
            layers = [layer for layer in range(counts.shape[-2]) if self._tables[layer] is table]
            some = counts[..., layers, :]
            found[..., layers, :] = table.launches(some.reshape(-1, some.shape[-1])).reshape(*some.shape[:-1], 3)
        return found

    def by_active(self, requests: int, experts: int) -> np.ndarray | None:
        """What a layer takes in which so many decoding requests ask for n distinct experts together, ps by what bounds
        it and in all [n, 4], n up to `experts`; None where that depends on which of them serve several."""
        table = self._tables[0]
        return table.by_active(requests, experts) if self.alike and isinstance(table, _KernelTable) else None

    def least_ps(self, layer: int, tokens: Sequence[int]) -> int:
        """What experts that serve the given tokens each take at least, however they are divided into launches."""
        return self._tables[layer].least_ps(tokens)


class _AdditiveTable:
    """Experts of one size one after the other: each costs what its own roofline says, a launch is paid once."""

    def __init__(self, origin: ModelSpec, model: ModelSpec, device: Device, ideal: bool) -> None:
        self._origin = origin  # kept, as its id is part of the key
        self._model, self._device, self._ideal = model, device, ideal
        self._launch_ps = 0 if ideal else int(to_ps_array(np.asarray(device.launch_overhead_s)))
        self._rows: list[tuple[int, int]] = []
        self._array: np.ndarray | None = None
        self._grow(64)

    def together(self, tokens: Sequence[int]) -> Parts:
        if not tokens:
            return 0, (0, 0, 0)
        if max(tokens) >= len(self._rows):
            self._grow(2 * max(tokens))
        memory = compute = 0
        for count in tokens:
            cost_ps, bound = self._rows[count]
            if bound == MEMORY:
                memory += cost_ps
            else:
                compute += cost_ps
        return self._launch_ps + memory + compute, (self._launch_ps, memory, compute)

    def alone_ps(self, tokens: int) -> int:
        if tokens >= len(self._rows):
            self._grow(2 * tokens)
        return self._rows[tokens][0]

    def firsts_ps(self, tokens: Sequence[int]) -> list[int]:
        return [0, *accumulate(map(self.alone_ps, tokens[1:]), initial=self.together(tokens[:1])[0])][: len(tokens) + 1]

    def launches(self, counts: np.ndarray) -> np.ndarray:
        """As `together`: tokens of each expert [launches, experts], to ps by what bounds it [launches, 3]."""
        memory, compute = self.sums(counts)
        return np.stack([np.where((counts > 0).any(axis=1), self._launch_ps, 0), memory, compute], axis=-1)

    def sums(self, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """ps of memory-bound and of compute-bound experts, [launches] each."""
        rows = self.rows(int(counts.max(initial=0)))
        memory = np.where(rows[:, 1] == MEMORY, rows[:, 0], 0)
        compute = rows[:, 0] - memory
        return memory[counts].sum(axis=-1), compute[counts].sum(axis=-1)

    def rows(self, most: int) -> np.ndarray:
        """(ps, what bounds it) of an expert that serves 0, 1, ... up to at least `most` tokens, int64."""
        if most >= len(self._rows):
            self._grow(2 * most)
        if self._array is None or len(self._array) != len(self._rows):
            self._array = np.array(self._rows, dtype=np.int64)
        return self._array

    def least_ps(self, tokens: Sequence[int]) -> int:
        return self.together(tokens)[0]

    def _grow(self, tokens: int) -> None:
        parts = to_ps_array(_parts_s(self._model.expert_work(np.arange(tokens + 1)), self._device, self._ideal))
        memory, compute = parts[:, MEMORY], parts[:, COMPUTE]
        bound = np.where(memory >= compute, MEMORY, COMPUTE)
        self._rows = list(zip((memory + compute).tolist(), bound.tolist(), strict=True))


class _KernelTable:
    """Experts of one size on a GPU, by the model of its engine's grouped GEMMs; launches asked for twice are kept."""

    def __init__(self, origin: ModelSpec, model: ModelSpec, device: Device, ideal: bool) -> None:
        assert device.kernels is not None
        self._origin = origin
        self._top_k = model.top_k
        self._times = device.kernels.experts(
            model.hidden,
            model.expert_intermediate,
            model.ffn_matrices,
            model.experts,
            model.expert_bytes,
            model.linear_dtype or model.dtype,
        )
        self._floor = _AdditiveTable(origin, model, device, True)
        self._kept: Kept[Parts] = Kept(KEPT_LAUNCHES)
        self._firsts: Kept[list[int]] = Kept(KEPT_FIRSTS)
        self._per_count = np.zeros((0, 4 + len(TILES)), dtype=np.int64)

    def together(self, tokens: Sequence[int]) -> Parts:
        if not tokens:
            return 0, (0, 0, 0)
        return self._kept.of(tuple(sorted(tokens)), lambda: self._launch(tokens))

    def alone_ps(self, tokens: int) -> int:
        total, (launch, _, _) = self.together((tokens,))
        return total - launch

    def firsts_ps(self, tokens: Sequence[int]) -> list[int]:
        return self._firsts.of(tuple(tokens), lambda: self._make_firsts(tokens)) if tokens else [0]

    def _make_firsts(self, tokens: Sequence[int]) -> list[int]:
        sums = self._facts(max(tokens))[list(tokens)].cumsum(axis=0)
        return [0, *self._sums(sums, np.maximum.accumulate(tokens)).sum(axis=1).tolist()]

    def launches(self, counts: np.ndarray) -> np.ndarray:
        """As `together`: tokens of each expert [launches, experts], to ps by what bounds it [launches, 3]."""
        sums = self._facts(int(counts.max(initial=0)))[counts].sum(axis=1)
        return self._sums(sums, counts.max(axis=1))

    def _sums(self, sums: np.ndarray, busiest: np.ndarray) -> np.ndarray:
        """ps by what bounds it [launches, 3], from sums of `_facts` [launches, 4 + tiles] and the busiest expert's
        tokens."""
        pairs, active, memory, compute = sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3]
        distinct = np.maximum(busiest, -(-pairs // self._top_k))
        numbers = np.array([distinct, pairs, active], dtype=np.float64)
        tiles = sums[:, 4:].T.astype(np.float64)
        overhead, busy = self._times.seconds(numbers[0], numbers[1], numbers[2], tiles)
        overhead_ps, busy_ps = to_ps_array(np.array([overhead, busy]))
        busy_ps = np.maximum(busy_ps, memory + compute)
        by_memory = memory >= compute
        found = np.array([overhead_ps, busy_ps * by_memory, busy_ps * ~by_memory]).T
        return np.where(active[:, None] > 0, found, 0)

    def _facts(self, most: int) -> np.ndarray:
        """Of an expert that serves 0, 1, ... tokens up to at least `most`: these, whether it runs, its memory-bound and
        compute-bound ps at least, its tiles of each size."""
        if most >= len(self._per_count):
            rows = self._floor.rows(most)
            served = np.arange(len(rows))
            memory = np.where(rows[:, 1] == MEMORY, rows[:, 0], 0)
            tiles = [-(-served // tile) for tile in TILES]
            self._per_count = np.array([served, served > 0, memory, rows[:, 0] - memory, *tiles], dtype=np.int64).T
        return self._per_count

    def by_active(self, requests: int, experts: int) -> np.ndarray | None:
        """As `ExpertCosts.by_active`. No expert serves more than the smallest tile, so tiles, pairs and distinct tokens
        follow; and the floor must be out of reach, whoever serves how many: it is at most `each` per expert and `more`
        per pair."""
        if requests > min(TILES):
            return None
        rows = self._floor.rows(requests)[1 : requests + 1]
        if (rows[:, 1] != MEMORY).any():
            return None
        pairs = requests * self._top_k
        active = np.arange(-(-pairs // requests), min(experts, pairs) + 1)
        counts = np.zeros((len(active), experts), dtype=np.int64)
        for row, count in enumerate(active.tolist()):
            counts[row, :count] = pairs // count
            counts[row, : pairs % count] += 1
        served = np.arange(1, requests + 1)
        more = int(np.diff(rows[:, 0]).max(initial=0))
        each = int((rows[:, 0] - more * served).max())
        found = self.launches(counts)
        if (found[:, 1] + found[:, 2] < each * active + more * pairs).any():
            return None
        table = np.full((experts + 1, 4), -1, dtype=np.int64)
        table[active] = np.append(found, found.sum(axis=1, keepdims=True), axis=1)
        return table

    def _launch(self, tokens: Sequence[int]) -> Parts:
        tiles = [sum(-(-count // tile) for count in tokens) for tile in TILES]
        # distinct tokens are not known: at least the busiest expert's, and every token has at most top_k pairs
        distinct = max(max(tokens), -(-sum(tokens) // self._top_k))
        return self._parts(tokens, distinct, tiles, None)

    def least_ps(self, tokens: Sequence[int]) -> int:
        """As one launch in which every expert has the tile that suits it best: the smooth maximum of sums is at most
        the sum of smooth maxima (Minkowski), all other terms add up or are paid once."""
        if not tokens:
            return 0
        rows = self._times.least_rows(np.asarray(tokens, dtype=np.float64)).sum()
        return self._parts(tokens, max(tokens), (len(tokens),) * len(TILES), rows)[0]

    def _parts(self, tokens: Sequence[int], distinct: int, tiles: Sequence[int], rows: float | None) -> Parts:
        numbers = [np.array([value], dtype=np.float64) for value in (distinct, sum(tokens), len(tokens))]
        column = np.array(tiles, dtype=np.float64)[:, None]
        rows_done = None if rows is None else np.array([rows])
        overhead, busy = self._times.seconds(numbers[0], numbers[1], numbers[2], column, rows_done)
        overhead_ps, busy_ps = (int(to_ps_array(part)[0]) for part in (overhead, busy))
        floor_ps, (_, memory, compute) = self._floor.together(tokens)
        busy_ps = max(busy_ps, floor_ps)
        split = (overhead_ps, busy_ps, 0) if memory >= compute else (overhead_ps, 0, busy_ps)
        return overhead_ps + busy_ps, split


_DENSE: Kept[DenseCosts] = Kept(KEPT_COSTS)
_EXPERTS: Kept[_AdditiveTable | _KernelTable] = Kept(KEPT_COSTS)
