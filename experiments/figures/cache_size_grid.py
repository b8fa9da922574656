"""Many systems' time per token against the size of the expert cache: a small panel for each model and machine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.explain import ConfigError, did_you_mean
from experiments.figures.cache_size import REFERENCES
from experiments.figures.style import MARKERS, PAGE_IN, figure, logarithmic, save, shown
from experiments.figures.table import checked, one_row_each, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import SubFigure

_HUES = ("#0072B2", "#009E73", "#D55E00", "#AA4499", "#8C6D00", "#56B4E9")  # one for each group of lines
_PANEL_IN = 1.55
_BASELINE = {"color": "black", "linestyle": "-", "linewidth": 1.7, "zorder": 2.5}
_LINE = {"linewidth": 0.9, "markersize": 3.0, "markeredgewidth": 0.0}
_DASHES = (0, (3.2, 1.2))


def cache_size_grid(
    curves: pd.DataFrame,
    stem: Path,
    *,
    series: str,
    rows: str,
    columns: str,
    time: str,
    baseline: Any,
    groups: dict[str, list[Any]],
    dashed: Sequence[Any] = (),
    width_in: float = PAGE_IN,
) -> list[Path]:
    """A panel for each value of `rows` and of `columns`, with a line for each of `series`, and one legend below.

    curves: a row for each of `series`, `rows`, `columns` and `cache_gib`, with `time` and, in those of the baseline,
    `reference_tpot_s` and `physics_tpot_s`, which are drawn as limits. groups: title in the legend -> the series below
    it, in shades of one colour; a series of no group is refused. dashed: series whose lines are. Panels of a row share
    their axes. Returns the files written; raises ConfigError for a table that does not fit.
    """
    table = checked(curves, stem, [series, rows, columns], ["cache_gib", time])
    one_row_each(table, stem, [series, rows, columns, "cache_gib"])
    _check_series(table[series], stem, series, baseline, groups)
    looks = _looks(groups, dashed)
    across, down = list(dict.fromkeys(table[columns])), list(dict.fromkeys(table[rows]))
    unit = quantity(time, [table[time].median()])  # the slowest would make it seconds
    present = set(table[series])
    listed = {title: [name for name in names if name in present] for title, names in groups.items()}
    listed = {title: names for title, names in listed.items() if names}
    legend_in = 0.24 + 0.13 * max([3, *map(len, listed.values())])
    panels_in = 0.45 + _PANEL_IN * len(down)
    with figure(width_in, panels_in + legend_in) as drawing:
        parts: Any = drawing.subfigures(2, 1, height_ratios=[panels_in, legend_in])
        above, below = parts
        grid = above.subplots(len(down), len(across), sharex="row", sharey="row", squeeze=False)
        for place, row in enumerate(down):
            here = table[table[rows] == row]
            for axes, column in zip(grid[place], across, strict=True):
                _panel(axes, here[here[columns] == column], series, time, unit.factor, baseline, looks)
            _limits(grid[place, 0], here, time, unit.factor)
            grid[place, 0].set_ylabel(f"{shown(row)}\n{unit.label}")
        for axes, column in zip(grid[0], across, strict=True):
            axes.set_title(shown(column, 32))
        for axes in grid[-1]:
            axes.set_xlabel("expert cache (GiB)")
        _legends(below, grid[0, 0], baseline, listed, looks)
        return save(drawing, stem)


def _check_series(values: pd.Series, stem: Path, series: str, baseline: Any, groups: dict[str, list[Any]]) -> None:
    known = list(dict.fromkeys(map(str, values)))
    if baseline not in known:
        said = f"no row has {series} {baseline}, the baseline{did_you_mean(str(baseline), known)}"
        raise ConfigError(f"figure {stem.name}: {said}")
    grouped = [name for names in groups.values() for name in names]
    for name in known:
        if name != baseline and name not in grouped:
            raise ConfigError(f"figure {stem.name}: {series} {name} is in none of the groups; expected it in one.")


def _looks(groups: dict[str, list[Any]], dashed: Sequence[Any]) -> dict[Any, dict[str, Any]]:
    """Of each series: a group's colour from dark to light, a marker, and dashes for some."""
    from matplotlib.colors import to_rgb

    looks: dict[Any, dict[str, Any]] = {}
    for number, names in enumerate(groups.values()):
        hue = np.array(to_rgb(_HUES[number % len(_HUES)]))
        for place, name in enumerate(names):
            light = place / max(1, len(names) - 1)  # half the colour's light, the colour, half-way from it to white
            shade = hue * (0.5 + light) if light <= 0.5 else hue + (1 - hue) * (light - 0.5)
            style = {"color": tuple(shade.clip(0, 1)), "marker": MARKERS[place % len(MARKERS)]}
            looks[name] = {**_LINE, **style, "linestyle": _DASHES if name in dashed else "-"}
    return looks


def _panel(
    axes: Axes, rows: pd.DataFrame, series: str, time: str, factor: float, baseline: Any, looks: dict[Any, Any]
) -> None:
    for name, line in rows.groupby(series, sort=False):
        line = line.sort_values("cache_gib")
        look = _BASELINE if name == baseline else looks[name]
        axes.plot(line["cache_gib"], factor * line[time], label=shown(name), clip_on=False, **look)
    best = rows[rows[series] == baseline].set_index("cache_gib").sort_index()
    for kind, label, look in REFERENCES:
        column = f"{kind}_tpot_s"
        if column in best and best[column].notna().any():
            axes.plot(factor * best[column].astype("float64").dropna(), label=label, **{**look, "zorder": 2.6})


def _limits(axes: Axes, rows: pd.DataFrame, time: str, factor: float) -> None:
    """The axes of a row of panels, which share them: whatever is drawn, and a little on all sides."""
    drawn = [line.get_ydata() for other in axes.get_shared_y_axes().get_siblings(axes) for line in other.lines]
    values = np.concatenate([np.asarray(line, dtype=np.float64) for line in drawn])
    values = values[np.isfinite(values) & (values > 0)]
    logarithmic(axes, "y", values.min() / 1.25, values.max() * 1.25)
    sizes = sorted(set(rows["cache_gib"].dropna()))
    if 1 < len(sizes) <= 6:
        axes.set_xticks(sizes)
        axes.xaxis.set_major_formatter("{x:g}")


def _legends(
    below: SubFigure, axes: Axes, baseline: Any, listed: dict[str, list[Any]], looks: dict[Any, dict[str, Any]]
) -> None:
    """A legend for each group, side by side, the first of baseline and limits."""
    from matplotlib.lines import Line2D

    limits = [(label, look) for _, label, look in REFERENCES if label in axes.get_legend_handles_labels()[1]]
    parts = {"": [(shown(baseline), _BASELINE), *limits]}
    parts |= {title: [(shown(name, 40), looks[name]) for name in names] for title, names in listed.items()}
    for place, (title, entries) in zip(below.subplots(1, len(parts), squeeze=False)[0], parts.items(), strict=True):
        place.set_axis_off()
        handles = [Line2D([], [], **{**look, "label": label}) for label, look in entries]
        place.legend(
            handles=handles,
            title=title or " ",
            loc="upper left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0,
            borderpad=0,
            handlelength=2.4,
            labelspacing=0.25,
            title_fontproperties={"weight": "bold", "size": 7},
            alignment="left",
        )
