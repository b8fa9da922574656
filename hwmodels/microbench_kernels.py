"""Kernels of a transformer on the CPU in fp32, and the cases that time them.

Matrix products run in torch if it is there, else in numpy; everything else in numpy. Bytes and operations are
counted by hwmodels.operators, so that a measured efficiency means in a simulation what it means here.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodels import operators
from hwmodels.errors import PlatformError
from hwmodels.microbench import MIB, Case, ColdWeights, Floats

FLOAT_BYTES = 4
BACKENDS = ("auto", "torch", "numpy")
_READ_AT_ONCE = MIB
_RMS_EPSILON = np.float32(1e-6)


class Backend(NamedTuple):
    """A library for matrix products: `wrap` makes a numpy array one of its own that shares its memory, and
    `product(a, b, out)` multiplies such arrays, a matrix by a vector or a matrix, on `threads(n)` threads."""

    name: str
    wrap: Callable[[Floats], Any]
    product: Callable[[Any, Any, Any], Any]
    threads: Callable[[int], Any]


def backend(name: str = "auto") -> Backend:
    """torch if it can be imported, else numpy; or the one that is named. Raises PlatformError for others."""
    if name not in BACKENDS:
        raise PlatformError(f"there is no backend '{name}'; expected one of {', '.join(BACKENDS)}.")
    if name != "numpy":
        try:
            torch = importlib.import_module("torch")
        except ImportError:
            if name == "torch":
                raise PlatformError("torch cannot be imported; install it or choose the backend numpy.") from None
        else:
            return torch_backend(torch)
    return Backend(f"numpy {np.__version__}", lambda array: array, _numpy_product, lambda n: None)


def torch_backend(torch: Any) -> Backend:
    """Products by the given torch module."""
    return Backend(
        f"torch {torch.__version__}",
        torch.from_numpy,
        lambda a, b, out: torch.matmul(a, b, out=out),
        torch.set_num_threads,
    )


def _numpy_product(a: Floats, b: Floats, out: Floats) -> None:
    np.dot(a, b, out=out)


@contextmanager
def on_threads(library: Backend, threads: int) -> Iterator[None]:
    """Let products inside use so many threads."""
    from threadpoolctl import threadpool_limits

    library.threads(threads)
    with threadpool_limits(threads):
        yield


class FeedForward:
    """A gated feed-forward block (SwiGLU) for `tokens` tokens, with memory for what lies between its products.

    Inputs and outputs are columns: [hidden] for one token, else [hidden, tokens].
    """

    def __init__(self, library: Backend, hidden: int, width: int, tokens: int = 1) -> None:
        self._library, self._hidden, self._width = library, hidden, width
        tail = () if tokens == 1 else (tokens,)
        both, self._inner = np.zeros((2 * width, *tail), np.float32), np.zeros((width, *tail), np.float32)
        self._gate, self._up = both[:width], both[width:]
        self._both_native, self._inner_native = library.wrap(both), library.wrap(self._inner)

    @property
    def weights(self) -> int:
        """Numbers in the weights of one block."""
        return 3 * self._hidden * self._width

    def split(self, floats: Floats) -> tuple[Any, Any]:
        """One block's weights [weights] as its two matrices: gate and up [2 · width, hidden], down [hidden, width]."""
        border = 2 * self._width * self._hidden
        gate_up = floats[:border].reshape(2 * self._width, self._hidden)
        return self._library.wrap(gate_up), self._library.wrap(floats[border:].reshape(self._hidden, self._width))

    def run(self, matrices: tuple[Any, Any], x: Any, out: Any) -> None:
        """down · (silu(gate · x) * (up · x)) into `out`; `x` and `out` are the library's own arrays."""
        product, inner = self._library.product, self._inner
        product(matrices[0], x, self._both_native)
        np.negative(self._gate, out=inner)
        np.exp(inner, out=inner)
        inner += 1
        np.divide(self._gate, inner, out=inner)
        inner *= self._up
        product(matrices[1], self._inner_native, out)


