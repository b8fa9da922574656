"""How latencies are distributed: cumulative curves of several runs."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.explain import ConfigError
from experiments.figures.style import COLUMN_IN, figure, legend_shape, logarithmic, save, shown, stroke
from experiments.figures.table import checked, quantity

if TYPE_CHECKING:
    import pandas as pd

_LOG_FROM = 30.0  # largest over smallest latency from which the axis is logarithmic
PERCENTILES = (50, 99)


def latency_cdf(
    frames: Mapping[str, pd.DataFrame],
    stem: Path,
    *,
    value: str = "latency_s",
    phase: str = "decode",
    log: bool | None = None,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """The share of steps or requests that took no longer than x, a line for each run, with p50 and p99 marked.

    frames: name of a run -> its table `steps` (of which only `phase` counts) or `requests`; warm-up is left out.
    Percentiles are interpolated as in a run's summary. log: None takes a logarithmic axis when the latencies differ
    more than thirtyfold. Returns the files written; raises ConfigError for tables that do not fit.
    """
    if not frames:
        raise ConfigError(f"figure {stem.name}: there are no runs; expected at least one.")
    values = {name: _values(frame, stem, name, value, phase) for name, frame in frames.items()}
    together = np.concatenate(list(values.values()))
    unit = quantity(value, np.percentile(together, 99))
    if log is None:
        log = bool(together.min() > 0 and together.max() > _LOG_FROM * together.min())
    marked = {name: np.percentile(unit.factor * numbers, PERCENTILES) for name, numbers in values.items()}
    labels = [f"{shown(name)}: {p50:.3g}, {p99:.3g}" for name, (p50, p99) in marked.items()]
    what = "requests" if all("step" not in frame for frame in frames.values()) else f"{phase} steps"
    columns, legend_in = legend_shape([f"{label}    " for label in labels], width_in)
    with figure(width_in, 1.95 + legend_in + 0.15) as drawing:
        axes = drawing.subplots()
        for number, (name, label) in enumerate(zip(values, labels, strict=True)):
            look = stroke(number)
            line = axes.ecdf(unit.factor * values[name], compress=True, color=look["color"], ls=look["linestyle"])
            line.set_ydata(100 * np.asarray(line.get_ydata()))
            dots = {"color": look["color"], "marker": look["marker"], "markeredgecolor": "black", "zorder": 3}
            axes.plot(marked[name], PERCENTILES, linestyle="none", markeredgewidth=0.4, clip_on=False, **dots)
            axes.plot([], [], label=label, **{**look, "markeredgecolor": "black", "markeredgewidth": 0.4})
        axes.set_yticks([0, 25, 50, 75, 99], ["0", "25", "p50", "75", "p99"])
        axes.set_ylim(0, 100)
        if log:
            logarithmic(axes, "x", 0.9 * unit.factor * together.min(), 1.1 * unit.factor * together.max())
        axes.set_xlabel(unit.label)
        axes.set_ylabel(f"share of {what} (%)")
        drawing.legend(
            loc="outside upper center",
            ncols=columns,
            handlelength=3.2,
            title=f"p50, p99 ({unit.unit})" if unit.unit else "p50, p99",
            title_fontsize=7,
        )
        return save(drawing, stem)


def _values(frame: pd.DataFrame, stem: Path, name: str, value: str, phase: str) -> np.ndarray:
    """The run's measured latencies in seconds, as float64."""
    rows = checked(frame, stem, [], [value])
    kept = rows[~rows["warmup"].astype(bool)] if "warmup" in rows else rows
    if "phase" in kept:
        kept = kept[kept["phase"] == phase]
    numbers = kept[value].dropna().to_numpy()
    if not len(numbers):
        steps = f" in {phase} steps" if "phase" in rows else ""
        raise ConfigError(
            f"figure {stem.name}: run {name} has no '{value}'{steps} after warm-up; expected at least one."
        )
    return numbers
