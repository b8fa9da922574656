"""The routed experts of one MoE layer on one GPU: routing, two grouped GEMMs around an activation, combination.

Of the busiest expert-parallel rank (hwmodels.kernels.expert_loads): P (token, expert) pairs, A experts with a token,
n_e tokens of expert e. T tokens enter, k choices each of E experts, El on this rank; hidden width H, expert width I
over the tensor-parallel ranks; G matrices per expert (3, or 2 where the activation is not gated); a weight takes w
bytes and an activation element a. Device: bandwidth B, S multiprocessors, peak F, last-level cache C.

    compute  = 2·G·H·I · min over tiles m of sum over e of ceil(n_e / m)·(m + tile)  /  (compute · F)
    memory   = A·G·H·I·w · rate(A·G·H·I·w + 0.3·local; sharp)
    traffic  = (pair_traffic · pairs·(2Ha + 4(G-1)I + 2Ia + 4H) + token_traffic · T·H·(4 + a)) · rate(0.3·all; gradual)
    overhead = (launch_cycles + step_cycles·(H + I)) / clock + ramp_s·T/(T + 128) + route_s·E + expert_s·A
               + pair_s·T·k/S
    seconds  = max(floor, overhead + traffic + (compute^overlap + memory^overlap)^(1/overlap))

rate(bytes) is 1 / (stream · B), and where the bytes fit in C 1 / (32 GB/s · S), if that is faster: measurements repeat
the same layer, whose weights stay in a large cache. Kernels that keep a place for every pair of the group, local or not
(Triton's and Marlin's), move pairs = T·k, the others P. Block-scaled fp8 kernels visit all El experts, so that expert_s
counts those. Marlin's instructions are Ampere's on every device: F is at most 4 TFLOP/s · S. floor: FLOPs over peak, or
weights beyond C over bandwidth. Nothing falls as T, H or I grow, except where `expert_loads` says that A does.
"""

from __future__ import annotations

import re
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Kernel, Parameter, Values, smooth_max
from hwmodels.kernels.expert_loads import RULES, TILES, Loads, expert_loads
from hwmodels.operators import Array


class _Dtype(NamedTuple):
    """Bytes of a weight and of an activation element, each with its scales, and what the tensor cores compute in."""

    weight: float
    activation: float
    arithmetic: str


DTYPES = {
    "bfloat16": _Dtype(2.0, 2.0, "bf16"),
    "float16": _Dtype(2.0, 2.0, "bf16"),
    "fp8": _Dtype(1.0, 1.0, "fp8"),
    "fp8_block": _Dtype(1 + 4 / 128**2, 1 + 4 / 128, "fp8"),
    "nvfp4": _Dtype(0.5 + 1 / 16, 0.5 + 1 / 16, "fp4"),
    "w4a8_mxfp4_mxfp8": _Dtype(0.5 + 1 / 32, 1 + 1 / 32, "fp8"),
    "w4afp8": _Dtype(0.5 + 2 / 128, 1.0, "fp8"),
    "w4a16_mxfp4": _Dtype(0.5 + 1 / 32, 2.0, "bf16"),
    "int4_wo": _Dtype(0.5 + 2 / 128, 2.0, "bf16"),
}
KINDS = (
    ("nongated", "nongated"),
    ("min_latency", "min_latency"),
    ("deepgemm", "deepgemm"),
    ("vllm_fused_moe", "fused_moe"),
    ("marlin", "marlin"),
    ("triton", "triton"),
    ("flashinfer_cutlass", "cutlass"),
    ("modular", "modular"),
    ("trtllm", "trtllm"),
)
"""What a kernel_source contains -> kind of kernel; else CUTLASS."""

RELU2 = {(2688, 1856), (1024, 2688), (4096, 2688), (2048, 5120), (8192, 5120)}
"""(hidden_size, inter_size) of Nemotron-3's experts, which are not gated (squared ReLU)."""

GROUP_LIMITED = {(7168, 2048, 256, 8): 8}
"""(hidden_size, inter_size, num_experts, topk) -> groups of experts of which a token may use half: DeepSeek-V3."""

