"""Parameters for a device that was not measured, from those of the measured ones that are like it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Kernel, Values

REACH = 0.3  # distance of the datasheets (`Kernel.distance`) over which a device counts 1/e as much


def likeness(kernel: Kernel, sheet: Datasheet, others: Sequence[Datasheet]) -> dict[str, float]:
    """Name of each other device -> by what share its parameters count for this one; the shares sum to 1.

    Weights fall exponentially with the distance of the datasheets: kernel regression (Nadaraya, 1964; Watson, 1964).
    REACH was chosen among 0.3, 0.6 and 1 by the errors on measured devices that were left out.
    """
    distances = np.array([kernel.distance(sheet, other) for other in others])
    weights = np.exp(-(distances - distances.min()) / REACH)
    shares = weights / weights.sum()
    return {other.name: float(share) for other, share in zip(others, shares, strict=True)}


def mean_values(found: Sequence[Values], shares: Sequence[float]) -> dict[str, float]:
    """Geometric means of parameters, by shares that sum to 1."""
    names: Mapping[str, float] = found[0]
    logs = np.log([[values[name] for name in names] for values in found])
    return dict(zip(names, np.exp(np.asarray(shares) @ logs).tolist(), strict=True))
