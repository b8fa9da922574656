"""Fitting kernel models to measured rows: robust, per device with a prior across devices, judged on unseen shapes.

Residuals are logarithms of predicted over measured, so that a factor counts the same at every size, under a soft-L1
loss. The *prior* of a group is one fit to all its devices at once; a device's own parameters are fitted with a
ridge towards it, by each parameter's spread. A device known only by its datasheet gets the prior.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Kernel, Values

if TYPE_CHECKING:
    import pandas as pd

LOSS_SCALE = 0.1  # of the log ratio: beyond it a row pulls linearly, not quadratically
FOLDS = 5
SAMPLE = 4000  # rows of one fit at most, drawn with a seed
WEAK = 1.5  # standard deviation, of the logarithm, of what the first guesses leave open (more where devices differ)


@dataclass(frozen=True)
class Sample:
    """Measured rows of one device and group."""

    sheet: Datasheet
    rows: Columns
    measured_s: np.ndarray

    def __len__(self) -> int:
        return len(self.measured_s)

    def of(self, chosen: np.ndarray) -> Sample:
        """Some of the rows, by a mask or by indices."""
        rows = {name: values[chosen] for name, values in self.rows.items()}
        return Sample(self.sheet, rows, self.measured_s[chosen])


def medians(table: pd.DataFrame, kernel: Kernel, target: str) -> pd.DataFrame:
    """One row per distinct input with the median of its measurements; rows without a positive one are dropped."""
    keys = [*dict.fromkeys(("system", "framework", "kernel_source", *kernel.columns))]
    keys = [key for key in keys if key in table]
    kept = table[table[target] > 0]
    return kept.groupby(keys, sort=True, dropna=False)[target].median().reset_index()


def samples(
    table: pd.DataFrame, kernel: Kernel, target: str, sheets: Mapping[str, Datasheet]
) -> dict[str, list[Sample]]:
    """Group -> a sample for each device, in alphabetical order, from a measured table."""
    table = medians(table, kernel, target)
    columns = {name: table[name].to_numpy() for name in table.columns}
    groups = kernel.group(columns)
    found: dict[str, list[Sample]] = {}
    for group in sorted(set(groups.tolist())):
        for system in sorted(set(table["system"])):
            chosen = (groups == group) & (columns["system"] == system)
            if chosen.any():
                rows = {name: values[chosen] for name, values in columns.items()}
                sample = Sample(sheets[system], rows, rows[target] * kernel.targets[target])
                found.setdefault(group, []).append(sample)
    return found


def fit(
    kernel: Kernel, data: Sequence[Sample], prior: Values | None = None, start: Values | None = None
) -> dict[str, float]:
    """Parameters that bring the model closest to the data; with a prior, drawn towards it by the spreads.

    Without one they are drawn weakly towards the first guesses, so that what the data do not tell stays sensible.
    """
    from scipy.optimize import least_squares

    names = list(kernel.parameters)
    specs = [kernel.parameters[name] for name in names]
    first = start or prior or {name: spec.start for name, spec in zip(names, specs, strict=True)}
    low = np.log([spec.low for spec in specs])
    high = np.log([spec.high for spec in specs])
    margin = 1e-6 * (high - low)
    x0 = np.clip(np.log([first[name] for name in names]), low + margin, high - margin)
    data = [thinned(sample, SAMPLE // len(data)) for sample in data]
    weight = [1.0 / np.sqrt(len(data) * len(sample)) for sample in data]  # devices count alike
    spread = np.array([spec.spread for spec in specs])
    guess = prior or {name: spec.start for name, spec in zip(names, specs, strict=True)}
    centre = np.log([guess[name] for name in names])
    reach = spread if prior else np.maximum(3 * spread, WEAK)

    def residuals(x: np.ndarray) -> np.ndarray:
        values = dict(zip(names, np.exp(x).tolist(), strict=True))
        parts = []
        for sample, scale in zip(data, weight, strict=True):
            ratio = np.log(kernel.seconds(sample.rows, sample.sheet, values) / sample.measured_s)
            # soft L1 by hand, so that the ridge below stays quadratic
            parts.append(scale * np.sign(ratio) * np.sqrt(2 * (np.sqrt(1 + (ratio / LOSS_SCALE) ** 2) - 1)))
        count = sum(len(sample) for sample in data)
        parts.append((x - centre) / reach / np.sqrt(count))
        return np.concatenate(parts)

    found = least_squares(residuals, x0, bounds=(low, high), x_scale=np.maximum(spread, 0.05), max_nfev=60)
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def fit_group(kernel: Kernel, data: Sequence[Sample]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(prior over the devices, device -> its own parameters)."""
    prior = fit(kernel, data)
    return prior, {sample.sheet.name: fit(kernel, [sample], prior) for sample in data}


def thinned(sample: Sample, most: int) -> Sample:
    """At most so many rows, the same ones every time."""
    if len(sample) <= most:
        return sample
    return sample.of(np.sort(np.random.default_rng(0).choice(len(sample), most, replace=False)))


# ---- judging


def folds(kernel: Kernel, sample: Sample) -> np.ndarray:
    """Per row, the fold that its shape belongs to."""
    columns = [sample.rows[name] for name in kernel.shape]
    # no window is 0 in some rows and NaN in others
    plain = [np.nan_to_num(column) if column.dtype.kind == "f" else column for column in columns]
    keys = zip(*(column.tolist() for column in plain), strict=True)
    return np.array([zlib.crc32(repr(key).encode()) % FOLDS for key in keys])


def held_out(kernel: Kernel, data: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Device -> predicted over measured of every row, each predicted by a fit that never saw its shape."""
    numbers = [folds(kernel, sample) for sample in data]
    out = {sample.sheet.name: np.full(len(sample), np.nan) for sample in data}
    for fold in range(FOLDS):
        seen = [s.of(n != fold) for s, n in zip(data, numbers, strict=True)]
        prior = fit(kernel, [s for s in seen if len(s)])
        for sample, part, number in zip(data, seen, numbers, strict=True):
            chosen = number == fold
            if chosen.any():
                values = fit(kernel, [part], prior) if len(part) else prior
                unseen = sample.of(chosen)
                predicted = kernel.seconds(unseen.rows, sample.sheet, values)
                out[sample.sheet.name][chosen] = predicted / unseen.measured_s
    return out


def left_out(kernel: Kernel, data: Sequence[Sample]) -> dict[str, np.ndarray]:
    """Device -> predicted over measured, from the prior of the other devices alone; needs at least two."""
    out = {}
    for sample in data:
        others = [other for other in data if other is not sample]
        if others:
            predicted = kernel.seconds(sample.rows, sample.sheet, fit(kernel, others))
            out[sample.sheet.name] = predicted / sample.measured_s
    return out


def errors(ratio: np.ndarray) -> dict[str, float]:
    """rows, median, mean and 95th percentile of |predicted / measured - 1|, and the median's bias."""
    error = np.abs(ratio - 1)
    return {
        "rows": len(ratio),
        "median": float(np.median(error)),
        "mean": float(np.mean(error)),
        "p95": float(np.percentile(error, 95)),
        "bias": float(np.median(ratio) - 1),
    }
