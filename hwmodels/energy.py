"""What moving a bit, an operation and the passing of time cost in energy, on a device or a link.

A number that the platform states counts first (`memory_read_pj_per_bit`, `flop_pj`, `pj_per_bit`), then that of the
technology it names (`memory_technology`, `process`, `technology`), then that of the technology which follows from the
GPU's datasheet or from the kind of drive or link. Technologies, with their sources, are in energy.yaml.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from hwmodels.errors import PlatformError
from hwmodels.roofline import FALLBACK

if TYPE_CHECKING:
    from hwmodels.device import Device, Link

TECHNOLOGIES = Path(__file__).with_name("energy.yaml")
BITS = 8  # of a byte


class EnergyUnknown(PlatformError):
    """A constant that an account of energy needs is neither stated nor known; the message says which."""


@dataclass(frozen=True)
class Picojoules:
    """A constant, in pJ per bit or per operation; origin and source as of a Device; technology: its name, or empty."""

    value: float
    origin: str
    source: str
    technology: str = ""


@cache
def technologies() -> dict[str, dict[str, Any]]:
    """energy.yaml: memories, links, processes, and what is inferred."""
    found: dict[str, dict[str, Any]] = yaml.safe_load(TECHNOLOGIES.read_text(encoding="utf-8"))
    return found


def memory_technology(device: "Device") -> str:
    """The technology of a device's own memory; empty if it is neither named nor clear."""
    inferred = technologies()["inferred"]
    by_sheet: list[str] = inferred["datasheets"].get(device.datasheet, ["", ""])
    return device.memory_technology or by_sheet[0] or inferred["kinds"].get(device.kind, "")


def memory_pj_per_bit(device: "Device", write: bool = False) -> Picojoules:
    """Of reading a bit of a device's memory, or of writing one. Raises EnergyUnknown."""
    what = "write" if write else "read"
    key = f"memory_{what}_pj_per_bit"
    if stated := getattr(device, key):
        return Picojoules(stated, _origin(device, key), device.source)
    name = memory_technology(device)
    entry = technologies()["memories"].get(name, {})
    if f"{what}_pj_per_bit" in entry:
        return Picojoules(entry[f"{what}_pj_per_bit"], entry["origin"], entry["source"], name)
    of = f"what a {what} of {name} costs is not known" if name else "no memory_technology is named"
    raise EnergyUnknown(f"device '{device.name}': {of}; expected {key}, or a technology of hwmodels/energy.yaml")


def flop_pj(device: "Device", dtype: str) -> Picojoules:
    """Of one operation in `dtype`, or in the wider type in which the device computes it.

    A cpu that states neither `flop_pj` nor `process` takes its power above idle at its peak, (tdp - idle) / peak: its
    instructions cost far more than their arithmetic. Raises EnergyUnknown.
    """
    computed = _first(device.peak_flop_per_s, dtype) or dtype
    if device.flop_pj:
        name = _first(device.flop_pj, computed)
        if name is not None:
            return Picojoules(device.flop_pj[name], _origin(device, "flop_pj"), device.source)
    process = device.process or technologies()["inferred"]["datasheets"].get(device.datasheet, ["", ""])[1]
    entry = technologies()["processes"].get(process)
    if entry is not None and (name := _first(entry["flop_pj"], computed)) is not None:
        return Picojoules(entry["flop_pj"][name], entry["origin"], entry["source"], process)
    if device.kind == "cpu" and device.tdp_w > device.idle_power_w and computed in device.peak_flop_per_s:
        per_flop_j = (device.tdp_w - device.idle_power_w) / device.peak_flop_per_s[computed]
        return Picojoules(per_flop_j * 1e12, "assumed", "(tdp_w - idle_power_w) / peak_flop_per_s of the platform")
    raise EnergyUnknown(
        f"device '{device.name}': what an operation in {computed} costs is not known; expected flop_pj, or a process of"
        " hwmodels/energy.yaml"
    )


def link_pj_per_bit(link: "Link") -> Picojoules:
    """Of a bit that crosses a link, in either direction. Raises EnergyUnknown."""
    if link.pj_per_bit:
        return Picojoules(link.pj_per_bit, _origin(link, "pj_per_bit"), link.source)
    name = link.technology or technologies()["inferred"]["links"].get(link.kind, "")
    entry = technologies()["links"].get(name)
    if entry is None:
        raise EnergyUnknown(f"link '{link.name}': expected pj_per_bit, or a technology of hwmodels/energy.yaml")
    return Picojoules(entry["pj_per_bit"], entry["origin"], entry["source"], name)


def background_w(device: "Device") -> float:
    """What a device draws whether it works or not: its idle power, or a memory's power per GB (10^9 bytes)."""
    if device.idle_power_w or device.kind != "dram":
        return device.idle_power_w
    entry = technologies()["memories"].get(memory_technology(device), {})
    return float(entry.get("background_w_per_gb", 0.0)) * device.memory_capacity_bytes / 1e9


def told(thing: "Device | Link") -> str:
    """The prices of a device or a link in words, with technology and origin; empty for a switch.

    >>> from hwmodels import Link
    >>> told(Link(name="pcie0", kind="pcie", a="dram", b="gpu0", bandwidth_bytes_per_s=1e9, source="made up"))
    '6 pJ/bit (pcie, assumed)'
    """
    from hwmodels.device import Link

    if isinstance(thing, Link):
        return _told("{} pJ/bit", lambda: link_pj_per_bit(thing))
    words = []
    if thing.kind not in ("cpu", "switch"):
        words.append(_told("reads {} pJ/bit", lambda: memory_pj_per_bit(thing)))
    dtype = next((name for name in ("bf16", "fp16", "fp32") if name in thing.peak_flop_per_s), None)
    if dtype is not None:
        words.append(_told(f"{{}} pJ per operation in {dtype}", lambda: flop_pj(thing, dtype)))
    return ", ".join(words)


def _told(text: str, price: Callable[[], Picojoules]) -> str:
    try:
        found = price()
    except EnergyUnknown:
        return text.format("unknown")
    by = f"{found.technology}, {found.origin}" if found.technology else found.origin
    return f"{text.format(f'{found.value:.3g}')} ({by})"


def check_energy(thing: "Device | Link", at: str) -> None:
    """Raises PlatformError for a technology that energy.yaml does not have, or a negative number."""
    for key, group in (("memory_technology", "memories"), ("process", "processes"), ("technology", "links")):
        name, known = getattr(thing, key, ""), technologies()[group]
        if name and name not in known:
            raise PlatformError(f"{at}.{key}' must be one of {', '.join(known)}, got '{name}'.")
    for key in ("memory_read_pj_per_bit", "memory_write_pj_per_bit", "pj_per_bit"):
        if getattr(thing, key, 0.0) < 0:
            raise PlatformError(f"{at}.{key}' must not be negative, got {getattr(thing, key)}.")
    for dtype, value in getattr(thing, "flop_pj", {}).items():
        if value <= 0:
            raise PlatformError(f"{at}.flop_pj.{dtype}' must be above zero, got {value}.")


def _first(values: dict[str, float], dtype: str) -> str | None:
    """The first of `dtype` and the wider types it falls back on which `values` has."""
    name: str | None = dtype
    while name is not None and name not in values:
        name = FALLBACK.get(name)
    return name


def _origin(thing: "Device | Link", key: str) -> str:
    return thing.origin.get(key, thing.origin.get("others", "assumed"))
