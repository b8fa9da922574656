"""A small model that really runs, with its experts in a file: what moesim simulates, done.

Weights are random, the routing is a trace's. A decoded token goes through attention, router and head for real;
which experts it needs is read from the trace. Experts wait in the file; an LRU of a fixed number of slots holds
those used last. What misses is read past the page cache on threads of its own while the hits compute, then runs in
the order in which it was asked for. Shares no code with the simulator.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwmodels.microbench import Floats, buffer
from hwmodels.microbench_files import Reader
from hwmodels.microbench_kernels import FLOAT_BYTES, Backend, FeedForward, attend, rms_norm

SCHEDSTAT = Path("/proc/thread-self/schedstat")


@dataclass(frozen=True)
class Shape:
    """Sizes of the model. All layers are routed and have one set of dense weights each."""

    layers: int
    experts: int
    top_k: int
    hidden: int = 1024
    width: int = 512
    heads: int = 16
    vocab: int = 2048

    @property
    def expert_bytes(self) -> int:
        """Of one expert in the file."""
        return 3 * self.hidden * self.width * FLOAT_BYTES


@dataclass
class LoopRun:
    """What a run did. By token: seconds, of which waiting for reads, and of which ready to run while other processes
    ran (nan where the system does not tell), and bytes read. `hits`: of each (token, layer) in order, by slot.
    `output` is the last token's, [vocab]."""

    token_s: list[float] = field(default_factory=list)
    waited_s: list[float] = field(default_factory=list)
    delayed_s: list[float] = field(default_factory=list)
    bytes_read: list[int] = field(default_factory=list)
    hits: list[list[bool]] = field(default_factory=list)
    output: Floats = field(default_factory=lambda: np.zeros(0, np.float32))


