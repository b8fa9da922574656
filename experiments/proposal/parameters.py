"""The parameters of a proposed machine that decide whether it is worth building, as changes of its file's values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.proposal.cases import Changes
from hwmodels import Platform
from hwmodels.units import format_quantity, parse_quantity, unit_of_key

GIB = 2**30


@dataclass(frozen=True)
class Parameter:
    """values: dotted key of the configuration -> its value, all of which are multiplied by the same factor.

    The first one is what is shown, in `unit` (of hwmodels.units; "" for a plain number).
    """

    name: str
    values: Mapping[str, float] = field(hash=False)
    unit: str

    def changes(self, factor: float) -> Changes:
        """The configuration with this parameter `factor` times as large; capacities are whole bytes."""
        return {key: _whole(key, value * factor) for key, value in self.values.items()}

    def text(self, factor: float) -> str:
        """Its value at a factor, with a unit."""
        value = next(iter(self.values.values())) * factor
        if self.unit in ("", "gib"):
            return f"{value:.3g}{' GiB' if self.unit else ''}"
        return format_quantity(value if self.unit == "bytes" else float(f"{value:.3g}"), self.unit)


def parameters(platform: Platform, node: Mapping[str, Any], cache_gib: float | None) -> list[Parameter]:
    """Those that the machine has.

    node: the platform of a configuration, as in its file; cache_gib: what the worker has for experts.

    internal bandwidth: of the memories that units compute from, else of the home of the experts; arithmetic: of the
    units; weight reuse: of their buffers, if stated; link: of all links between home and workers; capacity: of the
    home; expert budget: of each worker.
    """
    units = [name for name in platform.units if platform.devices[name].kind == "ndp"]
    memories = list(dict.fromkeys(platform.devices[unit].memory for unit in units)) or [platform.home]
    inside: dict[str, float] = {}
    for name in memories:
        internal = platform.devices[name].internal_bytes_per_s
        inside |= _device(platform, node, name, "internal_bytes_per_s" if internal else "memory_read_bytes_per_s")
    for unit in units:
        if "memory_read_bytes_per_s" in node["devices"].get(_key(node, unit), {}):
            inside |= _device(platform, node, unit, "memory_read_bytes_per_s")
    compute: dict[str, float] = {}
    reuse: dict[str, float] = {}
    for unit in units:
        key = _key(node, unit)
        if node["devices"][key].get("clock_hz"):
            peak = max(platform.devices[unit].peak_flop_per_s.values())
            clock = platform.devices[unit].clock_hz
            compute[f"platform.devices.{key}.clock_hz"] = clock
            shown = peak / clock
        else:
            for dtype, value in platform.devices[unit].peak_flop_per_s.items():
                compute[f"platform.devices.{key}.peak_flop_per_s.{dtype}"] = value
            shown = 1.0
        if platform.devices[unit].reuse_flop_per_byte:
            reuse |= _device(platform, node, unit, "reuse_flop_per_byte")
    names = {link.name for worker in platform.workers for link in platform.route(platform.home, worker)}
    link: dict[str, float] = {}
    for place, entry in enumerate(node.get("links") or []):
        own = str(entry["name"])
        if own in names or (entry.get("ends") and any(name.startswith(own) for name in names)):
            value = parse_quantity(entry["bandwidth_bytes_per_s"], "bytes_per_s")
            link[f"platform.links.{place}.bandwidth_bytes_per_s"] = value
    found = [
        Parameter("internal bandwidth", inside, "bytes_per_s"),
        _Arithmetic("arithmetic", compute, "flop_per_s", shown if compute else 1.0),
        Parameter("weight reuse (FLOP/byte)", reuse, ""),
        Parameter("link bandwidth", link, "bytes_per_s"),
        Parameter("capacity", _device(platform, node, platform.home, "memory_capacity_bytes"), "bytes"),
        Parameter("expert budget of the worker", {} if cache_gib is None else {"cache_gib": cache_gib}, "gib"),
    ]
    return [parameter for parameter in found if parameter.values]


@dataclass(frozen=True)
class _Arithmetic(Parameter):
    """The peak of a unit, which a file may state by its clock: `per_value` operations per cycle."""

    per_value: float = 1.0

    def text(self, factor: float) -> str:
        """Its peak at a factor."""
        value = next(iter(self.values.values())) * factor * self.per_value
        return format_quantity(float(f"{value:.3g}"), self.unit)


def _key(node: Mapping[str, Any], name: str) -> str:
    """The key in the file of a device, which may stand for several (`count`)."""
    devices = node["devices"]
    if name in devices:
        return name
    return next(key for key, entry in devices.items() if entry.get("count") and name.startswith(str(key)))


def _device(platform: Platform, node: Mapping[str, Any], name: str, key: str) -> dict[str, float]:
    return {f"platform.devices.{_key(node, name)}.{key}": float(getattr(platform.devices[name], key))}


def _whole(key: str, value: float) -> float:
    return math.floor(value) if unit_of_key(key) == "bytes" else value
