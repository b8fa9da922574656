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
ASYNCHRONOUS_FLOP_PER_S = 5e12  # bf16 peak of an SM, from which on its matrix products are asynchronous
PCIE_BYTES_PER_S = 128e9  # of PCIe 6.0 x16; faster links between peers are NVLink through switches


@dataclass(frozen=True)
class Datasheet:
    """Facts of one GPU. Every number is dense (no sparsity) and accounted for in `source`.

    peak_flop_per_s           by dtype: bf16, fp8, fp4, int8
    memory_read_bytes_per_s   of its HBM or GDDR
    sms                       streaming multiprocessors
    clock_hz                  boost clock of the multiprocessors; what a kernel does in cycles takes cycles / clock
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
    clock_hz: float = 1.8e9
    l2_bytes: int = MISSING
    peer_bytes_per_s: float = MISSING
    node_bytes_per_s: float = MISSING
    source: str = MISSING

    @classmethod
    def from_mapping(cls, mapping: Mapping[str, Any], where: str = "datasheet") -> Datasheet:
        """Read and check a datasheet. Raises PlatformError, one sentence, naming `where` and the field."""
        sheet = strict(cls, mapping, where, PlatformError)
        positive = ("memory_read_bytes_per_s", "sms", "clock_hz", "l2_bytes", "peer_bytes_per_s", "node_bytes_per_s")
        for key in positive:
            if getattr(sheet, key) <= 0:
                raise PlatformError(f"{where}: field '{key}' must be above zero, got {getattr(sheet, key)}.")
        peaks = sheet.peak_flop_per_s
        if not {"bf16", "fp16"} & set(peaks) or min(peaks.values()) <= 0:
            raise PlatformError(f"{where}: field 'peak_flop_per_s' must give at least bf16 or fp16, all above zero.")
        return sheet

    @property
    def asynchronous(self) -> bool:
        """Whether kernels use asynchronous matrix products (Hopper's wgmma, Blackwell's tcgen05), which ask for others.

        Told by the peak of one SM: A100 2.9 TFLOP/s, L40S and RTX PRO 6000 2.5, H100 7.5, B200 15.
        """
        return self.peak("bf16") / self.sms > ASYNCHRONOUS_FLOP_PER_S

    @property
    def switched(self) -> bool:
        """Whether peers are linked by NVLink through switches, rather than by PCIe."""
        return self.peer_bytes_per_s > PCIE_BYTES_PER_S

    def peak(self, dtype: str) -> float:
        """Dense peak in `dtype`, or in the first wider one that the device has. Raises PlatformError if none."""
        return widened_peak(self.peak_flop_per_s, dtype, self.name)


def datasheet_names() -> list[str]:
    """The presets, in alphabetical order."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find_datasheet(name: str, where: str) -> Datasheet:
    """A preset, or the YAML file at the path `name`. Raises PlatformError naming `where` if there is neither."""
    if name in datasheet_names():
        return datasheet(name)
    path = Path(name)
    if path.suffix not in (".yaml", ".yml") or not path.is_file():
        known = ", ".join(datasheet_names())
        raise PlatformError(f"{where} must name a datasheet ({known}) or a YAML file of one, got '{name}'.")
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PlatformError(f"{where}: cannot read '{name}' ({' '.join(str(error).split())}).") from None
    return Datasheet.from_mapping(content, name)


@cache
def datasheet(name: str) -> Datasheet:
    """A preset. Raises PlatformError if there is none of that name."""
    path = FOLDER / f"{name}.yaml"
    if name not in datasheet_names():
        raise PlatformError(f"there is no datasheet '{name}' (there are: {', '.join(datasheet_names())}).")
    return Datasheet.from_mapping(yaml.safe_load(path.read_text(encoding="utf-8")), name)