PARAMETERS = {
    "launch_cycles": Parameter(
        4e4, 4e3, 4e5, 0.2, "start-up of the chain of kernels (latency-bandwidth model: Hockney 1994)"
    ),
    "ramp_s": Parameter(
        5e-6, 1e-8, 2e-4, 0.4, "more start-up once tokens are sorted by several kernels, not by one block"
    ),
    "route_s": Parameter(
        1e-8, 1e-10, 5e-7, 0.4, "choosing among, and counting for, one expert of the model (linear work)"
    ),
    "expert_s": Parameter(1e-7, 1e-9, 5e-6, 0.4, "one more problem of a grouped GEMM (CUTLASS, grouped scheduler)"),
    "pair_s": Parameter(3e-8, 1e-10, 1e-5, 0.4, "sorting a pair, on one multiprocessor (linear work)"),
    "step_cycles": Parameter(4.0, 0.2, 200.0, 0.4, "a tile's walk along one element of K, by latency (Little's law)"),
    "stream": Parameter(0.9, 0.3, 1.0, 0.1, "part of the memory bandwidth that is reached (roofline: Williams 2009)"),
    "compute": Parameter(
        0.8, 0.1, 1.0, 0.2, "part of the peak that is reached in full tiles (roofline: Williams 2009)"
    ),
    "tile": Parameter(
        30.0, 1.0, 400.0, 0.4, "start of a tile, in rows (tile quantisation: NVIDIA's performance guide)"
    ),
    "overlap": Parameter(2.0, 1.0, 8.0, 0.3, "exponent of the smooth maximum of compute and memory; 1 is no overlap"),
    "pair_traffic": Parameter(1.5, 0.05, 20.0, 0.3, "moves of permuted and intermediate rows, times the counted bytes"),
    "token_traffic": Parameter(
        1.5, 0.05, 20.0, 0.3, "quantising inputs and combining outputs, times the counted bytes"
    ),
}

