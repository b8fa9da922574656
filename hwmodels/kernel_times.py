"""How long a model's operations take on a GPU, by the fitted kernel models of its engine (hwmodels.kernels).

The measured loops repeat one call, so that weights may still lie in the last-level cache. In a model other layers ran
in between: here the datasheet's cache is empty (*cold*), and every byte of weights and KV cache comes from memory.

A model says in how many bits its weights are stored; `_format` turns that into the dtype of the measured kernels. Among
an engine's kernels for that dtype the one is taken that was fitted on this device, else on one of its architecture,
else the one fitted on most devices, and with it the parameters of this device, of its kin, or of those like it
(hwmodels.predict). No time is below what physics asks of the operation (`floor_s`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from hwmodels.datasheet import Datasheet, find_datasheet
from hwmodels.device import Device
from hwmodels.kernels import Kernel, kernels
from hwmodels.kernels.moe import TILES, launches, terms
from hwmodels.operators import Array, Work
from hwmodels.predict import fitted

ODD = ("nongated", "min_latency", "fa4", "mmha")
"""Kernels for special cases, which stand for none of the others."""

SOURCES = {"fa2": "flash_attn", "fused_moe": "vllm_fused_moe"}
"""Kernel in the name of a group -> how the column kernel_source spells it, where that differs."""

KINDS = {"Blackwell": "trtllm"}
"""Architecture -> kernels that engines prefer on it: TensorRT-LLM's, which FlashInfer hands to the others."""

NARROW = {"w4a16_mxfp4": "nvfp4"}
"""Experts whose measured kernels widen weights -> those taken on the architectures of KINDS. Engines run MXFP4 there
with 8-bit activations (TensorRT-LLM's W4A8 kernels, for vLLM by VLLM_USE_FLASHINFER_MOE_MXFP4_MXFP8), which were not
measured; those for NVFP4 stream as many bits."""

GRAPHED = ("TRTLLM",)  # whose block-scaled products were measured within CUDA graphs

MLA_HEAD_DIM = 128  # of the kernels for multi-head latent attention that were measured


@dataclass(frozen=True)
class Choice:
    """Which kernel model answers, with which parameters, and where these are from."""

    kernel: Kernel
    group: str
    values: Mapping[str, float]
    origin: str
    scale: float = 1.0

    def seconds(self, rows: Mapping[str, np.ndarray], sheet: Datasheet) -> Array:
        """What the model says of the rows."""
        return self.scale * self.kernel.seconds(rows, sheet, self.values)

    @property
    def framework(self) -> str:
        """The engine whose kernels these are."""
        return self.group.split("/")[0]

    def source(self, position: int) -> str:
        """The column kernel_source; `position` of the kernel's name in the group's."""
        parts = self.group.split("/")
        name = parts[position] if len(parts) > position else "unknown"
        return SOURCES.get(name, name)


