"""What fraction of its peak a device achieves, by kind of operation. Calibrated curves would go here.

DEFAULTS are fixed fractions, one set per kind of device, the same for every preset; none is fitted to a
result. They are the middle of ranges:

- gpu compute: large GEMMs reach 0.70 to 0.85 of peak (AttAcc's simulator caps at 0.80); grouped GEMMs of MoE
  experts about 0.3 at 256 tokens per expert (TriMoE), more when larger; attention 0.5 to 0.7
  (FlashAttention-2, Dao 2023, table of A100 rates).
- gpu memory: streaming reads reach 0.80 to 0.93 (AttAcc's simulator uses 0.85); small kernels less.
- cpu compute: AVX GEMMs about half of peak. A device with AMX states its own: 21.3 of 147 TFLOP/s were
  measured by KTransformers on a Xeon 8452Y (0.145).
- cpu memory: STREAM reaches 0.75 to 0.90 of the channels' peak and quantised matrix-vector kernels 0.60 to
  0.85 of STREAM: 0.82 · 0.73 = 0.60. Attention and norms: the same kind of kernel.
- ndp: few exist. Memory 0.85, what DRAM gives large blocks (refresh and row changes remain where data does not leave
  the module), compute 0.80 (the cap of AttAcc's simulator). A device with measured ones states its own.
- copies: DRAM 0.85 (STREAM, large blocks), flash 0.90 (direct reads of large blocks reach 0.85 to 0.97).
Ranges without a citation are common measured values and not traced to one publication.
"""

from typing import NamedTuple

from hwmodels.device import Device
from hwmodels.errors import PlatformError

_GPU_COMPUTE = {"gemm": 0.75, "grouped_gemm": 0.5, "attention": 0.6, "elementwise": 0.5, "embedding": 0.5}
_GPU_MEMORY = {"gemm": 0.85, "grouped_gemm": 0.85, "attention": 0.8, "elementwise": 0.8, "embedding": 0.5}
_CPU_COMPUTE = dict.fromkeys(_GPU_COMPUTE, 0.5)
_CPU_MEMORY = dict.fromkeys(_GPU_MEMORY, 0.6)

DEFAULTS: dict[str, tuple[dict[str, float], dict[str, float]]] = {
    "gpu": (_GPU_COMPUTE, {**_GPU_MEMORY, "copy": 0.85}),
    "cpu": (_CPU_COMPUTE, {**_CPU_MEMORY, "copy": 0.85}),
    "ndp": (dict.fromkeys(_GPU_COMPUTE, 0.8), dict.fromkeys(_GPU_MEMORY, 0.85)),
    "dram": ({}, {"copy": 0.85}),
    "ssd": ({}, {"copy": 0.9}),
    "switch": ({}, {}),
}
"""Device kind -> (compute efficiency, memory efficiency), each by kind of operation."""


class Efficiency(NamedTuple):
    """Achievable fractions of peak compute and of memory bandwidth."""

    compute: float
    memory: float


def efficiency(device: Device, kind: str) -> Efficiency:
    """The fractions for one kind of operation: the device's own, else the default of its kind.

    Raises PlatformError if a device of this kind does not do that.
    """
    compute_defaults, memory_defaults = DEFAULTS[device.kind]
    memory = device.memory_efficiency.get(kind, memory_defaults.get(kind))
    if kind == "copy" and memory is not None:
        return Efficiency(1.0, memory)
    compute = device.compute_efficiency.get(kind, compute_defaults.get(kind))
    if compute is None or memory is None:
        raise PlatformError(f"device '{device.name}' of kind {device.kind} does not do '{kind}'.")
    return Efficiency(compute, memory)
