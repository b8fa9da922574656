"""The constants that a platform's times rest on: their values, where each is from, how far it may be off.

    origin     what it means                                                     standard deviation of the logarithm
    measured   on this machine, or by the maker of a published table             0.03
    fitted     to measured kernels; to a recorded run of this device             the error on unseen shapes; 0.05
    datasheet  the maker's figure, a limit (what is reached of it is a constant  0
               of its own)
    published  by others, of a machine of this kind                              0.05
    assumed    by us                                                             0.20

The spreads of the last column, but for the fitted ones, are themselves assumed. They say which constants an answer can
stand on, and let a run be repeated with each constant drawn from a log-normal distribution (`drawn`).
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from hwmodels.datasheet import datasheet
from hwmodels.device import Device, Link
from hwmodels.efficiency import efficiency
from hwmodels.near_memory import memory_bytes_per_s
from hwmodels.operators import KINDS
from hwmodels.spec import Platform

SPREAD = {"measured": 0.03, "fitted": 0.05, "datasheet": 0.0, "published": 0.05, "assumed": 0.2}
_FIELDS = {
    "gpu": (
        *("peak_flop_per_s", "memory_read_bytes_per_s", "internal_bytes_per_s", "memory_write_latency_s"),
        "launch_overhead_s",
    ),
    "cpu": ("peak_flop_per_s", "launch_overhead_s"),
    "ndp": ("peak_flop_per_s", "memory_read_bytes_per_s", "reuse_flop_per_byte", "launch_overhead_s"),
    "dram": ("memory_read_bytes_per_s", "internal_bytes_per_s"),
    "ssd": ("memory_read_bytes_per_s", "memory_latency_s", "read_bytes_per_s_table"),
    "switch": (),
}
_LINK_FIELDS = ("bandwidth_bytes_per_s", "efficiency", "pageable_efficiency", "latency_s")
_TIMED = ("gemm", "grouped_gemm", "attention")  # kinds that a GPU with an engine times by kernel models


@dataclass(frozen=True)
class Constant:
    """name: device or link, and field ("pcie0.efficiency", "gpu0.kernel_scale.moe"); spread: see the module.

    value is missing where the constant is a table, a set of peaks, or a set of fitted parameters that is not scaled.
    """

    name: str
    value: float | None
    origin: str
    source: str
    spread: float


def constants(platform: Platform) -> list[Constant]:
    """All of them, in the order of the platform's file. Of kernel models those that were asked so far."""
    found = []
    for device in platform.devices.values():
        memory = platform.memory_of(device.name)
        follows = device.kind == "ndp" and device.memory_read_bytes_per_s == memory_bytes_per_s(memory)
        found += list(_of_device(device, ("memory_read_bytes_per_s",) if follows else ()))
    for link in platform.links:
        found += [
            _constant(link, name, getattr(link, name)) for name in _LINK_FIELDS if getattr(link, name) not in (0.0, 1.0)
        ]
    return found


def _of_device(device: Device, left_out: tuple[str, ...]) -> Iterator[Constant]:
    table = device.read_bytes_per_s_table
    for name in _FIELDS[device.kind]:
        value: Any = getattr(device, name)
        if value and name not in left_out and not (table and name in ("memory_read_bytes_per_s", "memory_latency_s")):
            yield _constant(device, name, value if isinstance(value, float | int) else None)
    sides = ("memory_efficiency",) if device.kind in ("dram", "ssd") else ("compute_efficiency", "memory_efficiency")
    for side in sides if device.kind != "switch" else ():
        for kind in ("copy",) if device.kind in ("dram", "ssd") else KINDS:
            if device.engine and kind in _TIMED:
                continue
            found = efficiency(device, kind)
            value = found.compute if side == "compute_efficiency" else found.memory
            if kind in getattr(device, side):
                yield _constant(device, f"{side}.{kind}", value)
            elif value < 1:
                source = "hwmodels.efficiency, the same for every device of this kind"
                yield Constant(f"{device.name}.{side}.{kind}", value, "assumed", source, SPREAD["assumed"])
    if device.kernels is not None:
        chosen = {choice.kernel.name: choice for choice in device.kernels.choices.values()}
        for name, choice in sorted(chosen.items()):
            source = f"{choice.group}, {choice.origin} (docs/fidelity.md)"
            full = f"{device.name}.kernel_scale.{name}"
            value = choice.scale if choice.scale != 1 else None
            yield Constant(full, value, "fitted", source, device.kernels.spread(choice))