def attend(query: Floats, keys: Floats, values: Floats) -> Floats:
    """Attention of one query [heads, d] to keys and values [heads, tokens, d]; [heads, d]."""
    scores = np.matmul(keys, query[:, :, None])[:, :, 0] * np.float32(query.shape[1] ** -0.5)
    scores -= scores.max(axis=1, keepdims=True)
    np.exp(scores, out=scores)
    scores /= scores.sum(axis=1, keepdims=True)
    attended: Floats = np.matmul(scores[:, None, :], values)[:, 0]
    return attended


def rms_norm(x: Floats, weight: Floats, out: Floats) -> None:
    """x / root mean square of x, times weight, into `out`; all [hidden]."""
    np.multiply(x, 1 / np.sqrt(np.dot(x, x) / np.float32(len(x)) + _RMS_EPSILON), out=out)
    out *= weight


@dataclass(frozen=True)
class Sizes:
    """What is measured on the processor. Sizes in numbers unless they say bytes.

    pool_bytes  of the weights in no cache (0: four times the last cache); pass_bytes of them for one repetition
    small_calls of small operations for one repetition; sweep_bytes are read before each, more than a core's own caches
    squares     sides of square matrices; experts: (hidden, width) of feed-forward blocks; tokens of a large product
    contexts    tokens attended to, by `heads` heads of `head_dim`; norms: lengths of vectors
    """

    pool_bytes: int = 0
    pass_bytes: int = 8 * MIB
    small_calls: int = 16
    sweep_bytes: int = 2 * MIB
    squares: Sequence[int] = (512, 1024, 2048)
    experts: Sequence[tuple[int, int]] = ((512, 256), (1536, 768), (2048, 1024))
    tokens: int = 128
    contexts: Sequence[int] = (64, 256, 1024)
    heads: int = 8
    head_dim: int = 64
    norms: Sequence[int] = (512, 1024, 2048)


def processor_cases(library: Backend, sizes: Sizes, pool: ColdWeights, threads: Sequence[int]) -> list[Case]:
    """Products, feed-forward blocks, attention, norms and memory; `threads` are those to read memory with."""
    cases = [_launch(library, sizes, pool)]
    for side in sizes.squares:
        cases += [_product(library, sizes, pool, side, tokens) for tokens in (1, sizes.tokens)]
    cases.append(_product(library, sizes, pool, min(sizes.squares), 1, cached=True))
    for shape in sizes.experts:
        cases += [_feed_forward(library, sizes, pool, shape, tokens) for tokens in (1, sizes.tokens)]
    cases.append(_feed_forward(library, sizes, pool, sizes.experts[0], 1, cached=True))
    cases += [_attention(sizes, pool, context) for context in sizes.contexts]
    cases += [_norm(sizes, pool, length) for length in sizes.norms]
    cases += [_read(pool, sizes.pass_bytes, count) for count in threads]
    return [*cases, _copy(pool, sizes.pass_bytes)]


def _timed(calls: Sequence[Callable[[], Any]]) -> float:
    """Seconds of one of the calls, on average."""
    start = time.perf_counter()
    for call in calls:
        call()
    return (time.perf_counter() - start) / len(calls)


