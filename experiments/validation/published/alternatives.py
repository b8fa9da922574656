"""Units near memory compared by energy, delay and area, for `metric: {python: ...}`; no run, one product each."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from experiments.catalogue import load
from hwmodels import Device, Platform
from hwmodels.energy import flop_pj, memory_pj_per_bit

WEIGHTS = (
    16384 * 4096
)  # of the product that is compared, 16 bits each; the program of Duplex (LLMSimulator) has as many


def edap(unit: Sequence[str], op_per_byte: int, die_mm2: float, area_mm2: Sequence[float]) -> float:
    """Energy times delay times relative area of a product with so many vectors, J s.

    unit: platform and device, at its peak rates: delay = max(operations / peak, bytes of weights / bandwidth). Weights
    are read once at its price per bit, and each operation costs its own. area_mm2: what the units add to a die, and
    what room for each vector adds; both count relative to the die.
    """
    device = _device(*unit)
    flops, size_bytes = 2.0 * WEIGHTS * op_per_byte, 2.0 * WEIGHTS
    energy_j = (8 * size_bytes * memory_pj_per_bit(device).value + flops * flop_pj(device, "fp16").value) / 1e12
    delay_s = max(flops / device.peak_flop_per_s["fp16"], size_bytes / device.memory_read_bytes_per_s)
    return energy_j * delay_s * (1 + (area_mm2[0] + op_per_byte * area_mm2[1]) / die_mm2)


def relative_edap(of: str, op_per_byte: int, die_mm2: float, units: Mapping[str, Mapping[str, Any]]) -> float:
    """`edap` of one of some units, over the most of all. units: name -> arguments `unit` and `area_mm2` of `edap`."""
    found = {name: edap(op_per_byte=op_per_byte, die_mm2=die_mm2, **node) for name, node in units.items()}
    return found[of] / max(found.values())


def break_even(of: str, candidates: Sequence[int], die_mm2: float, units: Mapping[str, Mapping[str, Any]]) -> int:
    """The first of some operations per byte at which no unit has less `edap` than `of`; 0 if there is none."""
    for count in candidates:
        found = {name: relative_edap(name, count, die_mm2, units) for name in units}
        if found[of] <= min(found.values()):
            return count
    return 0


@functools.cache
def _device(platform: str, name: str) -> Device:
    return Platform.from_mapping(load("platform", platform), platform).device(name)
