"""Hit rate and time per token against the size of the expert cache."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.style import (
    BOUND,
    COLUMN_IN,
    PAGE_IN,
    REFERENCE,
    figure,
    legend_shape,
    save,
    shown,
    stroke,
)
from experiments.figures.table import checked, one_row_each, quantity

if TYPE_CHECKING:
    import pandas as pd

_GIB = 2**30
REFERENCES = (("reference", "clairvoyant reference", REFERENCE), ("physics", "physics bound", BOUND))


def cache_size_curves(
    curves: pd.DataFrame, stem: Path, *, series: str = "policy", time: str = "tpot_s", width_in: float = PAGE_IN
) -> list[Path]:
    """Two panels with a line for each of `series`, the clairvoyant reference and the physics bound.

    curves: a row for each of `series` and `cache_gib`, with `hit_rate`, `time` and, where they were computed,
    `reference_hit_rate`, `reference_tpot_s` and `physics_tpot_s` (the lowest of the rows of one size is drawn).
    A size left to the run (missing `cache_gib`) is taken from `cache_bytes`. The panels stand side by side on a
    page's width and on top of each other on a column's. Returns the files written; raises ConfigError for a table
    that does not fit.
    """
    if "cache_gib" in curves and "cache_bytes" in curves:
        curves = curves.assign(cache_gib=curves["cache_gib"].fillna(curves["cache_bytes"] / _GIB))
    rows = checked(curves, stem, [series], ["cache_gib", "hit_rate", time])
    one_row_each(rows, stem, [series, "cache_gib"])
    references = [entry for entry in REFERENCES if f"{entry[0]}_tpot_s" in rows and rows[f"{entry[0]}_tpot_s"].any()]
    unit = quantity(time, rows[time])
    labels = [shown(name) for name in dict.fromkeys(rows[series])] + [label for _, label, _ in references]
    columns, legend_in = legend_shape(labels, width_in)
    beside = width_in > 1.5 * COLUMN_IN
    with figure(width_in, (2.1 if beside else 3.3) + legend_in) as drawing:
        if beside:
            hits, times = drawing.subplots(1, 2, gridspec_kw={"wspace": 0.08})
        else:
            hits, times = drawing.subplots(2, 1, sharex=True)
        for number, (name, line) in enumerate(rows.groupby(series, sort=False, dropna=False)):
            line = line.sort_values("cache_gib")
            look = {**stroke(number), "linestyle": "-", "clip_on": False}
            hits.plot(line["cache_gib"], 100 * line["hit_rate"], label=shown(name), **look)
            times.plot(line["cache_gib"], unit.factor * line[time], **look)
        for kind, label, dashes in references:
            best = rows.groupby("cache_gib").min(numeric_only=True).astype("float64")
            times.plot(unit.factor * best[f"{kind}_tpot_s"].dropna(), label=label, **_look(best, dashes))
            if f"{kind}_hit_rate" in best:
                hits.plot(100 * best[f"{kind}_hit_rate"].dropna(), **_look(best, dashes))
        for axes in (hits, times):
            axes.set_ylim(bottom=0)
        hits.set_ylim(0, 100)
        hits.set_ylabel("hit rate (%)")
        times.set_ylabel(unit.label)
        for axes in (hits, times) if beside else (times,):
            axes.set_xlabel("expert cache (GiB)")
        handles, names = hits.get_legend_handles_labels()
        extra_handles, extra_names = times.get_legend_handles_labels()
        drawing.legend(
            handles + extra_handles, names + extra_names, loc="outside upper center", ncols=columns, handlelength=2.0
        )
        return save(drawing, stem)


def _look(best: pd.DataFrame, dashes: dict) -> dict:
    """A single size gives no line to see: a short one is drawn as a dash instead."""
    return dashes if len(best) > 1 else {**dashes, "marker": "_", "markersize": 14}
