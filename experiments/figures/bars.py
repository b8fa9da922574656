"""Bars: a value by category with its confidence interval, and the speed-up over a baseline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from experiments.explain import ConfigError, did_you_mean
from experiments.figures.style import (
    CHARACTER_IN,
    COLUMN_IN,
    figure,
    fill,
    legend_shape,
    logarithmic,
    save,
    shown,
    text_lines,
    text_width_in,
    words,
)
from experiments.figures.table import checked, one_row_each, quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_LOG_FROM = 30.0  # largest over smallest speed-up from which their axis is logarithmic


def bars(
    frame: pd.DataFrame,
    stem: Path,
    *,
    value: str,
    category: str,
    group: str | None = None,
    low: str | None = None,
    high: str | None = None,
    baseline: str | None = None,
    horizontal: bool | None = None,
    log: bool = False,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """Bars of `value`, one per `category` and, side by side, per `group`; `low` and `high` are ends of intervals.

    One row for each category and group, drawn in the table's order; a missing value is written as n/a. Where categories
    are numbers, their axis says of what.
    baseline: the name of a line at 1, for ratios.
    horizontal: None lays the bars when they have no group, which leaves room for names and numbers.
    Returns the files written. Raises ConfigError for a table that does not fit.
    """
    keys = [category] if group is None else [category, group]
    ends = [end for end in (low, high) if end is not None]
    if len(ends) == 1:
        raise ConfigError(f"figure {stem.name}: only one end of the intervals is given ('{ends[0]}'); expected both.")
    rows = checked(frame, stem, keys, [value, *ends])
    one_row_each(rows, stem, keys)
    for end, sign in zip(ends, (1, -1), strict=False):
        wrong = rows[sign * (rows[end] - rows[value]) > 0]
        if len(wrong):
            side = "above" if sign > 0 else "below"
            at = f"'{end}' is {wrong[end].iloc[0]:g} for {wrong[category].iloc[0]}"
            raise ConfigError(f"figure {stem.name}: {at}, {side} the value {wrong[value].iloc[0]:g} it should enclose.")
    unit = quantity(value, rows[[value, *ends]])
    tables = [_table(rows, column, category, group) * unit.factor for column in (value, *ends)]
    lying = group is None if horizontal is None else horizontal
    if log and not (tables[0] > 0).any(axis=None):
        raise ConfigError(f"figure {stem.name}: column '{value}' has no value above 0 for a logarithmic axis.")
    parts = _Drawing(tables[0], lying, log, width_in)
    numbered = rows[category].dtype.kind in "iuf"
    with figure(width_in, parts.height_in + 0.15 * numbered) as drawing:
        axes = drawing.subplots()
        parts.draw(axes, tables)
        if baseline is not None:
            parts.line_at_one(axes, baseline)
        (axes.set_xlabel if lying else axes.set_ylabel)(unit.label)
        if numbered:
            (axes.set_ylabel if lying else axes.set_xlabel)(quantity(category).label)
        parts.legend(drawing)
        return save(drawing, stem)


def speedup_bars(
    frame: pd.DataFrame,
    stem: Path,
    *,
    value: str,
    group: str,
    baseline: object,
    category: str | None = None,
    higher_is_better: bool | None = None,
    log: bool | None = None,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """Speed-up of each `group` over the group `baseline`, per `category`, with the geometric mean as last category.

    Above 1 is faster: value / baseline for rates (`*_per_s`, `*_rate`), baseline / value for times, bytes and
    energy; `higher_is_better` says so for other columns. The mean is over the categories which have all groups.
    log: None takes a logarithmic axis when the speed-ups differ more than thirtyfold. Returns the files written.
    Raises ConfigError for a table that does not fit, or without the baseline.
    """
    rows = checked(frame, stem, [group, *([category] if category else [])], [value])
    one_row_each(rows, stem, [category, group] if category else [group])
    table = _table(rows, value, category, group)
    name = next((name for name in table.columns if name == baseline or shown(name) == str(baseline)), None)
    if name is None:
        near = did_you_mean(str(baseline), [str(name) for name in table.columns])
        raise ConfigError(f"figure {stem.name}: no row has {group} {baseline}, the baseline{near}")
    if (table <= 0).any(axis=None):
        raise ConfigError(f"figure {stem.name}: column '{value}' has values of zero or less; a ratio needs more.")
    if higher_is_better is None:
        higher_is_better = value.endswith(("_per_s", "_rate"))
    base = table.pop(name)
    if not len(table.columns):
        raise ConfigError(f"figure {stem.name}: the baseline {baseline} is the only {group}; expected another.")
    ratios = table.div(base, axis=0) if higher_is_better else 1 / table.div(base, axis=0)
    if ratios.isna().all(axis=None):
        raise ConfigError(f"figure {stem.name}: no {category or 'row'} has both the baseline {baseline} and another.")
    lying = category is None
    means = 0
    if lying:
        ratios = ratios.T
    elif len(ratios) > 1 and len(whole := ratios.dropna()):
        part = "" if len(whole) == len(ratios) else f" of {len(whole)}"
        ratios.loc[f"geo. mean{part}"] = np.exp(np.log(whole).mean())
        means = 1
    if log is None:
        log = bool(ratios.max(axis=None) > _LOG_FROM * min(1.0, ratios.min(axis=None)))
    parts = _Drawing(ratios, lying, log, width_in)
    with figure(width_in, parts.height_in) as drawing:
        axes = drawing.subplots()
        parts.draw(axes, [ratios], foot=1.0 if log else 0.0)
        parts.line_at_one(axes, shown(baseline, 12))
        if means:
            axes.axvline(len(ratios) - 1.5, color="#707070", linewidth=0.6, linestyle=":")
        (axes.set_xlabel if lying else axes.set_ylabel)(f"speed-up over {shown(baseline)} (×)")  # noqa: RUF001
        parts.legend(drawing)
        return save(drawing, stem)


def _table(rows: pd.DataFrame, value: str, category: str | None, group: str | None) -> pd.DataFrame:
    """[category, group] in order of appearance."""
    row = rows[category].map(_hashable) if category else ""
    bar = rows[group].map(_hashable) if group else ""
    long = rows.assign(_row=row, _bar=bar)
    table = long.pivot(index="_row", columns="_bar", values=value)
    return table.reindex(index=list(dict.fromkeys(long["_row"])), columns=list(dict.fromkeys(long["_bar"])))


def _hashable(name: object) -> object:
    """A missing name as a word, since NaN is no key."""
    return "none" if name is None or name != name else name


class _Drawing:
    """Where the bars of a table [category, group] stand, and how much room they and their names ask for."""

    def __init__(self, table: pd.DataFrame, lying: bool, log: bool, width_in: float) -> None:
        self._lying, self._log = lying, log
        self._along: Literal["x", "y"] = "x" if lying else "y"  # the axis of the values
        self._across: Literal["x", "y"] = "y" if lying else "x"  # that of the names
        fits = int((width_in - 0.6) / len(table) / CHARACTER_IN - 0.5)
        longest = max(len(word) for name in table.index for word in words(str(name)))
        self._turned = not lying and fits < min(longest, 18)
        self._names = [shown(name, 24 if lying else 18 if self._turned else min(fits, 18)) for name in table.index]
        self._labels = [shown(name) for name in table.columns]
        self._legend = any(self._labels)
        self._legend_columns, legend_in = legend_shape(self._labels if self._legend else (), width_in)
        lines, count = text_lines(self._names), len(table.columns)
        if lying:
            row_in = max(0.2 if count == 1 else 0.08 + 0.11 * count, 0.06 + 0.11 * lines)
            self.height_in = 0.5 + row_in * len(table) + legend_in
        else:
            lean = 1.0 if lines > 1 else 0.6
            names_in = lean * text_width_in(self._names) + 0.1 if self._turned else 0.12 * lines
            self.height_in = 1.6 + names_in + legend_in

    def draw(self, axes: Axes, tables: list[pd.DataFrame], foot: float = 0.0) -> None:
        """The bars of the first table, from `foot`; the others, if any, are the ends of the intervals."""
        table, *ends = tables
        count = len(table.columns)
        thickness = 0.82 / count
        place = np.arange(len(table), dtype=np.float64)
        for number, (column, label) in enumerate(zip(table.columns, self._labels, strict=True)):
            at = place + (number - (count - 1) / 2) * thickness
            values = table[column].to_numpy()
            known = np.isfinite(values)
            look: dict[str, Any] = {**fill(number), "left" if self._lying else "bottom": foot}
            if ends:
                spans = [np.abs(end[column].to_numpy()[known] - values[known]) for end in ends]
                look[f"{self._along}err"] = np.nan_to_num(spans)
                look["error_kw"] = {"linewidth": 0.8, "capsize": min(2.5, 9 * thickness), "ecolor": "black"}
            draw = axes.barh if self._lying else axes.bar
            drawn = draw(at[known], values[known] - foot, thickness, label=label, **look)
            if self._lying:
                plate = {"facecolor": "white", "edgecolor": "none", "pad": 0.5}  # where the line at 1 would cross
                axes.bar_label(drawn, [f"{value:.3g}" for value in values[known]], padding=2, fontsize=6, bbox=plate)
            for position in at[~known]:
                self._not_there(axes, position)
        getattr(axes, f"set_{self._across}ticks")(place, self._names)
        axes.grid(axis=self._across, visible=False)
        axes.tick_params(axis=self._across, length=0)
        across = (len(table) - 0.4, -0.6) if self._lying else (-0.6, len(table) - 0.4)
        getattr(axes, f"set_{self._across}lim")(across)
        self._limits(axes, np.concatenate([part.to_numpy().ravel() for part in tables]), foot)
        if self._turned:
            several = text_lines(self._names) > 1
            for text in axes.get_xticklabels():
                text.set(rotation=90 if several else 35, ha="center" if several else "right", rotation_mode=None)
                if not several:
                    text.set_rotation_mode("anchor")

    def line_at_one(self, axes: Axes, name: str) -> None:
        """A line at 1, where the baseline is, with its name at the end."""
        (axes.axvline if self._lying else axes.axhline)(1.0, color="black", linewidth=1.2, zorder=2.5)
        low, high = getattr(axes, f"get_{self._along}lim")()
        getattr(axes, f"set_{self._along}lim")(low, max(high, 1.08))
        look: Any = {"ha": "center", "va": "bottom"} if self._lying else {"ha": "left", "va": "center"}
        across = axes.get_xaxis_transform() if self._lying else axes.get_yaxis_transform()
        offset = (0, 2) if self._lying else (3, 0)
        axes.annotate(name, (1.0, 1.0), offset, xycoords=across, textcoords="offset points", fontsize=7, **look)

    def legend(self, drawing: Figure) -> None:
        """The groups' names above the axes, if they have any."""
        if self._legend:
            drawing.legend(loc="outside upper center", ncols=self._legend_columns, handlelength=1.6)

    def _limits(self, axes: Axes, values: np.ndarray, foot: float) -> None:
        values = values[np.isfinite(values)]
        if self._log:
            positive = np.append(values[values > 0], foot or np.nan)
            logarithmic(axes, self._along, np.nanmin(positive) / 2, np.nanmax(positive) * (3 if self._lying else 1.5))
        else:
            room = 1.18 if self._lying else 1.08  # laid bars have numbers behind them
            least, most = room * min(0.0, values.min()), room * max(0.0, values.max())
            getattr(axes, f"set_{self._along}lim")(least, most if most > least else 1.0)
            if (values == np.round(values)).all():  # of counts, no parts
                getattr(axes, f"{self._along}axis").get_major_locator().set_params(integer=True)

    def _not_there(self, axes: Axes, position: float) -> None:
        across = axes.get_yaxis_transform() if self._lying else axes.get_xaxis_transform()
        look: Any = {"va": "center"} if self._lying else {"ha": "center", "va": "bottom", "rotation": 90}
        axes.text(*((0.01, position) if self._lying else (position, 0.01)), "n/a", transform=across, fontsize=6, **look)