_TARGETS = {"latency": 1e-3}
_L2_BYTES_PER_S = 32e9  # per multiprocessor: about 20 bytes per clock
_WARP_FLOP_PER_S = 4e12  # per multiprocessor, by the matrix instructions of Ampere, which Marlin uses everywhere
_NUMBERS = ("num_tokens", "hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
_TEXTS = ("framework", "version", "kernel_source", "moe_dtype", "distribution")
_REMEMBERED = 32


class ExpertWork(NamedTuple):
    """What launches of routed experts ask for, whatever the device; arrays of one length, `tiles` one per size."""

    dtype: Array
    by_warp: Array
    tokens: Array
    all_pairs: Array
    experts: Array
    depth: Array
    active: Array
    visited: Array
    pairs: Array
    tiles: Array
    flops_per_token: Array
    weight_bytes: Array
    local_bytes: Array
    pair_bytes: Array
    token_bytes: Array


class Moe(Kernel):
    """Grouped GEMMs of experts, from few tokens each (weights streamed) to many (tensor cores busy)."""

    name = "moe"
    table = "moe"
    columns = (*_TEXTS, *_NUMBERS)
    shape = ("hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size")
    targets = _TARGETS
    parameters = PARAMETERS

    def __init__(self) -> None:
        self._remembered: OrderedDict[tuple[object, ...], ExpertWork] = OrderedDict()

    def group(self, rows: Columns) -> np.ndarray:
        """Engine/dtype/kind of kernel."""
        texts = zip(*(rows[name].tolist() for name in ("framework", "moe_dtype", "kernel_source")), strict=True)
        return np.array([f"{engine}/{dtype}/{_kind(source)}" for engine, dtype, source in texts], dtype=object)

    def fallback(self, group: str, known: list[str]) -> str | None:
        """The nearest by dtype, then kind of kernel, then engine; dtypes by the width of their weights."""
        engine, dtype, kind = group.split("/")
        bits = DTYPES[dtype].weight if dtype in DTYPES else 1.0

        def distance(other: str) -> tuple[float, bool, bool, str]:
            its_engine, its_dtype, its_kind = other.split("/")
            width = abs(np.log(DTYPES[its_dtype].weight / bits)) + (its_dtype != dtype) * 0.01
            odd = its_kind in ("nongated", "fused_moe") and its_kind != kind
            return float(width) + odd * 0.1, its_kind != kind, its_engine != engine, other

        return min(known, key=distance, default=None)

    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        return np.maximum(sum(terms(self._work(rows), sheet, values), np.zeros(1)), self.floor(rows, sheet))

    def floor(self, rows: Columns, sheet: Datasheet) -> Array:
        """FLOPs over peak, or weights that do not fit in the cache over bandwidth."""
        streamed = np.maximum(self._work(rows).weight_bytes - sheet.l2_bytes, 0) / sheet.memory_read_bytes_per_s
        return np.maximum(self.demand(rows, sheet)[0], streamed)

    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """FLOPs of the rank's pairs over peak; weights of its active experts and what `traffic` counts of its pairs."""
        work = self._work(rows)
        peak = np.array([sheet.peak(dtype.arithmetic) for dtype in DTYPES.values()])[work.dtype]
        return work.flops_per_token * work.pairs / peak, work.weight_bytes + work.local_bytes

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        dtype, routing = _codes(rows["moe_dtype"], _is_dtype), _codes(rows["distribution"], _is_routing)
        number = {name: np.asarray(rows[name], dtype=np.float64) for name in _NUMBERS}
        whole = np.all([(column >= 1) & np.isfinite(column) for column in number.values()], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            split = number["num_experts"] % number["moe_ep_size"] == 0
        reasons = np.full(len(dtype), "", dtype=object)
        reasons[number["topk"] > number["num_experts"]] = "topk exceeds num_experts."
        reasons[~split] = "moe_ep_size does not divide num_experts."
        reasons[~whole] = f"one of {', '.join(_NUMBERS)} is below 1 or missing."
        reasons[routing == 0] = "distribution is neither 'balanced' nor 'power_law_' with an exponent above 0."
        reasons[dtype == 0] = f"moe_dtype is none of {', '.join(DTYPES)}."
        return reasons

    def _work(self, rows: Columns) -> ExpertWork:
        """Shapes, bytes and loads of the rows; remembered, because a fit asks for the same rows many times."""
        key = (
            *(np.ascontiguousarray(rows[name]).tobytes() for name in _NUMBERS),
            *(hash(tuple(rows[name].tolist())) for name in _TEXTS),
        )
        if key not in self._remembered:
            self._remembered[key] = _work(rows)
            if len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return self._remembered[key]


def terms(work: ExpertWork, sheet: Datasheet, values: Values, rows_done: Array | None = None) -> tuple[Array, Array]:
    """(overhead, traffic and the products) in seconds, by the formulas of the module.

    rows_done: in place of the sum over experts of ceil(n_e / m)·(m + tile), if it is known.
    """
    v = values
    peak = np.array([sheet.peak(dtype.arithmetic) for dtype in DTYPES.values()])[work.dtype]
    peak = np.where(work.by_warp, np.minimum(peak, _WARP_FLOP_PER_S * sheet.sms), peak)
    slow = 1 / (v["stream"] * sheet.memory_read_bytes_per_s)
    fast = min(1 / (_L2_BYTES_PER_S * sheet.sms), slow)

    def rate(size_bytes: Array, sharpness: float) -> Array:
        return slow + (fast - slow) / (1 + (size_bytes / sheet.l2_bytes) ** sharpness)

    if rows_done is None:
        rows_done = np.min([count * (m + v["tile"]) for count, m in zip(work.tiles, TILES, strict=True)], axis=0)
    compute = work.flops_per_token * rows_done / (v["compute"] * peak)
    memory = work.weight_bytes * rate((work.weight_bytes + 0.3 * work.local_bytes) / 1.05, 16)
    moved = v["pair_traffic"] * work.pair_bytes + v["token_traffic"] * work.token_bytes
    traffic = moved * rate(0.3 * (work.pair_bytes + work.token_bytes), 1)
    cycles = v["launch_cycles"] + v["step_cycles"] * work.depth
    overhead = cycles / sheet.clock_hz + v["ramp_s"] * work.tokens / (work.tokens + 128) + v["route_s"] * work.experts
    overhead += v["expert_s"] * work.visited + v["pair_s"] * work.all_pairs / sheet.sms
    return overhead, traffic + smooth_max(compute, memory, v["overlap"])


def launches(
    kind: str,
    dtype: str,
    experts: int,
    hidden: int,
    width: int,
    matrices: int,
    weight_bytes: float,
    tokens: Array,
    pairs: Array,
    active: Array,
    tiles: Array,
) -> ExpertWork:
    """Launches whose loads are known: `tokens` distinct tokens make `pairs` pairs with `active` of `experts` experts of
    `weight_bytes` each. Shapes (launches,), and (len(TILES), launches) for `tiles`, whole tiles of each size.
    """
    one = np.ones_like(np.asarray(tokens, dtype=np.float64))
    element = DTYPES[dtype].activation
    per_pair = 2 * hidden * element + 4 * (matrices - 1) * width + 2 * width * element + 4 * hidden
    blocks = dtype == "fp8_block" and kind in ("deepgemm", "cutlass")
    token_bytes = tokens * hidden * (4 + element)
    return ExpertWork(
        dtype=np.full(len(one), list(DTYPES).index(dtype)),
        by_warp=np.full(len(one), kind == "marlin"),
        tokens=tokens * one,
        all_pairs=pairs * one,
        experts=experts * one,
        depth=(hidden + width) * one,
        active=active * one,
        visited=experts * one if blocks else active * one,
        pairs=pairs * one,
        tiles=tiles,
        flops_per_token=2.0 * matrices * hidden * width * one,
        weight_bytes=active * weight_bytes,
        local_bytes=pairs * per_pair + token_bytes,
        pair_bytes=pairs * per_pair,
        token_bytes=token_bytes,
    )


def _work(rows: Columns) -> ExpertWork:
    t, h, inter, k, e, tp, ep = (np.asarray(rows[name], dtype=np.float64) for name in _NUMBERS)
    kind = _codes(rows["kernel_source"], _kind)
    dtype = _codes(rows["moe_dtype"], list(DTYPES).index)
    exponent = _codes(rows["distribution"], _exponent)
    vllm = _codes(rows["framework"], "VLLM".__eq__)
    rule = _codes(list(zip(rows["framework"].tolist(), rows["version"].tolist(), strict=True)), _rule)
    relu2 = np.array([shape in RELU2 for shape in zip(h.tolist(), inter.tolist(), strict=True)], dtype=bool)
    # vLLM prepares these two methods' weights for an activation that is not gated, and others' as if it were
    plain = _codes(rows["kernel_source"], lambda source: "unquantized" in source or "modelopt" in source)
    matrices = np.where((kind == "nongated") | (vllm & relu2 & plain), 2.0, 3.0)
    shapes = zip(h.tolist(), inter.tolist(), e.tolist(), k.tolist(), strict=True)
    groups = np.array([GROUP_LIMITED.get(shape, 1) for shape in shapes])
    loads: Loads = expert_loads(t, k, e, ep, exponent, rule, np.where(vllm & (rule == 0), groups, 1))

    width = inter / tp
    weight = np.array([dtype.weight for dtype in DTYPES.values()])[dtype]
    element = np.array([dtype.activation for dtype in DTYPES.values()])[dtype]
    blocks = (dtype == list(DTYPES).index("fp8_block")) & np.isin(kind, ("deepgemm", "cutlass"))
    keeps_all = np.isin(kind, ("triton", "fused_moe", "marlin"))
    per_pair = 2 * h * element + 4 * (matrices - 1) * width + 2 * width * element + 4 * h
    per_expert = matrices * h * width
    token_bytes = t * h * (4 + element)
    return ExpertWork(
        dtype=dtype,
        by_warp=kind == "marlin",
        tokens=t,
        all_pairs=t * k,
        experts=e,
        depth=h + width,
        active=loads.active,
        visited=np.where(blocks, e / ep, loads.active),
        pairs=loads.pairs,
        tiles=loads.tiles,
        flops_per_token=2 * per_expert,
        weight_bytes=loads.active * per_expert * weight,
        local_bytes=loads.pairs * per_pair + token_bytes,
        pair_bytes=np.where(keeps_all, t * k, loads.pairs) * per_pair,
        token_bytes=token_bytes,
    )


def _codes(texts: Any, of: Callable[[Any], Any]) -> np.ndarray:
    """The function of every text, called once for each distinct one."""
    items = texts.tolist() if isinstance(texts, np.ndarray) else texts
    known = {text: of(text) for text in dict.fromkeys(items)}
    return np.array([known[text] for text in items])


def _kind(source: str) -> str:
    return next((kind for part, kind in KINDS if part in source), "cutlass")


def _rule(release: tuple[str, str]) -> int:
    """How the loads that an engine's release was measured with deal what is left over: index into RULES."""
    engine, version = release
    numbers = tuple(int(number) for number in re.findall(r"\d+", str(version))[:2])
    if engine == "TRTLLM":
        return RULES.index("busy" if numbers < (1, 2) else "level")
    return RULES.index("idle" if numbers < (0, 17) else "level")


def _exponent(distribution: str) -> float:
    return 0.0 if distribution == "balanced" else float(distribution.removeprefix("power_law_"))


def _is_dtype(dtype: str) -> bool:
    return dtype in DTYPES


def _is_routing(distribution: str) -> bool:
    found = re.fullmatch(r"power_law_(\d+(\.\d*)?)", str(distribution))
    return distribution == "balanced" or (found is not None and float(found[1]) > 0)


KERNELS = (Moe(),)
