"""Two goals against each other: the points which no other beats, and the rest."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from experiments.explain import ConfigError
from experiments.figures.style import COLUMN_IN, figure, legend_shape, logarithmic, save, shown, stroke
from experiments.figures.table import checked, quantity

if TYPE_CHECKING:
    import pandas as pd

MOST_NAMES = 15  # on the front; more are not numbered
_LOG_FROM = 30.0  # largest over smallest value from which an axis is logarithmic
_PALE = 0.65  # how far the colour of dominated points is on its way to white


def pareto_front(
    frame: pd.DataFrame,
    stem: Path,
    *,
    x: str,
    y: str,
    minimise: Collection[str] = (),
    maximise: Collection[str] = (),
    series: str | None = None,
    name: str | None = None,
    front: str | None = None,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """Points of `x` and `y`, with the front of those not dominated as a step line; the dominated are pale.

    minimise, maximise   of the two columns, which is better when low and which when high
    series               gives every value its colour and marker
    name                 numbers the points of the front, at most fifteen, and lists their names
    front                a boolean column that says which points are on the front, where that is known
    Rows without x or y are left out. Returns the files written; raises ConfigError for a table that does not fit.
    """
    from experiments.results import pareto

    for column in (x, y):
        if (column in minimise) == (column in maximise):
            raise ConfigError(f"figure {stem.name}: '{column}' must be in one of minimise and maximise.")
    extra = [column for column in (series, name, front) if column is not None]
    rows = checked(frame, stem, extra, [x, y]).dropna(subset=[x, y])
    if not len(rows):
        raise ConfigError(f"figure {stem.name}: no row has both '{x}' and '{y}'; expected at least one.")
    low = [column for column in (x, y) if column in minimise]
    high = [column for column in (x, y) if column in maximise]
    best = rows[front].to_numpy(dtype=bool) if front else rows.index.isin(pareto(rows, low, high).index)
    xs, ys = (quantity(column, rows[column]) for column in (x, y))
    rows = rows.assign(**{x: rows[x] * xs.factor, y: rows[y] * ys.factor})
    points, others = rows[best].sort_values([x, y], kind="stable"), rows[~best]
    groups = list(dict.fromkeys(rows[series].map(shown))) if series else ["not dominated"]
    numbered = name is not None and len(points) <= MOST_NAMES
    key = [f"{place}  {shown(item, 60)}" for place, item in enumerate(points[name], 1)] if numbered else []
    columns, legend_in = legend_shape([*groups, "pale: dominated"], width_in)
    key_columns, key_in = legend_shape(key, width_in)
    with figure(width_in, 2.2 + legend_in + key_in) as drawing:
        axes = drawing.subplots()
        for number, group in enumerate(groups):
            colour, marker = stroke(number)["color"], stroke(number)["marker"]
            # a numbered point is white with a coloured edge, so that its number can be read on any of them
            face, edge, size = ("white", colour, 9.0) if numbered else (colour, "black", 4.5)
            bright: dict[str, Any] = {
                "color": face,
                "markeredgecolor": edge,
                "markeredgewidth": 1.2 if numbered else 0.5,
            }
            bright |= {"marker": marker, "linestyle": "none"}
            part = [table[table[series].map(shown) == group] if series else table for table in (others, points)]
            axes.plot(part[0][x], part[0][y], marker=marker, **_pale(colour), zorder=2)
            axes.plot(part[1][x], part[1][y], markersize=size, **bright, zorder=4)
            axes.plot([], [], markersize=5, **bright, label=group)
        if len(others):
            one = stroke(0)["color"] if series is None else "black"
            axes.plot([], [], marker="o", **_pale(one), label="pale: dominated" if series else "dominated")
        where: Literal["pre", "post"] = "post" if x in minimise else "pre"
        axes.step(points[x], points[y], where=where, color="black", linewidth=0.8, zorder=3)
        for place, spot in enumerate(zip(points[x], points[y], strict=True) if numbered else (), 1):
            axes.annotate(str(place), spot, ha="center", va="center_baseline", fontsize=5.5, zorder=5)
        axes.margins(0.08)
        for which, column in (("x", x), ("y", y)):
            least, most = rows[column].min(), rows[column].max()
            if least > 0 and most > _LOG_FROM * least:
                logarithmic(axes, which, least / 1.5, most * 1.5)
        axes.set_xlabel(f"{xs.label}, {'← better' if x in minimise else 'better →'}")
        axes.set_ylabel(f"{ys.label}, {'← better' if y in minimise else 'better →'}")
        drawing.legend(loc="outside upper center", ncols=columns, handlelength=1.0)
        if key:
            no_handle = axes.plot([], [], linestyle="none")
            look: dict[str, Any] = {"ncols": key_columns, "handlelength": 0, "handletextpad": 0}
            drawing.legend(no_handle * len(key), key, loc="outside lower center", **look)
        return save(drawing, stem)


def _pale(colour: str) -> dict[str, Any]:
    """The look of a dominated point of a series."""
    from matplotlib.colors import to_rgb

    face, edge = (tuple(part + share * (1 - part) for part in to_rgb(colour)) for share in (_PALE, _PALE / 2))
    return {"color": face, "markeredgecolor": edge, "markeredgewidth": 0.5, "markersize": 4.0, "linestyle": "none"}
