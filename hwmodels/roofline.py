"""How long an operation takes: the roofline (Williams, Waterman and Patterson, CACM 2009) plus a constant."""

from collections.abc import Mapping

import numpy as np

from hwmodels.device import Device
from hwmodels.efficiency import Efficiency, efficiency
from hwmodels.errors import PlatformError
from hwmodels.near_memory import traffic_bytes
from hwmodels.operators import Array, Work

FALLBACK = {
    "mxfp4": "bf16",
    "fp4": "bf16",
    "int4": "bf16",
    "int8": "bf16",
    "fp8": "bf16",
    "bf16": "fp16",
    "fp16": "fp32",
}
"""What a device without arithmetic in a dtype computes in: narrow weights are dequantised to bf16, bf16
becomes fp16 where it is missing (Turing, Volta), and fp32 where there is no half precision (AVX2)."""

_IDEAL = Efficiency(1.0, 1.0)


def peak_flop_per_s(device: Device, dtype: str) -> float:
    """Peak rate in `dtype` or in the first dtype along FALLBACK which the device has.

    Raises PlatformError if there is none.
    """
    return widened_peak(device.peak_flop_per_s, dtype, f"device '{device.name}'")


def widened_peak(peaks: Mapping[str, float], dtype: str, owner: str) -> float:
    """The entry of `peaks` for `dtype`, or for the first dtype along FALLBACK that there is.

    Raises PlatformError naming the owner if there is none.
    """
    name: str | None = dtype
    while name is not None:
        if name in peaks:
            return peaks[name]
        name = FALLBACK.get(name)
    raise PlatformError(f"{owner} has no peak_flop_per_s for {dtype} nor for a wider dtype.")


def time_s(work: Work, device: Device) -> Array:
    """Seconds, elementwise: by the kernel model of the device's engine where there is one (hwmodels.kernel_times), else

        launch_overhead_s + max(flops / (peak · e_c), bytes / (read bandwidth · e_m))

    e_c and e_m are the efficiencies of the kind of work (hwmodels.efficiency). No work takes no time.

    >>> gpu = Device(kind="gpu", source="made up", peak_flop_per_s={"bf16": 1e12}, memory_read_bytes_per_s=1e9,
    ...              launch_overhead_s=0.5, compute_efficiency={"gemm": 0.5}, memory_efficiency={"gemm": 1.0})
    >>> work = Work("gemm", "bf16", flops=np.array([1e12, 1e9]), size_bytes=np.array([1e9, 1e9]))
    >>> time_s(work, gpu).tolist()  # 0.5 s and max(1e12 / 5e11, 1e9 / 1e9) = 2 s; then 1e9 / 1e9 = 1 s
    [2.5, 1.5]
    """
    overhead, busy = split_s(work, device)
    return overhead + busy


def split_s(work: Work, device: Device) -> tuple[Array, Array]:
    """`time_s` in two parts: (launch, what it takes to move the bytes and to compute)."""
    measured = device.kernels.seconds(work) if device.kernels is not None else None
    if measured is not None:
        total, launch_s = np.maximum(measured[0], floor_s(work, device)), measured[1]
        overhead = np.minimum(launch_s, total - floor_s(work, device))
        return overhead, total - overhead
    compute, memory = _compute_and_memory_s(work, device, efficiency(device, work.kind))
    busy = np.maximum(compute, memory)
    return np.where(busy > 0, device.launch_overhead_s, 0.0), busy


def floor_s(work: Work, device: Device) -> Array:
    """Seconds that physics asks for: as `time_s`, at full efficiency and without overhead."""
    compute, memory = _compute_and_memory_s(work, device, _IDEAL)
    return np.maximum(compute, memory)


def is_memory_bound(work: Work, device: Device) -> np.ndarray:
    """Elementwise: whether moving the bytes takes at least as long as computing."""
    fraction = efficiency(device, work.kind) if device.kernels is None else _IDEAL
    compute, memory = _compute_and_memory_s(work, device, fraction)
    return np.asarray(memory >= compute)


def _compute_and_memory_s(work: Work, device: Device, fraction: Efficiency) -> tuple[Array, Array]:
    if device.memory_read_bytes_per_s <= 0:
        raise PlatformError(f"device '{device.name}' has no memory bandwidth to compute from.")
    compute = work.flops / (peak_flop_per_s(device, work.dtype) * fraction.compute)
    memory = traffic_bytes(work, device) / (device.memory_read_bytes_per_s * fraction.memory)
    return compute, memory
