"""Kernel times of a serving engine: those of hwmodels.kernel_times, in the dtypes of a Precision, in CUDA graphs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from hwmodels import roofline
from hwmodels.datasheet import find_datasheet
from hwmodels.device import Device
from hwmodels.kernel_times import KINDS, NARROW, KernelTimes
from hwmodels.kernels import Kernel
from hwmodels.operators import Array, Work
from simulator.layout import Layout
from simulator.model import ModelSpec
from simulator.serving.precision import BITS, Precision

ROUTING = "power_law_1.01"
"""How tokens are taken to spread over experts: the milder of the two skewed routings that were measured."""

SMALL_KERNEL_S = 2e-6  # a norm or an activation of few tokens within a CUDA graph; assumed, half a launch from a host
HOST_S = 1e-9  # no host is waited for when a graph is replayed


class ServingKernels(KernelTimes):
    """Kernels of `engine` (VLLM or TRTLLM) on the GPU of a datasheet (a preset's name, or a YAML file's path)."""

    def __init__(self, sheet_name: str, engine: str, precision: Precision) -> None:
        sheet = find_datasheet(sheet_name, "system")
        peaks = dict(sheet.peak_flop_per_s)
        if "bf16" in peaks:
            peaks.setdefault("fp16", peaks["bf16"])  # datasheets give both in one row
        self.device = Device(
            kind="gpu",
            source="datasheet",
            name=sheet.name,
            datasheet=sheet_name,
            engine=engine,
            peak_flop_per_s=peaks,
            memory_capacity_bytes=int(sheet.memory_capacity_bytes),
            memory_read_bytes_per_s=sheet.memory_read_bytes_per_s,
            launch_overhead_s=SMALL_KERNEL_S,
        )
        super().__init__(self.device)
        self.sheet, self.precision = sheet, precision

    def _values(self, kernel: Kernel, group: str) -> Mapping[str, float]:
        values = super()._values(kernel, group)
        return {**values, "host_s": HOST_S} if "host_s" in values else values

    def work_s(self, work: Work) -> Array:
        """Seconds of one operation; a roofline where no kernel of its kind was measured."""
        found = self.seconds(work)
        if found is not None:
            return found[0]
        plain = replace(self.device, engine="")
        return roofline.time_s(work, plain)

    def experts_s(self, spec: ModelSpec, layout: Layout, tokens: Array) -> Array:
        """Seconds of a layer's routed experts on the busiest rank, for `tokens` tokens of all attention groups."""
        stored = self.precision.experts
        wanted = NARROW.get(stored, stored) if self.sheet.architecture in KINDS else stored
        choice = self.choice("moe", wanted, plain=spec.ffn_matrices == 2)
        framework, dtype, kind = choice.group.split("/")
        rows: dict[str, np.ndarray] = {
            "framework": np.full(len(tokens), framework, dtype=object),
            "version": np.full(len(tokens), "9.9", dtype=object),  # the newest rule of hwmodels.kernels.expert_loads
            "kernel_source": np.full(len(tokens), kind if kind != "fused_moe" else "vllm_fused_moe", dtype=object),
            "moe_dtype": np.full(len(tokens), dtype, dtype=object),
            "distribution": np.full(len(tokens), ROUTING, dtype=object),
            "num_tokens": np.maximum(np.round(tokens), 1.0),
        }
        sizes = {
            "hidden_size": spec.hidden,
            "inter_size": max(spec.expert_intermediate, layout.moe_tp),
            "topk": spec.top_k,
            "num_experts": spec.experts,
            "moe_tp_size": layout.moe_tp,
            "moe_ep_size": layout.moe_ep,
        }
        rows |= {name: np.full(len(tokens), float(value)) for name, value in sizes.items()}
        scale = BITS[stored] / BITS[dtype] if dtype in BITS else 1.0
        return choice.seconds(rows, self._sheet) * (scale if scale > 1 else 1.0)