class OffloadLoop:
    """The model with room for at most `slots` experts. The reader's file holds expert e of layer l as the blob
    l · experts + e; `contexts` tokens of KV cache are kept."""

    def __init__(
        self, shape: Shape, reader: Reader, library: Backend, slots: int, contexts: int, seed: int = 0
    ) -> None:
        self.shape, self._reader, self._library = shape, reader, library
        rng = np.random.default_rng(seed)
        hidden, layers = shape.hidden, shape.layers
        # in one piece, as small ones get no huge pages
        dense = layers * (4 * hidden + shape.experts) * hidden + shape.vocab * hidden
        free = np.frombuffer(buffer(dense * FLOAT_BYTES), np.float32)
        free[:] = rng.standard_normal(dense, dtype=np.float32) * np.float32(0.02)

        def weights(rows: int) -> Any:
            nonlocal free
            array, free = free[: rows * hidden].reshape(rows, hidden), free[rows * hidden :]
            return library.wrap(array)

        self._embedding = rng.standard_normal((shape.vocab, hidden), dtype=np.float32)
        self._norm = np.ones(hidden, np.float32)
        self._qkv = [weights(3 * hidden) for _ in range(layers)]
        self._o = [weights(hidden) for _ in range(layers)]
        self._router = [weights(shape.experts) for _ in range(layers)]
        self._head = weights(shape.vocab)
        kv = (layers, shape.heads, contexts, hidden // shape.heads)
        self._keys, self._values = np.zeros(kv, np.float32), np.zeros(kv, np.float32)
        self._block = FeedForward(library, hidden, shape.width)
        memory = buffer(slots * shape.expert_bytes)
        view, floats = memoryview(memory), np.frombuffer(memory, np.float32)
        size, count = shape.expert_bytes, self._block.weights
        self._targets = [view[size * slot : size * (slot + 1)] for slot in range(slots)]
        self._matrices = [self._block.split(floats[count * slot : count * (slot + 1)]) for slot in range(slots)]
        self._x = np.zeros(hidden, np.float32)
        self._normed = np.zeros(hidden, np.float32)
        self._normed_native = library.wrap(self._normed)
        self._projected = np.zeros(3 * hidden, np.float32)
        self._residual = np.zeros(hidden, np.float32)
        self._attended = np.zeros(hidden, np.float32)
        self._logits = np.zeros(shape.experts, np.float32)
        self._outputs = np.zeros((shape.top_k, hidden), np.float32)
        self._native_outputs = [library.wrap(row) for row in self._outputs]
        self._output = np.zeros(shape.vocab, np.float32)

    def run(self, routing: Sequence[Sequence[Sequence[int]]], first_position: int, capacity: int) -> LoopRun:
        """Decode tokens with the experts [tokens][layers][slots], an empty cache of `capacity` experts at first.

        `first_position` is how many tokens of context there are before. ValueError if a layer's experts do not fit.
        """
        if not self.shape.top_k <= capacity <= len(self._targets):
            raise ValueError(
                f"a cache of {capacity} experts; expected from {self.shape.top_k} to {len(self._targets)}."
            )
        self._resident: OrderedDict[int, int] = OrderedDict()  # blob -> slot, the longest unused first
        self._free = list(range(capacity))
        self._keys[:] = self._values[:] = 0
        self._x[:] = 1
        done = LoopRun()
        for token, layers in enumerate(routing):
            self._waited, self._bytes = 0.0, 0
            delayed, start = _delayed_s(), time.perf_counter()
            self._token(layers, first_position + token, done)
            done.token_s.append(time.perf_counter() - start)
            done.delayed_s.append(_delayed_s() - delayed)
            done.waited_s.append(self._waited)
            done.bytes_read.append(self._bytes)
        done.output = self._output.copy()
        return done

    def _token(self, layers: Sequence[Sequence[int]], position: int, done: LoopRun) -> None:
        wrap, product = self._library.wrap, self._library.product
        self._x[:] = self._embedding[position % self.shape.vocab]
        for layer, experts in enumerate(layers):
            self._dense(layer, position)
            self._experts(layer, experts, done)
        rms_norm(self._x, self._norm, self._normed)
        product(self._head, self._normed_native, wrap(self._output))

    def _dense(self, layer: int, position: int) -> None:
        wrap, product, shape = self._library.wrap, self._library.product, self.shape
        rms_norm(self._x, self._norm, self._normed)
        product(self._qkv[layer], self._normed_native, wrap(self._projected))
        query, key, value = self._projected.reshape(3, shape.heads, -1)
        self._keys[layer, :, position], self._values[layer, :, position] = key, value
        keys, values = self._keys[layer, :, : position + 1], self._values[layer, :, : position + 1]
        self._attended[:] = attend(query, keys, values).reshape(-1)
        product(self._o[layer], wrap(self._attended), wrap(self._residual))
        self._x += self._residual
        rms_norm(self._x, self._norm, self._normed)
        product(self._router[layer], self._normed_native, wrap(self._logits))
        np.argpartition(self._logits, -shape.top_k)  # the choice itself is the trace's

    def _experts(self, layer: int, experts: Sequence[int], done: LoopRun) -> None:
        blobs = [layer * self.shape.experts + expert for expert in experts]
        hits = [blob in self._resident for blob in blobs]
        done.hits.append(hits)
        for blob, hit in zip(blobs, hits, strict=True):  # all that is used now is safe from those that come
            if hit:
                self._resident.move_to_end(blob)
        reads = {blob: self._read(blob) for blob, hit in zip(blobs, hits, strict=True) if not hit}
        for blob in blobs:  # in the order of access, whatever was read
            self._resident.move_to_end(blob)
        for row, (blob, hit) in enumerate(zip(blobs, hits, strict=True)):
            if hit:
                self._compute(blob, row)
        for row, blob in enumerate(blobs):
            if blob in reads:
                start = time.perf_counter()
                self._bytes += reads[blob].result()
                self._waited += time.perf_counter() - start
                self._compute(blob, row)
        self._x += self._outputs[: len(blobs)].mean(axis=0)

    def _read(self, blob: int) -> Future[int]:
        slot = self._free.pop() if self._free else self._resident.popitem(last=False)[1]
        self._resident[blob] = slot
        return self._reader.submit(self._targets[slot], blob * self.shape.expert_bytes)

    def _compute(self, blob: int, row: int) -> None:
        self._block.run(self._matrices[self._resident[blob]], self._normed_native, self._native_outputs[row])


def _delayed_s() -> float:
    """How long this thread has been ready to run while the processors were busy with others, so far; nan where the
    system does not tell. Linux, Documentation/scheduler/sched-stats.rst: the second field, in nanoseconds."""
    try:
        return int(SCHEDSTAT.read_text().split()[1]) / 1e9
    except (OSError, ValueError, IndexError):
        return float("nan")