def _constant(thing: Device | Link, field: str, value: float | None) -> Constant:
    name = field.split(".")[0]
    sheet = datasheet(thing.datasheet) if isinstance(thing, Device) and thing.datasheet else None
    unsaid = "datasheet" if sheet is not None and getattr(thing, name) == getattr(sheet, name, None) else "assumed"
    origin = thing.origin.get(name, thing.origin.get("others", unsaid))
    return Constant(f"{thing.name}.{field}", value, origin, thing.source, SPREAD[origin])


def scaled(platform: Platform, factors: dict[str, float], draw: int = 0) -> Platform:
    """The platform with constants multiplied by factors, by name; efficiencies stay at most 1.

    draw: of the fitted parameters, as Device.draw. Raises KeyError for a name that is no constant's.
    """
    devices = dict(platform.devices)
    links = {link.name: link for link in platform.links}
    if draw:
        devices = {name: replace(device, draw=draw) if device.engine else device for name, device in devices.items()}
    for name, factor in factors.items():
        owner, field = name.split(".", 1)
        if owner in links:
            link = links[owner]
            value = getattr(link, field) * factor
            links[owner] = replace(link, **{field: min(value, 1.0) if field.endswith("efficiency") else value})
            continue
        before = devices[owner]
        devices[owner] = _scaled(before, field, factor)
        if field in ("memory_read_bytes_per_s", "internal_bytes_per_s"):  # its processors compute from it
            rate = getattr(before, field)
            for other, device in devices.items():
                own = device.kind == "ndp" and rate != memory_bytes_per_s(before)  # a way of its own that is as wide
                if device.memory == owner and device.memory_read_bytes_per_s == rate and not own:
                    devices[other] = _scaled(device, "memory_read_bytes_per_s", factor)
    return replace(platform, devices=devices, links=tuple(links.values()))


def _scaled(device: Device, field: str, factor: float) -> Device:
    name, _, entry = field.partition(".")
    before = getattr(device, name)
    after: Any
    if name == "read_bytes_per_s_table":
        after = [replace(point, bytes_per_s=point.bytes_per_s * factor) for point in before]
    elif name == "kernel_scale":
        after = {**before, entry: before.get(entry, 1.0) * factor}
    elif name.endswith("_efficiency"):
        found = efficiency(device, entry)
        now = found.compute if name == "compute_efficiency" else found.memory
        after = {**before, entry: min(1.0, now * factor)}
    elif isinstance(before, dict):
        after = {key: number * factor for key, number in before.items()}
    else:
        after = before * factor
    return replace(device, **{name: after})


def drawn(platform: Platform, found: list[Constant], number: int, seed: int = 0) -> Platform:
    """The platform with each constant multiplied by exp(spread · z), z standard normal, and another bootstrap draw.

    z depends on the names of platform and constant, the seed and the number alone, so that the same number draws the
    same machine for every policy. A GPU's kernel models are named by kernel and parameters rather than by platform, and
    what else is drawn of a device with a datasheet by that, so that it is the same device on every platform.
    """
    factors = {}
    sheets = {device.name: device.datasheet for device in platform.devices.values()}
    for constant in found:
        if constant.spread:
            owner = constant.name.split(".", 1)[0]
            what = constant.source if constant.origin == "fitted" else sheets.get(owner) or platform.name
            key = zlib.crc32(f"{what}/{constant.name}".encode())
            z = np.random.default_rng([key, seed, number]).standard_normal()
            factors[constant.name] = float(np.exp(constant.spread * z))
    return scaled(platform, factors, number + 1)
