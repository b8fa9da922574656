"""Dense matrix products m×k by k×n as an engine runs them: quantise the activations, multiply, write.

    time    = smooth max(host, launch_cycles / clock + quantise + min over splits s of product(s))
    product = smooth max(compute(s), memory) + reduction(s)
    compute = min over tiles t of  ceil(tiles(t) · s / SMs) · work of one tile
    tile    = 2 · (max(t_m·t_n, small_tile) · ceil(k / 64 s) · 64 + t_m·t_n · tile_depth) / (peak / SMs · compute)
    memory  = smooth max(DRAM bytes / (bandwidth · memory), all bytes / (SMs · clock · l2_cycle_bytes))
    DRAM    = weights · miss(weights in rotation) + activations · miss(working set),  miss(x) = y⁴ / (1 + y⁴) with
              y = x / (l2_share · L2): what fits the cache is read from there
    reduction = split_s + s · m · n · 8 bytes through L2, for s > 1
    quantise  = m · row_s + passes · m · k · (2 + bytes of an activation) / bandwidth, for narrow activations

A library picks the fastest of its kernels, hence the minima: over five tile shapes and over splits of k (1 to 32).
Whole tiles and whole waves are what a GPU runs (tile and wave quantisation). Tiles cost their prologue and epilogue as
so many extra k. Rows were measured with several copies of the weights in rotation, so that weights are read cold
unless all copies fit the cache, whereas the activations of the previous call may still be there. An engine that does
not replay a CUDA graph waits for its host. Every term grows with m, n and k, so the minimum does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Kernel, Parameter, Values, smooth_max
from hwmodels.operators import Array

DTYPES = {
    "bfloat16": (2.0, 2.0, "bf16"),
    "float16": (2.0, 2.0, "bf16"),
    "fp8": (1.0, 1.0, "fp8"),
    "fp8_block": (1.0, 1.0, "fp8"),
    "int8_wo": (1.0, 2.0, "bf16"),
    "int4_wo": (0.5, 2.0, "bf16"),
    "nvfp4": (0.5625, 0.5625, "fp4"),
}
"""Bytes of a weight and of an activation with their scales, and what the product is computed in."""

NEAREST = {"float16": "bfloat16", "int8_wo": "int4_wo", "fp8_block": "fp8", "nvfp4": "fp8", "fp8": "bfloat16"}
"""Where a dtype was not measured: the one whose kernels are closest."""

TILES = ((16, 32), (64, 64), (64, 128), (128, 128), (128, 256))
SPLITS = (1, 2, 4, 8, 16, 32)
STEP = 64  # of k, in which a kernel walks through a tile

QUANTISED = ("fp8", "fp8_block", "nvfp4")  # activations arrive in bf16
COPIES = 6.0  # of the weights, used in turn by the measuring loop
WITHOUT_GRAPH = ("VLLM/fp8_block",)  # launched by the host one by one: kernels differ most in what the host does


TARGETS = {"latency": 1e-3}  # to seconds

PARAMETERS = {
    "launch_cycles": Parameter(5e3, 1e3, 1e6, 0.3, "start and end of the kernels; what a tiny product takes"),
    "host_s": Parameter(1e-6, 1e-7, 1e-3, 0.5, "host's time per call where no CUDA graph is replayed"),
    "compute": Parameter(0.7, 0.1, 1.0, 0.15, "share of the peak in a full tile (roofline: Williams et al. 2009)"),
    "memory": Parameter(0.85, 0.2, 1.0, 0.1, "share of the memory bandwidth in a long stream (roofline)"),
    "overlap": Parameter(2.5, 1.0, 8.0, 0.2, "power of the smooth maximum of compute and memory; 1 adds them"),
    "small_tile": Parameter(
        4096,
        256,
        32768,
        0.3,
        "outputs below which a tile leaves tensor cores idle (NVIDIA, matrix multiplication guide)",
    ),
    "tile_depth": Parameter(
        100, 4, 4000, 0.3, "a tile's prologue and epilogue in steps of k (NVIDIA CUTLASS, efficient GEMM)"
    ),
    "split_s": Parameter(
        2e-6, 1e-7, 1e-2, 0.3, "cost of splitting k over blocks (split-k, CUTLASS); large: never done"
    ),
    "l2_cycle_bytes": Parameter(
        22.0,
        5.0,
        64.0,
        0.2,
        "bytes that one SM draws per cycle from L2 (as microbenchmarked on Volta by Jia et al. 2018)",
    ),
    "l2_share": Parameter(0.8, 0.4, 1.5, 0.2, "share of L2 that keeps a working set between calls"),
    "row_s": Parameter(1e-9, 1e-13, 1e-7, 0.3, "quantising one token: one thread block for each"),
    "passes": Parameter(1.0, 0.01, 10.0, 0.3, "quantising: times its bytes over the memory bandwidth"),
}


class Gemm(Kernel):
    """Rows of the table `gemm`; see the module for the formulas."""

    name = "gemm"
    table = "gemm"
    columns = ("framework", "gemm_dtype", "m", "n", "k")
    shape = ("m", "n", "k")
    targets = TARGETS
    parameters = PARAMETERS

    def group(self, rows: Columns) -> np.ndarray:
        """Engine/dtype, and the kernel where the host launches each: VLLM/fp8_block/DeepGemm..."""
        pairs = [f"{f}/{d}" for f, d in zip(rows["framework"], rows["gemm_dtype"], strict=True)]
        kernels = rows.get("kernel_source", np.full(len(pairs), "unknown", dtype=object))
        return np.array(
            [f"{p}/{k}" if p in WITHOUT_GRAPH else p for p, k in zip(pairs, kernels, strict=True)], dtype=object
        )

    def fallback(self, group: str, known: list[str]) -> str | None:
        """Another kernel of this engine and dtype, then another engine, then the nearest dtype."""
        engine, dtype = group.split("/")[:2]
        nearest: str | None = dtype
        while nearest is not None:
            same = [name for name in known if name.split("/")[1] == nearest]
            for name in sorted(same, key=lambda name: (name.split("/")[0] != engine, "DeepGemm" not in name, name)):
                return name
            nearest = NEAREST.get(nearest)
        return None

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        """A dtype or a size that no product has."""
        out = np.full(len(rows["m"]), "", dtype=object)
        for name in ("m", "n", "k"):
            out[~(np.asarray(rows[name], dtype=np.float64) > 0)] = f"{name} must be above zero"
        for dtype in set(np.asarray(rows["gemm_dtype"]).tolist()) - set(DTYPES):
            out[np.asarray(rows["gemm_dtype"]) == dtype] = f"gemm_dtype '{dtype}' is not one of {', '.join(DTYPES)}"
        return out

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        m, n, k, weight, activation, peak, quantised, copies = _facts(rows, sheet)
        rate = peak / sheet.sms * values["compute"]
        l2_rate = sheet.sms * sheet.clock_hz * values["l2_cycle_bytes"]
        weights, others = weight * n * k, activation * m * k + 2.0 * m * n
        rotation = np.maximum(weights, np.minimum(copies * weights, 1.5 * sheet.l2_bytes))
        room = values["l2_share"] * sheet.l2_bytes
        dram = weights * _miss((rotation + others) / room) + others * _miss((weights + others) / room)
        memory = smooth_max(
            dram / (sheet.memory_read_bytes_per_s * values["memory"]), (weights + others) / l2_rate, 4.0
        )
        product = np.full(len(m), np.inf)
        grids = [(a * b, np.ceil(m / a) * np.ceil(n / b)) for a, b in TILES]
        for split in SPLITS:
            depth = np.ceil(k / (STEP * split)) * STEP
            compute = np.full(len(m), np.inf)
            for area, tiles in grids:
                work = 2.0 * (max(area, values["small_tile"]) * depth + area * values["tile_depth"]) / rate
                compute = np.minimum(compute, np.ceil(tiles * split / sheet.sms) * work)
            reduction = values["split_s"] + 8.0 * split * m * n / l2_rate if split > 1 else 0.0
            product = np.minimum(product, smooth_max(compute, memory, values["overlap"]) + reduction)
        traffic = m * k * (2.0 + activation) / sheet.memory_read_bytes_per_s
        quantise = np.where(quantised, m * values["row_s"] + values["passes"] * traffic, 0.0)
        time = smooth_max(values["host_s"], self.launch_s(sheet, values) + quantise + product, 8.0)
        return np.asarray(np.maximum(time, self.floor(rows, sheet)))

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """FLOPs over peak; weights and activations read and the product written, once."""
        m, n, k, weight, activation, peak, _, _ = _facts(rows, sheet)
        return 2.0 * m * n * k / peak, weight * n * k + activation * m * k + 2.0 * m * n


def _miss(filling: Array) -> Array:
    """Share of bytes that L2 no longer holds, by working set over room: cyclic reuse fails soon after it is full."""
    fourth = filling**4
    return np.asarray(fourth / (1.0 + fourth))


def _facts(rows: Columns, sheet: Datasheet) -> tuple[Any, ...]:
    """m, n, k; bytes of a weight and an activation; peak; whether activations are quantised; copies of the weights."""
    m, n, k = (np.asarray(rows[name], dtype=np.float64) for name in ("m", "n", "k"))
    names, which = np.unique(np.asarray(rows["gemm_dtype"], dtype=str), return_inverse=True)
    facts = [DTYPES.get(name, DTYPES["bfloat16"]) for name in names.tolist()]
    table = np.array([[w, a, sheet.peak(p), name in QUANTISED] for (w, a, p), name in zip(facts, names, strict=True)])
    weight, activation, peak, quantised = table.reshape(-1, 4)[which].T
    single = np.array([name in ("fp8_block", "nvfp4") for name in names.tolist()])[which]
    vllm = np.asarray(rows["framework"], dtype=str) == "VLLM"
    return m, n, k, weight, activation, peak, quantised > 0, np.where(single & vllm, 1.0, COPIES)


KERNELS = (Gemm(),)
