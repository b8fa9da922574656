"""What a datasheet says of a GPU: the facts that kernel models scale with. Presets in hwmodels/devices/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from omegaconf import MISSING

from hwmodels.errors import PlatformError
from hwmodels.roofline import widened_peak
from hwmodels.strict import strict

FOLDER = Path(__file__).parent / "devices"


@dataclass(frozen=True)
class Datasheet:
    """Facts of one GPU. Every number is dense (no sparsity) and accounted for in `source`.

    peak_flop_per_s           by dtype: bf16, fp8, fp4, int8
    memory_read_bytes_per_s   of its HBM or GDDR
    sms                       streaming multiprocessors
    l2_bytes                  last-level cache
    peer_bytes_per_s          to the other GPUs of its node, per direction: NVLink, else PCIe
    node_bytes_per_s          to GPUs of other nodes, per direction: one NIC per GPU
    """

    name: str = MISSING
    architecture: str = MISSING
    peak_flop_per_s: dict[str, float] = field(default_factory=dict)
    memory_read_bytes_per_s: float = MISSING
    memory_capacity_bytes: int = MISSING
    sms: int = MISSING
    l2_bytes: int = MISSING
    peer_bytes_per_s: float = MISSING
    node_bytes_per_s: float = MISSING
    source: str = MISSING

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "datasheet") -> Datasheet:
        """Read and check a datasheet. Raises PlatformError, one sentence, naming `where` and the field."""
        sheet = strict(cls, mapping, where, PlatformError)
        for key in ("memory_read_bytes_per_s", "sms", "l2_bytes", "peer_bytes_per_s", "node_bytes_per_s"):
            if getattr(sheet, key) <= 0:
                raise PlatformError(f"{where}: field '{key}' must be above zero, got {getattr(sheet, key)}.")
        if "bf16" not in sheet.peak_flop_per_s or min(sheet.peak_flop_per_s.values()) <= 0:
            raise PlatformError(f"{where}: field 'peak_flop_per_s' must give at least bf16, all above zero.")
        return sheet

    def peak(self, dtype: str) -> float:
        """Dense peak in `dtype`, or in the first wider one that the device has. Raises PlatformError if none."""
        return widened_peak(self.peak_flop_per_s, dtype, self.name)


def datasheet_names() -> list[str]:
    """The presets, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


@cache
def datasheet(name: str) -> Datasheet:
    """A preset. Raises PlatformError if there is none of that name."""
    path = FOLDER / f"{name}.yaml"
    if name not in datasheet_names():
        raise PlatformError(f"there is no datasheet '{name}' (there are: {', '.join(datasheet_names())}).")
    return Datasheet.from_mapping(yaml.safe_load(path.read_text(encoding="utf-8")), name)
