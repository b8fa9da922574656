"""What work is: floating-point operations, bytes of memory traffic and shapes, as closed forms.

Counts are those of one kernel at ideal reuse: every weight and every activation crosses the memory bus once
per use, so that FLOPs / peak and bytes / bandwidth are lower bounds of the time (Williams, Waterman and
Patterson, "Roofline", CACM 2009). All sizes may be integers or arrays, which broadcast; results are float64.
A multiply-add counts as two operations. Nothing is read for zero tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Number = int | float | npt.NDArray[np.float64] | npt.NDArray[np.int64] | np.floating | np.integer
Array = npt.NDArray[np.float64]

KINDS = ("gemm", "grouped_gemm", "attention", "elementwise", "embedding")
ACTIVATION_BYTES = 2
"""Bytes per activation in memory (bf16 or fp16 between kernels)."""


@dataclass(frozen=True)
class Work:
    """One operation: `flops` operations in `dtype` arithmetic, `size_bytes` moved to and from memory.

    kind    one of KINDS; efficiencies are kept per kind
    dtype   dtype of the arithmetic: bf16, fp16, fp8, int8, fp32 (weights may be stored in fewer bits)
    name    what it is in a model, e.g. "router"
    shape   what models of GPU kernels need (hwmodels.kernel_times): numbers or arrays like `flops`;
            empty where there is no such model
            gemm       m, n, k, weight_bits
            attention  tokens (new ones per sequence), kv_len, sequences, heads, kv_heads, head_dim, window (0: none),
                       kv_bits; kv_heads 0 is multi-head latent attention
    """

    kind: str
    dtype: str
    flops: Array
    size_bytes: Array
    name: str = ""
    shape: Mapping[str, Number] = field(default_factory=dict)


def _array(value: Number) -> Array:
    return np.asarray(value, dtype=np.float64)


def _work(
    kind: str, dtype: str, flops: Number, size_bytes: Number, name: str, shape: Mapping[str, Number] | None = None
) -> Work:
    flops_array, size_array = np.broadcast_arrays(_array(flops), _array(size_bytes))
    return Work(kind, dtype, flops_array, size_array, name, shape or {})


def gemm(m: Number, n: int, k: int, weight_bits: float, dtype: str, name: str = "") -> Work:
    """The product of m×k activations by k×n weights of `weight_bits` each, scales included.

    flops = 2·m·n·k; bytes = n·k·weight_bits / 8 + m·(k + n)·ACTIVATION_BYTES.
    """
    rows = _array(m)
    size = np.where(rows > 0, n * k * weight_bits / 8, 0.0) + rows * (k + n) * ACTIVATION_BYTES
    shape: dict[str, Number] = {"m": rows, "n": n, "k": k, "weight_bits": weight_bits}
    return _work("gemm", dtype, 2.0 * rows * (n * k), size, name, shape)


def expert(tokens: Number, hidden: int, width: int, matrices: int, weight_bytes: float, dtype: str) -> Work:
    """One routed expert that serves `tokens` tokens: its grouped GEMMs with the activation function fused.

    flops = 2·tokens·matrices·hidden·width; bytes = `weight_bytes` + the hidden and the intermediate vector of each
    token, read and written once.
    """
    t = _array(tokens)
    size = np.where(t > 0, weight_bytes, 0.0) + t * (2 * hidden + 2 * width) * ACTIVATION_BYTES
    return _work("grouped_gemm", dtype, 2.0 * t * (matrices * hidden * width), size, "routed expert")


def activation(tokens: Number, width: int, matrices: int, dtype: str, name: str = "") -> Work:
    """The activation function between a feed-forward block's products, gated if it has three matrices: reads
    (matrices - 1)·width values per token and writes width, 4 operations per value written (exponential, add, divide,
    multiply).
    """
    t = _array(tokens)
    return _work("elementwise", dtype, 4.0 * t * width, t * (matrices * width) * ACTIVATION_BYTES, name)


def route(tokens: Number, experts: int, top_k: int, dtype: str) -> Work:
    """Softmax over the router's logits and the choice of `top_k`: 5 operations per logit (the greatest, subtract,
    exponential, add, compare), which are read once; an index and a weight of 4 bytes each are written per choice.
    """
    t = _array(tokens)
    size = t * (experts * ACTIVATION_BYTES + top_k * 8)
    return _work("elementwise", dtype, 5.0 * t * experts, size, "top-k")


def attended_pairs(tokens: Number, kv_len: Number, window: int | None, causal: bool = True) -> Array:
    """Query-key pairs when the last `tokens` positions of a sequence of `kv_len` attend to it.

    Causal: query j (1-based position) sees min(j, window) keys, so the count is the sum of min(j, W) for
    j = kv_len - tokens + 1 ... kv_len. Not causal: every query sees min(kv_len, window) keys.
    """
    t, last = _array(tokens), _array(kv_len)
    span = np.inf if window is None else float(window)
    if not causal:
        return _array(t * np.minimum(last, span))
    before = last - t
    growing_end = np.minimum(last, span)
    growing_start = np.minimum(before, span)
    growing = (growing_end * (growing_end + 1) - growing_start * (growing_start + 1)) / 2
    full = (last - growing_end) - (before - growing_start)
    return _array(growing + full * (0.0 if window is None else span))


def attention(
    tokens: Number,
    pairs: Number,
    kv_read_tokens: Number,
    heads: int,
    key_dim: int,
    value_dim: int,
    kv_token_bytes: float,
    dtype: str,
    name: str = "attention",
    shape: Mapping[str, Number] | None = None,
) -> Work:
    """Scores, softmax-weighted sum: flops = 2 · pairs · heads · (key_dim + value_dim), softmax neglected.

    bytes = cache read (`kv_read_tokens` entries of `kv_token_bytes`) + cache written (one entry per token) +
    queries in and outputs out. FlashAttention keeps scores on chip (Dao et al., NeurIPS 2022), so they do
    not count.
    """
    t = _array(tokens)
    size = (_array(kv_read_tokens) + t) * kv_token_bytes + t * heads * (key_dim + value_dim) * ACTIVATION_BYTES
    return _work("attention", dtype, 2.0 * _array(pairs) * heads * (key_dim + value_dim), size, name, shape)


def elementwise(tokens: Number, values: float, weight_bytes: float, dtype: str, name: str = "") -> Work:
    """A norm or the like on `values` numbers per token: 4 operations each (square, sum, scale, weight),
    each value read and written once.
    """
    t = _array(tokens)
    size = np.where(t > 0, weight_bytes, 0.0) + 2.0 * t * values * ACTIVATION_BYTES
    return _work("elementwise", dtype, 4.0 * t * values, size, name)


def embedding(tokens: Number, hidden: int, row_bytes: float, dtype: str) -> Work:
    """A table look-up: reads one row and writes one hidden vector per token, no arithmetic."""
    t = _array(tokens)
    return _work("embedding", dtype, 0.0 * t, t * (row_bytes + hidden * ACTIVATION_BYTES), "embedding")
