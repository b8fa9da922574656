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
    def floor(self, rows: Columns, sheet: Datasheet) -> Array:
        """Seconds that physics asks for: FLOPs over peak, bytes over bandwidth."""

    def fallback(self, group: str, known: list[str]) -> str | None:
        """The fitted group that stands in for an unknown one; None if none does."""
        return None

    def reason(self, rows: Columns, sheet: Datasheet) -> np.ndarray:
        """Per row, why it cannot be answered, or an empty text."""
        return np.full(len(next(iter(rows.values()))), "", dtype=object)


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
