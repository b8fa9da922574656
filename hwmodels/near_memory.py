"""Processors that compute where a memory is (kind `ndp`): what they read, and rules for their fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from hwmodels.errors import PlatformError
from hwmodels.operators import Array, Work

if TYPE_CHECKING:
    from hwmodels.device import Device

_NDP_FIELDS = ("macs", "clock_hz", "reuse_flop_per_byte", "access_granularity_bytes", "area_mm2", "tier_bytes_per_s")
MAC_DTYPE = "fp16"  # 16-bit multiply-adds; bf16 runs at the same rate (hwmodels.roofline.FALLBACK)


def memory_bytes_per_s(memory: Device) -> float:
    """What all that compute from a memory, and copies from it, get together at most."""
    return memory.internal_bytes_per_s or memory.memory_read_bytes_per_s


PIN_SLACK = 1.001  # above which a bandwidth is more than its pins carry: figures are rounded


def pin_bytes_per_s(memory: Device) -> float:
    """What the wires of a memory carry, a bit per wire and transfer; 0 if the file does not say."""
    return memory.data_pins * memory.pin_rate_hz / 8


def exceeds_pins(memory: Device) -> bool:
    """Whether a memory gives more inside than the wires that it states carry."""
    return bool(memory.data_pins) and memory_bytes_per_s(memory) > PIN_SLACK * pin_bytes_per_s(memory)


def traffic_bytes(work: Work, device: Device) -> Array:
    """Bytes that an operation moves on a device, elementwise: those of ideal reuse, but

        max(size_bytes, flops / reuse_flop_per_byte), rounded up to access_granularity_bytes

    A unit without room to reuse weights (GEMV) reads them again for every row: with 16-bit weights one row is 2
    operations on 2 bytes, hence 1 FLOP/byte; a buffer of n rows is n FLOP/byte (Duplex, arXiv 2409.01141, counts so).
    """
    size = work.size_bytes
    if device.reuse_flop_per_byte:
        size = np.maximum(size, work.flops / device.reuse_flop_per_byte)
    if device.access_granularity_bytes:
        size = np.ceil(size / device.access_granularity_bytes) * device.access_granularity_bytes
    return size


def with_peak(device: Device, at: str) -> Device:
    """An ndp with its peak rate from multiply-adds per cycle and clock: two operations each. `at` begins messages.

    Raises PlatformError if only one of the two is given, or the peak as well.
    """
    if not (device.macs or device.clock_hz):
        return device
    if device.peak_flop_per_s or not (device.macs and device.clock_hz):
        raise PlatformError(f"{at}.macs' goes with clock_hz, both in place of peak_flop_per_s.")
    return replace(device, peak_flop_per_s={MAC_DTYPE: 2.0 * device.macs * device.clock_hz})


def check_near_memory(device: Device, at: str) -> None:
    """Raises PlatformError if a field does not go with the device's kind; `at` begins messages."""
    for name in _NDP_FIELDS:
        if getattr(device, name) and device.kind != "ndp":
            raise PlatformError(f"{at}.{name}' is only for an ndp, not a {device.kind}.")
    if device.kind == "ndp" and device.memory_capacity_bytes:
        raise PlatformError(f"{at}.memory_capacity_bytes' is that of the memory it names; expected it left out.")
    if device.regions and device.kind != "gpu":
        raise PlatformError(f"{at}.regions' is only for a gpu, whose memory units share with it, not a {device.kind}.")
    if device.tier_bytes_per_s and min(device.tier_bytes_per_s) <= 0:
        raise PlatformError(f"{at}.tier_bytes_per_s' must hold rates above zero, got {device.tier_bytes_per_s}.")
    if device.internal_bytes_per_s:
        if device.kind not in ("gpu", "dram"):
            raise PlatformError(f"{at}.internal_bytes_per_s' is only for a gpu or dram, not a {device.kind}.")
        if device.internal_bytes_per_s < device.memory_read_bytes_per_s:
            raise PlatformError(
                f"{at}.internal_bytes_per_s' must be at least memory_read_bytes_per_s"
                f" ({device.memory_read_bytes_per_s}), got {device.internal_bytes_per_s}."
            )


def check_near_its_memory(device: Device, devices: Mapping[str, Device], where: str) -> None:
    """Raises PlatformError unless an ndp names a memory that is at least as fast as its path to it."""
    if device.kind != "ndp":
        return
    at = f"{where}: field 'devices.{device.name}"
    memory = devices.get(device.memory)
    if memory is None or memory.kind not in ("dram", "gpu"):
        raise PlatformError(f"{at}.memory' must name a dram or gpu, got '{device.memory}'.")
    for key, rate in (
        ("memory_read_bytes_per_s", device.memory_read_bytes_per_s),
        ("tier_bytes_per_s", max(device.tier_bytes_per_s, default=0.0)),
    ):
        if rate > memory_bytes_per_s(memory):
            raise PlatformError(
                f"{at}.{key}' must be at most what {memory.name} gives inside"
                f" ({memory_bytes_per_s(memory)}), got {rate}."
            )


def near_units(
    named: Sequence[str], devices: Mapping[str, Device], workers: Sequence[str], home: str, where: str
) -> tuple[str, ...]:
    """The units of a platform: those named, if any, else every ndp. Raises PlatformError for one that cannot be one."""
    named = named or [name for name, device in devices.items() if device.kind == "ndp"]
    for name in named:
        if name not in devices or devices[name].kind not in ("ndp", "cpu") or name in workers:
            raise PlatformError(f"{where}: field 'units' must name an ndp, or a cpu that is no worker, got '{name}'.")
    if len(set(named)) < len(named):
        raise PlatformError(f"{where}: field 'units' must not name a device twice.")
    for name in named:
        if devices[name].memory not in (home, *workers):
            raise PlatformError(
                f"{where}: field 'units': '{name}' computes from '{devices[name].memory}'; expected the home of the"
                f" experts ('{home}') or the memory of a worker."
            )
    return tuple(named)