class KernelTimes:
    """The kernels of a device's engine. `choices` holds what was used so far, by operator and dtype."""

    def __init__(self, device: Device) -> None:
        sheet = find_datasheet(device.datasheet, f"device '{device.name}'")
        self._sheet = replace(
            sheet,
            peak_flop_per_s=device.peak_flop_per_s,
            memory_read_bytes_per_s=device.memory_read_bytes_per_s,
            l2_bytes=1,
        )
        self._engine, self._draw, self._scale = device.engine, device.draw, device.kernel_scale
        self.choices: dict[tuple[str, str], Choice] = {}

    def remark(self) -> str:
        """What to know before trusting these times; empty if there is nothing."""
        devices = fitted("gemm").groups[self.choice("gemm", "bfloat16").group]["devices"]
        least = min(_balance(find_datasheet(name, name)) for name in devices)
        mine = _balance(self._sheet)
        if mine >= least:
            return ""
        return (
            f"has {mine:.0f} FLOP/byte, fewer than any GPU whose kernels were measured ({least:.0f} and more):"
            " its GEMM times are extrapolated"
        )

    def spread(self, choice: Choice) -> float:
        """Standard deviation of the logarithm of a kernel's time that its model does not explain."""
        return fitted(choice.kernel.name).spread(choice.group, self._sheet)

    def seconds(self, work: Work) -> tuple[Array, float] | None:
        """(seconds, of which the launch), shaped like `work.flops`; None where there is no kernel model."""
        if not work.shape:
            return None
        if work.kind == "gemm":
            return self._gemm(work)
        if work.shape["kv_heads"] or work.shape["head_dim"] == MLA_HEAD_DIM:
            return self._attention(work)
        return None

    def _gemm(self, work: Work) -> tuple[Array, float]:
        choice = self.choice("gemm", _format(float(work.shape["weight_bits"]), work.dtype, self._sheet))
        m, n, k = (_flat(work.shape[name], work) for name in ("m", "n", "k"))
        rows = _rows(m, choice, 2, gemm_dtype=choice.group.split("/")[1])
        return self._answer(choice, {**rows, "m": np.maximum(m, 1), "n": n, "k": k}, work)

    def _attention(self, work: Work) -> tuple[Array, float]:
        shape = {name: _flat(value, work) for name, value in work.shape.items()}
        new, length = np.maximum(shape["tokens"], 1), np.maximum(shape["kv_len"], 1)
        decode = new <= 1
        mla = not work.shape["kv_heads"]
        cache = "fp8" if work.shape["kv_bits"] <= 8 else "bfloat16"
        arithmetic = "fp8" if work.dtype == "fp8" and "fp8" in self._sheet.peak_flop_per_s else "bfloat16"
        # a prompt of which a part has run already takes as long as a shorter one with as many query-key pairs
        prompt = np.where(new == length, new, np.sqrt(2 * new * (length - new / 2)))
        parts = []
        for phase, sizes in (
            ("generation", {"step": np.maximum(length - 1, 1)}),
            ("context", {"isl": np.maximum(prompt, 1)}),
        ):
            used = decode if phase == "generation" else ~decode
            if not used.any():
                continue
            choice = self.choice(f"{'mla' if mla else 'attention'}_{phase}", f"{arithmetic}+{cache}")
            its, its_cache = choice.group.split("/")[2].split("+")
            rows = _rows(new, choice, 1, kv_cache_dtype=its_cache, **{"mla_dtype" if mla else "attn_dtype": its})
            rows |= {
                "batch_size": np.maximum(shape["sequences"], 1),
                "num_heads": shape["heads"],
                "num_key_value_heads": shape["kv_heads"],
                "head_dim": shape["head_dim"],
                "window_size": shape["window"],
                **sizes,
            }
            rows = {name: values[used] for name, values in rows.items()}
            own = replace(choice, values=self._values(choice.kernel, str(choice.kernel.group(rows)[0])))
            parts.append((used, choice, own.seconds(rows, self._sheet)))
        total, launch = np.zeros(len(new)), 0.0
        for used, choice, seconds in parts:
            total[used] = seconds
            launch = choice.scale * choice.kernel.launch_s(self._sheet, choice.values)
        return _shaped(total, work), launch

    def _values(self, kernel: Kernel, group: str) -> Mapping[str, float]:
        """Parameters of a group: the fitted ones, or those of the device's draw."""
        if self._draw:
            return fitted(kernel.name).drawn(kernel, group, self._sheet, self._draw - 1)
        found = fitted(kernel.name).values(kernel, group, self._sheet)
        assert found is not None  # there is a stand-in for every group
        return found[0]

    def _answer(self, choice: Choice, rows: Mapping[str, np.ndarray], work: Work) -> tuple[Array, float]:
        launch = choice.scale * choice.kernel.launch_s(self._sheet, choice.values)
        return _shaped(choice.seconds(rows, self._sheet), work), launch

    def choice(self, name: str, dtype: str, plain: bool = False) -> Choice:
        """The kernel of this engine for a dtype; `plain`: experts of two matrices rather than three.

        On the architectures of KINDS, theirs for attention and for gated experts. Block-scaled products are those of
        GRAPHED: others were measured with the host that launches them.
        """
        key = (name, dtype)
        if key not in self.choices:
            kernel, parameters = kernels()[name], fitted(name)
            engine = GRAPHED[0] if (name, dtype) == ("gemm", "fp8_block") else self._engine
            kind = KINDS.get(self._sheet.architecture, "")
            group = f"VLLM/{dtype}/{kind}" if name == "moe" else f"{engine}/{kind}/{dtype}"
            if not kind or plain or group not in parameters.groups:
                group = self._usual(kernel, engine, sorted(parameters.groups), dtype, plain)
            found = parameters.values(kernel, group, self._sheet)
            assert found is not None  # the group is one of the fitted ones
            values, scale = self._values(kernel, group), self._scale.get(kernel.name, 1.0)
            self.choices[key] = Choice(kernel, group, values, found[1], scale)
        return self.choices[key]

    def _usual(self, kernel: Kernel, engine: str, groups: list[str], dtype: str, plain: bool) -> str:
        mine = [group for group in groups if _dtype(group) == dtype]
        mine = [group for group in mine if group.startswith(f"{engine}/")] or mine
        if not mine:
            text = f"{engine}/trtllm/{dtype}" if "+" in dtype else f"{engine}/{dtype}/cutlass"
            nearest = kernel.fallback(text, groups)
            assert nearest is not None  # there are groups
            return self._usual(kernel, engine, groups, _dtype(nearest), plain)
        wanted = [group for group in mine if ("nongated" in group) == plain]
        mine = [group for group in wanted or mine if plain or not set(ODD) & set(group.split("/"))] or mine
        all_devices = fitted(kernel.name).groups

        def rank(group: str) -> tuple[bool, bool, int, str]:
            devices = all_devices[group]["devices"]
            kin = any(find_datasheet(name, name).architecture == self._sheet.architecture for name in devices)
            return self._sheet.name not in devices, not kin, -len(devices), group

        return min(mine, key=rank)

    def experts(
        self, hidden: int, width: int, matrices: int, experts: int, weight_bytes: int, dtype: str
    ) -> ExpertTimes:
        """Launches of routed experts of this size."""
        bits = 8 * weight_bytes / (matrices * hidden * width)
        wanted = _expert_format(bits, dtype, self._sheet)
        if self._sheet.architecture in KINDS:
            wanted = NARROW.get(wanted, wanted)
        choice = self.choice("moe", wanted, plain=matrices == 2)
        return ExpertTimes(choice, self._sheet, hidden, width, matrices, experts, weight_bytes)


