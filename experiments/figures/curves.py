"""Metrics against a number that was swept, such as the request rate: a panel for each of them, or for some together."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.explain import ConfigError
from experiments.figures.style import COLUMN_IN, PAGE_IN, figure, legend_shape, logarithmic, save, shown, stroke
from experiments.figures.table import Quantity, checked, one_row_each, quantity

if TYPE_CHECKING:
    import pandas as pd

_LOG_FROM = 30.0  # largest over smallest value of a panel from which its axis is logarithmic
_DASHES: tuple[Any, ...] = ("-", (0, (4, 1.5)), (0, (1, 1)))  # of the metrics of a panel, in order
_PERCENTILE = re.compile(r"_p(\d+)(?=_|$)")


def metric_curves(
    frame: pd.DataFrame,
    stem: Path,
    *,
    x: str,
    panels: Sequence[Sequence[str]],
    series: str,
    width_in: float = PAGE_IN,
) -> list[Path]:
    """Lines of metrics over the column of numbers `x`: a colour for each value of `series`, dashes for each metric.

    panels: the metrics of each panel, at most three, which have the same unit. Beside each other on a page's width, on
    top of each other on a column's. Returns the files written; raises ConfigError for a table that does not fit.
    """
    for metrics in panels:
        if not 1 <= len(metrics) <= len(_DASHES):
            raise ConfigError(f"figure {stem.name}: a panel has {len(metrics)} metrics; expected 1 to {len(_DASHES)}.")
        if len({quantity(metric, 1.0).unit for metric in metrics}) > 1:
            raise ConfigError(
                f"figure {stem.name}: {' and '.join(metrics)} differ in their unit; expected one a panel."
            )
    rows = checked(frame, stem, [series], [x, *(metric for metrics in panels for metric in metrics)])
    one_row_each(rows, stem, [series, x])
    lines = [(shown(name), line.sort_values(x)) for name, line in rows.groupby(series, sort=False, dropna=False)]
    dashed = list(
        dict.fromkeys((_told(m), _DASHES[n]) for metrics in panels if len(metrics) > 1 for n, m in enumerate(metrics))
    )
    columns, legend_in = legend_shape([*(name for name, _ in lines), *(told for told, _ in dashed)], width_in)
    beside = width_in > 1.5 * COLUMN_IN
    with figure(width_in, (2.0 if beside else 1.35 * len(panels) + 0.3) + legend_in) as drawing:
        shape = (1, len(panels)) if beside else (len(panels), 1)
        places = drawing.subplots(*shape, sharex=True, squeeze=False).ravel()
        for axes, metrics in zip(places, panels, strict=True):
            unit = _draw(axes, lines, x, metrics)
            axes.set_ylabel(unit.label)
        for axes in places if beside else places[-1:]:
            axes.set_xlabel(quantity(x, rows[x]).label)
        for number, (name, _) in enumerate(lines):
            places[0].plot([], [], label=name, **{**stroke(number), "linestyle": "-"})
        for told, dashes in dashed:
            places[0].plot([], [], label=told, color="black", linestyle=dashes)
        drawing.legend(loc="outside upper center", ncols=columns, handlelength=2.2)
        return save(drawing, stem)


def _draw(axes: Any, lines: Sequence[tuple[str, pd.DataFrame]], x: str, metrics: Sequence[str]) -> Quantity:
    """The lines of one panel; what its axis is called."""
    values = np.concatenate([line[metric].to_numpy() for _, line in lines for metric in metrics])
    values = values[np.isfinite(values)]
    unit = quantity(_PERCENTILE.sub("_mean", metrics[0]) if len(metrics) > 1 else metrics[0], values)
    for number, (_, line) in enumerate(lines):
        for metric, dashes in zip(metrics, _DASHES, strict=False):
            look = {**stroke(number), "linestyle": dashes, "clip_on": False, "markersize": 3.0}
            axes.plot(line[x] * quantity(x, line[x]).factor, unit.factor * line[metric], **look)
    if values.min() > 0 and values.max() > _LOG_FROM * values.min():
        logarithmic(axes, "y", 0.8 * unit.factor * values.min(), 1.25 * unit.factor * values.max())
    else:
        axes.set_ylim(0, 100 if unit.unit == "%" and values.max() <= 1 else None)
    axes.set_xlim(left=0)
    if all((line[x] == np.round(line[x])).all() for _, line in lines):  # of counts, no parts
        axes.xaxis.get_major_locator().set_params(integer=True)
    return unit


def _told(metric: str) -> str:
    """What tells a metric from others of its panel: a percentile, or its words."""
    found = _PERCENTILE.search(metric)
    return f"p{found[1]}" if found else quantity(metric).words
