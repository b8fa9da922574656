"""Attention kernels of an engine: prefill over a prompt, decode over a cache.

Prefill (FlashAttention: Dao, 2023). A tile is 128 query rows of one head; where the kernel packs the g query heads of a
KV head into one tile (vLLM's kernels), its rows are those of all g heads. With L tokens, window W and n tiles in all:
    seen    = pairs / L + (span + keys) / 2, and the same again at the window's far edge     keys loaded per query row
    block_s = 4 · dim / (peak / SMs · efficiency) + exp_s                                    one query row × one key
    compute = block_s · (rows · seen / SMs + wave · longest tile) + tile_s · n / SMs
    memory  = (traffic · (Q + O) + kv_traffic · (K + V)) at HBM's speed, what fits into L2 at L2's
    seconds = launch_cycles / clock + smooth_max(compute, memory, power)
Decode (split-KV: flash-decoding, Dao et al., 2023). A unit is one request × KV head (× query head if none shares);
it is cut into parts of `chunk` cached tokens while SMs are idle. With length L' = smooth_max(L, keys):
    splits  = max(1, min(SMs / units, L' / chunk))
    serial  = waves · L' / splits · (token_s + bytes per token / stream)                     one block, alone
    compute = 4 · dim · rows padded to 16 · L' · units / busy SMs / (peak / SMs · compute)
    memory  = cache + queries + outputs, at L2's speed if they fit into it, else at HBM's
    fixed   = launch_cycles / clock + (unit_s · units + head_s · query heads) / SMs + reduce_s · (1 - chunk / L')
    seconds = fixed + smooth_max(smooth_max(compute, memory), serial)
waves is units / SMs, rounded up, where a kernel never divides a unit, else 1. Launches, and what an SM draws from L2 or
keeps in flight, are counted in cycles; what waits for memory, in seconds.
Measurements repeat one call, and data read cyclically hardly hits an LRU cache that it outgrows, hence the cliff.
Inferred from the measurements: beyond 32 query heads per KV head TensorRT-LLM's decode takes as long as reading the
cache once per query head, and its times at one head per KV head are a curve of their own ("mmha" below, after its
kernel for plain multi-head attention); FlashAttention 2 shares the cache among query heads only without a window.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Kernel, Parameter, Values, quantised, smooth_max
from hwmodels.operators import Array

TILE = 128  # query rows of one thread block
ROWS = 16  # query rows of one matrix instruction
CLIFF = 8.0  # how suddenly a cache read cyclically stops to hit when it outgrows L2
WIDTH_BYTES = {"bfloat16": 2.0, "float16": 2.0, "fp8": 1.0}
TARGETS = {"latency": 1e-3}  # measured in milliseconds
VARIANTS = {  # part of kernel_source -> kernel, the first that fits
    "triton": "triton",
    "fa4": "fa4",
    "fa3": "fa3",
    "flash_attn": "fa2",
    "trtllm": "trtllm",
    "flashinfer": "flashinfer",
    "torch_flow": "trtllm",
}

PREFILL = {
    "launch_cycles": Parameter(2e4, 2e3, 2e5, 0.3, "launch of the kernels; constant term of the latency-rate model"),
    "compute": Parameter(0.6, 0.02, 1.0, 0.3, "share of peak FLOP/s of the products (roofline: Williams 2009)"),
    "exp_s": Parameter(2e-11, 1e-13, 1e-9, 0.3, "softmax per score and SM: exponentials (Shah 2024, FlashAttention-3)"),
    "tile_s": Parameter(2e-6, 1e-9, 1e-5, 0.5, "start and end of a tile per SM (NVIDIA performance guide)"),
    "keys": Parameter(64.0, 8.0, 512.0, 0.5, "keys loaded at a time: tile quantisation (NVIDIA performance guide)"),
    "wave": Parameter(0.5, 0.01, 4.0, 0.5, "share of the longest tile in the tail: list scheduling (Graham 1969)"),
    "wide": Parameter(0.1, 0.02, 10.0, 2.0, "loss for each 128 of head dim above 128: registers (FlashAttention-2)"),
    "traffic": Parameter(1.5, 1.0, 10.0, 0.3, "passes over queries and outputs: rotary, quantise (roofline bytes)"),
    "kv_traffic": Parameter(1.5, 1.0, 40.0, 0.5, "passes over keys and values: writes, dequantise (roofline bytes)"),
    "l2_cycle_bytes": Parameter(16.0, 3.0, 128.0, 0.3, "bytes/cycle from L2 per SM (Jia et al., Dissecting Volta)"),
    "power": Parameter(2.0, 1.0, 8.0, 0.3, "overlap of compute and memory: 1 none (smooth roofline)"),
}
DECODE = {
    "launch_cycles": Parameter(1.5e4, 2e3, 2e5, 0.3, "launch of the kernels; constant term of the latency-rate model"),
    "memory": Parameter(0.8, 0.2, 1.0, 0.2, "share of memory bandwidth reached (roofline: Williams 2009)"),
    "l2_cycle_bytes": Parameter(16.0, 3.0, 128.0, 0.3, "bytes/cycle from L2 per SM (Jia et al., Dissecting Volta)"),
    "compute": Parameter(0.1, 0.002, 1.0, 0.5, "share of peak FLOP/s reached (roofline: Williams 2009)"),
    "token_s": Parameter(1e-8, 1e-10, 1e-6, 1.0, "latency of a cached token in one block (Little's law)"),
    "stream_cycle_bytes": Parameter(16.0, 0.5, 512.0, 1.0, "bytes per cycle of one block alone (Little's law)"),
    "chunk": Parameter(256.0, 16.0, 1e6, 1.0, "least cached tokens of a part (flash-decoding, Dao 2023)"),
    "keys": Parameter(64.0, 1.0, 512.0, 1.0, "cached tokens loaded at least: tile quantisation (NVIDIA guide)"),
    "unit_s": Parameter(1e-6, 1e-9, 1e-5, 0.5, "start and end of a block per SM (NVIDIA performance guide)"),
    "head_s": Parameter(1e-7, 1e-10, 1e-5, 0.5, "a query head's rotary and output per SM (NVIDIA performance guide)"),
    "reduce_s": Parameter(3e-6, 1e-7, 3e-5, 0.5, "merging the parts (flash-decoding, Dao 2023)"),
    "power": Parameter(2.0, 1.0, 8.0, 0.3, "overlap of compute and memory: 1 none (smooth roofline)"),
}


@dataclass(frozen=True)
class Prefill:
    """Prompts of `length`; `packed` query heads share a tile; `dim` is the mean of the key's and the value's."""

    batch: Array
    length: Array
    window: Array
    heads: Array
    packed: Array
    dim: Array
    peak_flop_per_s: Array
    query_bytes: Array
    kv_bytes: Array

    def pairs(self) -> Array:
        """Query-key pairs of one head of one prompt."""
        return np.asarray(self.window * (self.window + 1) / 2 + (self.length - self.window) * self.window)

    def demand(self) -> tuple[Array, Array]:
        """FLOPs over peak; queries, keys, values and outputs once."""
        flops = 4 * self.dim * self.batch * self.heads * self.pairs()
        return flops / self.peak_flop_per_s, self.query_bytes + self.kv_bytes

    def seconds(self, sheet: Datasheet, values: Values) -> Array:
        span = np.minimum(TILE / self.packed, self.length)  # tokens of a tile
        keys = span + values["keys"]
        seen = self.pairs() / self.length + (keys + np.minimum(keys, self.length - self.window)) / 2
        sets = self.batch * self.heads / self.packed
        rows = quantised(self.length * self.packed, ROWS)
        tiles = sets * np.ceil(self.length * self.packed / TILE)
        longest = np.minimum(quantised(self.length, ROWS), TILE) * (
            np.minimum(self.window + span, self.length) + values["keys"] / 2
        )
        reached = values["compute"] / (1 + values["wide"] * np.maximum(self.dim / 128 - 1, 0))
        block_s = 4 * self.dim * sheet.sms / (self.peak_flop_per_s * reached) + values["exp_s"]
        compute = block_s * (sets * rows * seen / sheet.sms + values["wave"] * longest)
        compute = compute + values["tile_s"] * tiles / sheet.sms
        size = values["traffic"] * self.query_bytes + values["kv_traffic"] * self.kv_bytes
        near, far = _speeds(sheet, values, sheet.memory_read_bytes_per_s)
        inside = np.minimum(size, sheet.l2_bytes)
        memory = inside / near + (size - inside) / far
        return np.asarray(values["launch_cycles"] / sheet.clock_hz + smooth_max(compute, memory, values["power"]))


@dataclass(frozen=True)
class Decode:
    """One token per request over `length` cached ones, of `token_bytes` each per unit.

    shared: query heads of a unit. passes: how often the cache is read, from L2 after the first time.
    """

    units: Array
    shared: Array
    length: Array
    dim: Array
    peak_flop_per_s: Array
    token_bytes: Array
    passes: Array
    query_bytes: Array
    divides: bool = True  # whether the kernel cuts a unit into parts

    def _cache_bytes(self) -> Array:
        return np.asarray(self.units / self.passes * self.length * self.token_bytes)

    def demand(self) -> tuple[Array, Array]:
        """FLOPs over peak; the cache, queries and outputs once."""
        flops = 4 * self.dim * self.units * self.shared * self.length
        return flops / self.peak_flop_per_s, self._cache_bytes() + self.query_bytes

    def seconds(self, sheet: Datasheet, values: Values) -> Array:
        padded = smooth_max(self.length, values["keys"], 4.0)
        parts = np.clip(padded / values["chunk"], 1, sheet.sms if self.divides else 1)
        splits = np.maximum(1, np.minimum(sheet.sms / self.units, parts))
        rows = quantised(self.shared, ROWS)
        each = 4 * self.dim * rows * padded * sheet.sms / (self.peak_flop_per_s * values["compute"])
        compute = each * self.units / np.minimum(self.units * splits, sheet.sms)
        near, far = _speeds(sheet, values, sheet.memory_read_bytes_per_s * values["memory"])
        cache = self._cache_bytes()
        size = cache + self.query_bytes
        hit = 1 / (1 + (size / sheet.l2_bytes) ** CLIFF)
        memory = size * (hit / near + (1 - hit) / far) + cache * (self.passes - 1) / near
        waves = 1.0 if self.divides else np.ceil(self.units / sheet.sms)
        stream = values["stream_cycle_bytes"] * sheet.clock_hz
        serial = waves * padded / splits * (values["token_s"] + self.token_bytes / stream)
        fixed = values["launch_cycles"] / sheet.clock_hz + values["reduce_s"] * (1 - 1 / parts)
        fixed = fixed + self.units * (values["unit_s"] + values["head_s"] * self.shared) / sheet.sms
        busy = smooth_max(smooth_max(compute, memory, values["power"]), serial, values["power"])
        return np.asarray(fixed + busy)


class Attention(Kernel):
    """What prefill and decode share: groups, their fallback, and what cannot be answered."""

    targets = TARGETS
    sizes: tuple[str, ...]
    dtypes: tuple[str, str] = ("attn_dtype", "kv_cache_dtype")

    @abstractmethod
    def work(self, rows: Columns, sheet: Datasheet) -> Prefill | Decode:
        """What the rows ask for, in operations, bytes and blocks."""

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        return np.maximum(self.work(rows, sheet).seconds(sheet, values), self.floor(rows, sheet))

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        return self.work(rows, sheet).demand()

    def group(self, rows: Columns) -> np.ndarray:
        """engine/kernel/attention dtype+cache dtype"""
        dtypes = (rows[name] for name in self.dtypes)
        return _named(rows["framework"], variants(rows), *dtypes)

    def fallback(self, group: str, known: list[str]) -> str | None:
        """The known group that agrees in most: first the dtypes, then the engine, then the kernel."""
        engine, variant, dtypes = group.split("/")

        def likeness(other: str) -> tuple[int, ...]:
            theirs = other.split("/")
            halves = [a == b for a, b in zip(theirs[2].split("+"), dtypes.split("+"), strict=True)]
            plain = theirs[1] not in ("triton", "fa4", "mmha")
            return (*halves, theirs[0] == engine, theirs[1] == variant, plain)

        return max(known, key=likeness, default=None)

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        reasons = np.full(len(rows[self.sizes[0]]), "", dtype=object)
        for name in self.dtypes:
            reasons[~np.isin(np.asarray(rows[name], dtype=str), list(WIDTH_BYTES))] = (
                f"column '{name}' must be one of {', '.join(WIDTH_BYTES)}"
            )
        for name in self.sizes:
            reasons[~(_number(rows, name) > 0)] = f"column '{name}' must be above zero"
        return reasons


class Context(Attention):
    """Prefill attention over `isl` tokens."""

    name = table = "attention_context"
    sizes = ("batch_size", "isl", "num_heads", "num_key_value_heads", "head_dim")
    columns = ("framework", "kernel_source", *sizes, "attn_dtype", "kv_cache_dtype", "window_size")
    shape = (*sizes, "window_size")
    parameters = PREFILL

    def work(self, rows: Columns, sheet: Datasheet) -> Prefill:
        batch, length, heads, kv_heads, dim = (_number(rows, name) for name in self.sizes)
        window = _window(rows, length)
        flash2 = variants(rows) == "fa2"
        packs = np.where(flash2, (length == 1) & ~_windowed(rows), np.asarray(rows["framework"]) == "VLLM")
        return Prefill(
            batch,
            length,
            window,
            heads,
            np.where(packs, heads / kv_heads, 1.0),
            dim,
            peaks(rows["attn_dtype"], sheet),
            query_bytes=4 * batch * length * heads * dim,
            kv_bytes=2 * batch * length * kv_heads * dim * widths(rows["kv_cache_dtype"]),
        )


class Generation(Attention):
    """Decode attention over `step` cached tokens and the new one."""

    name = table = "attention_generation"
    sizes = ("batch_size", "step", "num_heads", "num_key_value_heads", "head_dim")
    columns = ("framework", "kernel_source", *sizes, "attn_dtype", "kv_cache_dtype", "window_size")
    shape = (*sizes, "window_size")
    parameters = DECODE

    def group(self, rows: Columns) -> np.ndarray:
        share = _number(rows, "num_heads") / _number(rows, "num_key_value_heads")
        own = np.asarray(rows["framework"]) == "TRTLLM"
        found = variants(rows)
        found = np.where(own & (found == "trtllm") & ((share == 1) | (share > 32)), "mmha", found)
        return _named(rows["framework"], found, *(rows[name] for name in self.dtypes))

    def work(self, rows: Columns, sheet: Datasheet) -> Decode:
        batch, step, heads, kv_heads, dim = (_number(rows, name) for name in self.sizes)
        share = heads / kv_heads
        found = variants(rows)
        alone = (found == "trtllm") & (np.asarray(rows["framework"]) == "TRTLLM") & (share > 32)
        shared = np.where(alone | ((found == "fa2") & _windowed(rows)), 1.0, share)
        return Decode(
            units=batch * heads / shared,
            shared=shared,
            length=_window(rows, step + 1),
            dim=dim,
            peak_flop_per_s=peaks(rows["attn_dtype"], sheet),
            token_bytes=2 * dim * widths(rows["kv_cache_dtype"]),
            passes=share / shared,
            query_bytes=4 * batch * heads * dim,
        )


def variants(rows: Columns) -> np.ndarray:
    """Per row, the kernel behind `kernel_source`; "other" if it is not known."""
    names, places = np.unique(np.asarray(rows["kernel_source"], dtype=str), return_inverse=True)
    kinds = [next((kind for part, kind in VARIANTS.items() if part in name), "other") for name in names.tolist()]

    return np.asarray(kinds, dtype=object)[places]


def peaks(dtypes: np.ndarray, sheet: Datasheet) -> Array:
    """Peak FLOP/s of each row's arithmetic."""
    return np.where(np.asarray(dtypes) == "fp8", sheet.peak("fp8"), sheet.peak("bf16"))


def widths(dtypes: np.ndarray) -> Array:
    """Bytes per cached value."""
    return np.where(np.asarray(dtypes) == "fp8", WIDTH_BYTES["fp8"], WIDTH_BYTES["bfloat16"])


def _named(engines: np.ndarray, kinds: np.ndarray, attention: np.ndarray, cache: np.ndarray) -> np.ndarray:
    rows = zip(engines, kinds, attention, cache, strict=True)
    return np.array([f"{engine}/{kind}/{dtype}+{width}" for engine, kind, dtype, width in rows], dtype=object)


def _number(rows: Columns, name: str) -> Array:
    return np.asarray(rows[name], dtype=np.float64)


def _windowed(rows: Columns) -> np.ndarray:
    return np.asarray(np.nan_to_num(_number(rows, "window_size")) > 0)


def _window(rows: Columns, length: Array) -> Array:
    return np.where(_windowed(rows), np.minimum(_number(rows, "window_size"), length), length)


def _speeds(sheet: Datasheet, values: Values, far: float) -> tuple[float, float]:
    """Bytes/s from L2 and from memory; L2 is never the slower one."""
    return max(values["l2_cycle_bytes"] * sheet.clock_hz * sheet.sms, far), far


KERNELS = (Context(), Generation())
