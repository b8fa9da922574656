"""What every kernel model offers, and the shapes of curves that they share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.operators import Array

Columns = Mapping[str, np.ndarray]
Values = Mapping[str, float]


@dataclass(frozen=True)
class Parameter:
    """A positive parameter, fitted by its logarithm.

    start, low, high  first guess and bounds; spread  by how much (standard deviation of the logarithm) devices are
    expected to differ; meaning  one line with the source of the term
    """

    start: float
    low: float
    high: float
    spread: float
    meaning: str


class Kernel(ABC):
    """A kind of kernel. Times in seconds, arrays of one dimension, one entry per row.

    name        of the model, and of its fitted file
    table       name of the measured table that it answers, e.g. "moe"
    columns     input columns of that table which it needs
    shape       the columns that make a shape: cross-validation never has one shape on both sides
    targets     measured column -> factor from it to seconds
    parameters  name -> Parameter
    """

    name: str
    table: str
    columns: tuple[str, ...]
    shape: tuple[str, ...]
    targets: Mapping[str, float]
    parameters: Mapping[str, Parameter]

    @abstractmethod
    def group(self, rows: Columns) -> np.ndarray:
        """Per row, text that names whose parameters apply, such as engine/dtype; the devices of a group differ."""

    @abstractmethod
    def seconds(self, rows: Columns, sheet: Datasheet, values: Values) -> Array:
        """Seconds of each row on this device. Never below `floor`."""

    @abstractmethod
    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """(seconds of the FLOPs at peak, bytes that cross memory once), caches ignored: both axes of a roofline."""

    def bandwidth(self, rows: Columns, sheet: Datasheet) -> Array:
        """Bytes/s at which the bytes of `demand` cross at best."""
        return np.full(len(next(iter(rows.values()))), sheet.memory_read_bytes_per_s)

    def floor(self, rows: Columns, sheet: Datasheet) -> Array:
        """Seconds that physics asks for: FLOPs over peak, bytes beyond what L2 can hold over bandwidth."""
        compute_s, size_bytes = self.demand(rows, sheet)
        beyond = np.maximum(size_bytes - sheet.l2_bytes, 0.0)
        return np.asarray(np.maximum(compute_s, beyond / self.bandwidth(rows, sheet)))

    def fallback(self, group: str, known: list[str]) -> str | None:
        """The fitted group that stands in for an unknown one; None if none does."""
        return None

    def launch_s(self, sheet: Datasheet, values: Values) -> float:
        """The part of the seconds that does not depend on the row: launching the kernels."""
        return values["launch_cycles"] / sheet.clock_hz

    def distance(self, one: Datasheet, other: Datasheet) -> float:
        """How unlike two devices are for this kernel, by their datasheets: 0 alike, beyond 1 hardly related.

        Of one SM, the distance of the logarithms of peak and of memory bandwidth; and 1 (of 0, 0.5 and 1 the best on
        devices left out) if only one of them has asynchronous matrix products, which kernels are written for.
        """
        ratios = (
            one.peak("bf16") / one.sms / (other.peak("bf16") / other.sms),
            one.memory_read_bytes_per_s / one.sms / (other.memory_read_bytes_per_s / other.sms),
        )
        return float(np.hypot(*np.log(ratios))) + (one.asynchronous != other.asynchronous)

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        """Per row, why it cannot be answered, or an empty text."""
        return np.full(len(next(iter(rows.values()))), "", dtype=object)


class Communication(Kernel):
    """A kernel whose bytes cross the links between GPUs, from which no cache spares it."""

    @abstractmethod
    def demand(self, rows: Columns, sheet: Datasheet) -> tuple[Array, Array]:
        """(zero seconds of FLOPs, bytes that leave a GPU over the link which takes longest)."""

    @abstractmethod
    def bandwidth(self, rows: Columns, sheet: Datasheet) -> Array:
        """Bytes/s of that link."""

    def distance(self, one: Datasheet, other: Datasheet) -> float:
        """1 if one has NVLink and the other PCIe; bandwidth is part of the formulas, and SMs hardly matter."""
        return float(one.switched != other.switched)

    def floor(self, rows: Columns, sheet: Datasheet) -> Array:
        """Bytes over their link."""
        return np.asarray(self.demand(rows, sheet)[1] / self.bandwidth(rows, sheet))


def smooth_max(a: Any, b: Any, power: Any) -> Array:
    """(a^p + b^p)^(1/p): the larger for large p, the sum for p = 1; how far two resources overlap.

    >>> smooth_max(np.array([3.0]), np.array([4.0]), 2.0).tolist()
    [5.0]
    """
    a, b = np.asarray(a, dtype=np.float64), np.asarray(b, dtype=np.float64)
    large, small = np.maximum(a, b), np.minimum(a, b)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(large > 0, small / large, 0.0)
    return np.asarray(large * (1.0 + ratio**power) ** (1.0 / power))


def quantised(amount: Any, tile: Any) -> Array:
    """The amount in whole tiles: what a kernel computes when its work is not a multiple of its tile."""
    return np.asarray(np.ceil(np.asarray(amount, dtype=np.float64) / tile) * tile)