class ExpertTimes:
    """Seconds of launches of routed experts, by the tokens that each serves."""

    def __init__(
        self,
        choice: Choice,
        sheet: Datasheet,
        hidden: int,
        width: int,
        matrices: int,
        experts: int,
        weight_bytes: float,
    ) -> None:
        self._choice, self._sheet = choice, sheet
        self._sizes = (experts, hidden, width, matrices, weight_bytes)
        self._kind = choice.group.split("/")[2]

    def seconds(
        self, tokens: Array, pairs: Array, active: Array, tiles: Array, rows_done: Array | None = None
    ) -> tuple[Array, Array]:
        """(overhead, busy) of launches: `active` experts serve `pairs` pairs of `tokens` distinct tokens.

        tiles: (len(TILES), launches), whole tiles of each size; rows_done: see hwmodels.kernels.moe.terms.
        """
        dtype = self._choice.group.split("/")[1]
        work = launches(self._kind, dtype, *self._sizes, tokens, pairs, active, tiles)
        overhead, busy = terms(work, self._sheet, self._choice.values, rows_done)
        return self._choice.scale * overhead, self._choice.scale * busy

    def least_rows(self, tokens: Array) -> Array:
        """Rows that one expert computes at least for so many tokens, starts of tiles included."""
        tile = self._choice.values["tile"]
        return np.min([np.ceil(tokens / m) * (m + tile) for m in TILES], axis=0)


def _balance(sheet: Datasheet) -> float:
    """FLOP/s for each byte/s."""
    return sheet.peak("bf16") / sheet.memory_read_bytes_per_s


def _format(bits: float, arithmetic: str, sheet: Datasheet) -> str:
    """The dtype of a measured GEMM for weights stored in so many bits."""
    if bits > 12:
        return "bfloat16"
    if arithmetic == "fp4" and "fp4" in sheet.peak_flop_per_s:
        return "nvfp4"
    if 8 < bits < 8.1 and arithmetic == "fp8" and "fp8" in sheet.peak_flop_per_s:
        return "fp8_block"  # with a scale for each block of weights
    if bits > 6:
        return "fp8" if "fp8" in sheet.peak_flop_per_s else "int8_wo"
    return "int4_wo"


def _expert_format(bits: float, arithmetic: str, sheet: Datasheet) -> str:
    """The same for experts: without fp8 arithmetic narrow weights are widened as 4-bit ones are; MXFP4 has a scale of
    8 bits for 32 weights."""
    dtype = _format(bits, arithmetic, sheet)
    if dtype == "int4_wo" and 4.2 < bits < 4.3:
        return "w4a16_mxfp4"
    return "int4_wo" if dtype == "int8_wo" else dtype


def _dtype(group: str) -> str:
    """The part of a group's name that says the dtype; with a plus where the cache has its own."""
    parts = group.split("/")
    return next((part for part in parts if "+" in part), parts[1])


def _flat(value: object, work: Work) -> Array:
    return np.broadcast_to(np.asarray(value, dtype=np.float64), np.shape(work.flops)).ravel()


def _shaped(seconds: Array, work: Work) -> Array:
    """Zero where there is no work."""
    out = np.reshape(seconds, np.shape(work.flops))
    return np.where((work.flops > 0) | (work.size_bytes > 0), out, 0.0)


def _rows(like: Array, choice: Choice, position: int, **texts: str) -> dict[str, np.ndarray]:
    """Columns of text that are alike in all rows."""
    texts = {"framework": choice.framework, "kernel_source": choice.source(position), **texts}
    return {name: np.full(len(like), text, dtype=object) for name, text in texts.items()}