def _apart(calls: Sequence[Callable[[], Any]], pool: ColdWeights, sweep_bytes: int) -> float:
    """Seconds of one of the calls, on average, when each finds the processor's own caches full of other numbers, as
    every operation of a model does; what fills them is not timed."""
    seconds = 0.0
    for call in calls:
        other = pool.take(sweep_bytes // FLOAT_BYTES)
        np.dot(other, other)
        start = time.perf_counter()
        call()
        seconds += time.perf_counter() - start
    return seconds / len(calls)


def _launch(library: Backend, sizes: Sizes, pool: ColdWeights, side: int = 16) -> Case:
    a, b, out = (library.wrap(np.zeros(shape, np.float32)) for shape in ((side, side), side, side))
    calls = [lambda: library.product(a, b, out)] * sizes.small_calls
    return Case("launch", side * side * FLOAT_BYTES, lambda: _apart(calls, pool, sizes.sweep_bytes))


def _columns(library: Backend, length: int, tokens: int) -> Any:
    return library.wrap(np.full(length if tokens == 1 else (length, tokens), 0.5, np.float32))


def _product(library: Backend, sizes: Sizes, pool: ColdWeights, side: int, tokens: int, cached: bool = False) -> Case:
    x, out = _columns(library, side, tokens), _columns(library, side, tokens)

    def run() -> float:
        pieces = pool.pieces(side * side, sizes.pass_bytes if tokens == 1 else 1)
        matrices = [library.wrap(piece.reshape(side, side)) for piece in pieces]
        if cached:
            matrices = matrices[:1] * len(matrices)
            library.product(matrices[0], x, out)
        return _timed([lambda matrix=matrix: library.product(matrix, x, out) for matrix in matrices])  # type: ignore[misc]

    work = operators.gemm(tokens, side, side, 8 * FLOAT_BYTES, "fp32")
    return Case("gemm", float(work.size_bytes), run, float(work.flops), tokens, cached=cached)


def _feed_forward(
    library: Backend, sizes: Sizes, pool: ColdWeights, shape: tuple[int, int], tokens: int, cached: bool = False
) -> Case:
    hidden, width = shape
    block = FeedForward(library, hidden, width, tokens)
    x, out = _columns(library, hidden, tokens), _columns(library, hidden, tokens)

    def run() -> float:
        blobs = [block.split(piece) for piece in pool.pieces(block.weights, sizes.pass_bytes if tokens == 1 else 1)]
        if cached:
            blobs = blobs[:1] * len(blobs)
            block.run(blobs[0], x, out)
        return _timed([lambda blob=blob: block.run(blob, x, out) for blob in blobs])  # type: ignore[misc]

    work = operators.expert(tokens, hidden, width, 3, block.weights * FLOAT_BYTES, "fp32")
    return Case("grouped_gemm", float(work.size_bytes), run, float(work.flops), tokens, cached=cached)


def _attention(sizes: Sizes, pool: ColdWeights, context: int) -> Case:
    heads, size = sizes.heads, sizes.head_dim
    query = np.full((heads, size), 0.5, np.float32)
    floats = 2 * heads * context * size

    def run() -> float:
        caches = [pool.take(floats).reshape(2, heads, context, size) for _ in range(sizes.small_calls)]
        calls = [lambda kv=kv: attend(query, kv[0], kv[1]) for kv in caches]
        return _apart(calls, pool, sizes.sweep_bytes)

    token_bytes = 2 * heads * size * FLOAT_BYTES
    work = operators.attention(1, context, context, heads, size, size, token_bytes, "fp32")
    return Case("attention", float(work.size_bytes), run, float(work.flops))


def _norm(sizes: Sizes, pool: ColdWeights, length: int) -> Case:
    x, out = np.full(length, 0.5, np.float32), np.zeros(length, np.float32)
    calls = [lambda: rms_norm(x, x, out)] * sizes.small_calls
    work = operators.elementwise(1, length, length * FLOAT_BYTES, "fp32")
    return Case(
        "elementwise", float(work.size_bytes), lambda: _apart(calls, pool, sizes.sweep_bytes), float(work.flops)
    )


def _read(pool: ColdWeights, pass_bytes: int, threads: int) -> Case:
    """Threads that each sum the squares of their part, which reads every number once."""

    def total(part: Floats) -> None:
        count = _READ_AT_ONCE // FLOAT_BYTES
        for start in range(0, len(part), count):
            np.dot(part[start : start + count], part[start : start + count])

    def run() -> float:
        parts = np.array_split(pool.take(pass_bytes // FLOAT_BYTES), threads)
        with ThreadPoolExecutor(threads) as readers:
            list(readers.map(len, parts))  # the threads are there before the time runs
            return _timed([lambda: list(readers.map(total, parts))])

    return Case("read_memory", pass_bytes, run, at_once=threads)


def _copy(pool: ColdWeights, pass_bytes: int) -> Case:
    """One thread that copies; `size_bytes` are those of the source."""
    target = np.zeros(pass_bytes // FLOAT_BYTES, np.float32)
    return Case("copy_memory", pass_bytes, lambda: _copied(pool, target))


def _copied(pool: ColdWeights, target: Floats) -> float:
    source = pool.take(len(target))
    return _timed([lambda: np.copyto(target, source)])
