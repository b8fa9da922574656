"""What work is: floating-point operations and bytes of memory traffic, as closed forms.

Counts are those of one kernel at ideal reuse: every weight and every activation crosses the memory bus once
per use, so that FLOPs / peak and bytes / bandwidth are lower bounds of the time (Williams, Waterman and
Patterson, "Roofline", CACM 2009). All sizes may be integers or arrays, which broadcast; results are float64.
A multiply-add counts as two operations. Nothing is read for zero tokens.
"""

from dataclasses import dataclass

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
    """

    kind: str
    dtype: str
    flops: Array
    size_bytes: Array


def _array(value: Number) -> Array:
    return np.asarray(value, dtype=np.float64)


def _work(kind: str, dtype: str, flops: Number, size_bytes: Number) -> Work:
    flops_array, size_array = np.broadcast_arrays(_array(flops), _array(size_bytes))
    return Work(kind, dtype, flops_array, size_array)


def linear(
    tokens: Number,
    weights: float,
    weight_bytes: float,
    activations: float,
    dtype: str,
    kind: str = "gemm",
) -> Work:
    """Matrix products which together hold `weights` parameters in `weight_bytes` bytes.

    flops = 2 · tokens · weights; bytes = weight_bytes + tokens · activations · ACTIVATION_BYTES, where
    `activations` is the number of values read and written per token. For one m×k by k×n product weights is
    k·n and activations k + n.
    """
    t = _array(tokens)
    size = np.where(t > 0, weight_bytes, 0.0) + t * activations * ACTIVATION_BYTES
    return _work(kind, dtype, 2.0 * t * weights, size)


def feed_forward(
    tokens: Number,
    hidden: int,
    intermediate: int,
    weights: float,
    weight_bytes: float,
    dtype: str,
    kind: str = "gemm",
) -> Work:
    """A feed-forward block (plain or gated): reads and writes the hidden and the intermediate vector once.

    flops = 2 · tokens · weights; the activation function is fused, so it moves no bytes of its own.
    """
    return linear(tokens, weights, weight_bytes, 2 * hidden + 2 * intermediate, dtype, kind)


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
) -> Work:
    """Scores, softmax-weighted sum: flops = 2 · pairs · heads · (key_dim + value_dim), softmax neglected.

    bytes = cache read (`kv_read_tokens` entries of `kv_token_bytes`) + cache written (one entry per token) +
    queries in and outputs out. FlashAttention keeps scores on chip (Dao et al., NeurIPS 2022), so they do
    not count.
    """
    t = _array(tokens)
    size = (_array(kv_read_tokens) + t) * kv_token_bytes + t * heads * (key_dim + value_dim) * ACTIVATION_BYTES
    return _work("attention", dtype, 2.0 * _array(pairs) * heads * (key_dim + value_dim), size)


def elementwise(tokens: Number, values: float, weight_bytes: float, dtype: str) -> Work:
    """A norm or the like on `values` numbers per token: 4 operations each (square, sum, scale, weight),
    each value read and written once.
    """
    t = _array(tokens)
    size = np.where(t > 0, weight_bytes, 0.0) + 2.0 * t * values * ACTIVATION_BYTES
    return _work("elementwise", dtype, 4.0 * t * values, size)


def embedding(tokens: Number, hidden: int, row_bytes: float, dtype: str) -> Work:
    """A table look-up: reads one row and writes one hidden vector per token, no arithmetic."""
    t = _array(tokens)
    return _work("embedding", dtype, 0.0 * t, t * (row_bytes + hidden * ACTIVATION_BYTES))
