"""Fitting kernel models to measured rows: robust, per device with a prior across devices, judged on unseen shapes.

Residuals are logarithms of predicted over measured, so that a factor counts the same at every size, under a soft-L1
loss. The *prior* of a group is one fit to all its devices at once; a device's own parameters are fitted with a
ridge towards it, by each parameter's spread. A device known only by its datasheet gets the means of what fits the
devices like it (hwmodels.likeness).

How sure the parameters are: a bootstrap over shapes (Efron 1979; by clusters, since rows of one shape err alike).
How wrong the model is beside that: the spread of its log ratios on unseen shapes, between shapes and within one.
"""

from __future__ import annotations

import zlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hwmodels.datasheet import Datasheet
from hwmodels.kernels.base import Columns, Kernel, Values
from hwmodels.likeness import likeness, mean_values

if TYPE_CHECKING:
    import pandas as pd

LOSS_SCALE = 0.1  # of the log ratio: beyond it a row pulls linearly, not quadratically
FOLDS = 5
SAMPLE = 4000  # rows of one fit at most, drawn with a seed
DRAWS = 8  # of the bootstrap
DRAWN_SAMPLE = 1000  # rows of one of its fits at most
TOLERANCE = 1e-8  # of loss and parameters at which a fit ends
DRAWN_TOLERANCE = 1e-4  # of one of the bootstrap: its spread is the same to a tenth, in half the time
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
    kernel: Kernel,
    data: Sequence[Sample],
    prior: Values | None = None,
    start: Values | None = None,
    most: int = SAMPLE,
    tolerance: float = TOLERANCE,
) -> dict[str, float]:
    """Parameters that bring the model closest to the data; with a prior, drawn towards it by the spreads.

    Without one they are drawn weakly towards the first guesses, so that what the data do not tell stays sensible.
    start: where to begin, if not there. most: rows to fit to; the pull counts as it would with SAMPLE rows.
    tolerance: relative change of the loss and of the parameters' logarithms at which to end.
    """
    from scipy.optimize import least_squares

    names = list(kernel.parameters)
    specs = [kernel.parameters[name] for name in names]
    first = start or prior or {name: spec.start for name, spec in zip(names, specs, strict=True)}
    low = np.log([spec.low for spec in specs])
    high = np.log([spec.high for spec in specs])
    margin = 1e-6 * (high - low)
    x0 = np.clip(np.log([first[name] for name in names]), low + margin, high - margin)
    count = sum(min(len(sample), SAMPLE // len(data)) for sample in data)
    data = [thinned(sample, most // len(data)) for sample in data]
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
        parts.append((x - centre) / reach / np.sqrt(count))
        return np.concatenate(parts)

    ends = dict.fromkeys(("ftol", "xtol", "gtol"), tolerance)
    found = least_squares(residuals, x0, bounds=(low, high), x_scale=np.maximum(spread, 0.05), max_nfev=60, **ends)
    return dict(zip(names, np.exp(found.x).tolist(), strict=True))


def fit_group(kernel: Kernel, data: Sequence[Sample]) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    """(prior over the devices, device -> its own parameters)."""
    prior = fit(kernel, data)
    return prior, {sample.sheet.name: fit(kernel, [sample], prior) for sample in data}


def draws(
    kernel: Kernel, data: Sequence[Sample], prior: Values, own: Mapping[str, Values], name: str
) -> tuple[list[dict[str, float]], dict[str, list[dict[str, float]]]]:
    """(prior, device -> own parameters) DRAWS times, each fitted to as many shapes as there are, drawn with return.

    prior, own: the optimum, from which the fits begin. The n-th parameters of a device belong to the n-th prior. name:
    of kernel and group, seeds what is drawn. A device that has none of the drawn shapes keeps the prior of the draw.
    """
    keys = [shapes(kernel, sample) for sample in data]
    places = {key: place for place, key in enumerate(dict.fromkeys(key for found in keys for key in found))}
    which = [np.array([places[key] for key in found]) for found in keys]
    priors: list[dict[str, float]] = []
    devices: dict[str, list[dict[str, float]]] = {sample.sheet.name: [] for sample in data}
    for number in range(DRAWS):
        random = np.random.default_rng(zlib.crc32(f"{name}/{number}".encode()))
        times = np.bincount(random.integers(0, len(places), len(places)), minlength=len(places))
        drawn = [s.of(np.repeat(np.arange(len(s)), times[w])) for s, w in zip(data, which, strict=True)]
        rough: dict[str, Any] = {"most": DRAWN_SAMPLE, "tolerance": DRAWN_TOLERANCE}
        priors.append(fit(kernel, [part for part in drawn if len(part)], start=prior, **rough))
        for part in drawn:
            device = part.sheet.name
            devices[device].append(fit(kernel, [part], priors[-1], own[device], **rough) if len(part) else priors[-1])
    return priors, devices


def thinned(sample: Sample, most: int) -> Sample:
    """At most so many rows, the same ones every time."""
    if len(sample) <= most:
        return sample
    return sample.of(np.sort(np.random.default_rng(0).choice(len(sample), most, replace=False)))


# ---- judging


def shapes(kernel: Kernel, sample: Sample) -> list[Hashable]:
    """Per row, its shape."""
    columns = [sample.rows[name] for name in kernel.shape]
    # no window is 0 in some rows and NaN in others
    plain = [np.nan_to_num(column) if column.dtype.kind == "f" else column for column in columns]
    return list(zip(*(column.tolist() for column in plain), strict=True))


def folds(kernel: Kernel, sample: Sample) -> np.ndarray:
    """Per row, the fold that its shape belongs to."""
    return np.array([zlib.crc32(repr(key).encode()) % FOLDS for key in shapes(kernel, sample)])


def fold_fits(kernel: Kernel, data: Sequence[Sample]) -> dict[str, list[dict[str, float]]]:
    """Device -> for each fold the parameters fitted to the shapes of the others."""
    numbers = [folds(kernel, sample) for sample in data]
    found: dict[str, list[dict[str, float]]] = {sample.sheet.name: [] for sample in data}
    for fold in range(FOLDS):
        seen = [sample.of(number != fold) for sample, number in zip(data, numbers, strict=True)]
        prior = fit(kernel, [part for part in seen if len(part)])
        for part in seen:
            found[part.sheet.name].append(fit(kernel, [part], prior) if len(part) else prior)
    return found


def held_out(
    kernel: Kernel, data: Sequence[Sample], fits: Mapping[str, Sequence[Values]] | None = None
) -> dict[str, np.ndarray]:
    """Device -> predicted over measured of every row, each predicted by a fit that never saw its shape.

    fits: as from `fold_fits`, if they are known.
    """
    fits = fold_fits(kernel, data) if fits is None else fits
    out = {}
    for sample in data:
        number = folds(kernel, sample)
        out[sample.sheet.name] = np.full(len(sample), np.nan)
        for fold, values in enumerate(fits[sample.sheet.name]):
            if not (number == fold).any():
                continue
            unseen = sample.of(number == fold)
            ratio = kernel.seconds(unseen.rows, sample.sheet, values) / unseen.measured_s
            out[sample.sheet.name][number == fold] = ratio
    return out


def other_fits(kernel: Kernel, data: Sequence[Sample]) -> dict[str, dict[str, float]]:
    """Device -> the means of the other devices' parameters, by their likeness to it, fitted without it."""
    found = {}
    for sample in data:
        others = [other for other in data if other is not sample]
        if others:
            _, own = fit_group(kernel, others)
            shares = likeness(kernel, sample.sheet, [other.sheet for other in others])
            found[sample.sheet.name] = mean_values([own[device] for device in shares], [*shares.values()])
    return found


def left_out(kernel: Kernel, data: Sequence[Sample], fits: Mapping[str, Values] | None = None) -> dict[str, np.ndarray]:
    """Device -> predicted over measured by a fit that never saw the device; fits: as from `other_fits`, if known."""
    fits = other_fits(kernel, data) if fits is None else fits
    seen = [sample for sample in data if sample.sheet.name in fits]
    return {s.sheet.name: kernel.seconds(s.rows, s.sheet, fits[s.sheet.name]) / s.measured_s for s in seen}


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


def model_error(kernel: Kernel, sample: Sample, ratio: np.ndarray) -> dict[str, float]:
    """Median and spread of log(predicted / measured): of all rows, between shapes, within a shape.

    bias     the median
    total    standard deviation of all rows
    between  of the shapes' medians; within: of the rows about their shape's median. Both are half the distance from
             the 16th to the 84th percentile: a standard deviation if normal, and deaf to a few wild rows
    """
    log = np.log(ratio)
    _, which = np.unique([repr(key) for key in shapes(kernel, sample)], return_inverse=True)
    order = np.argsort(which, kind="stable")
    medians = np.array([np.median(part) for part in np.split(log[order], np.cumsum(np.bincount(which))[:-1])])
    return {
        "bias": float(np.median(log)),
        "total": float(np.std(log)),
        "between": _half_width(medians),
        "within": _half_width(log - medians[which]),
    }


def _half_width(values: np.ndarray) -> float:
    low, high = np.percentile(values, (15.865, 84.135))
    return float(high - low) / 2
