"""Which setting matters most: the effect of each factor alone, as a tornado."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.explain import ConfigError
from experiments.figures.names import size
from experiments.figures.style import COLUMN_IN, figure, fill, legend_shape, save, shown, text_lines
from experiments.figures.table import checked, one_row_each, quantity

if TYPE_CHECKING:
    import pandas as pd

_KINDS = {"lowest value": 1, "highest value": 0, "other choice": 2}  # what an end of a bar is -> its look


class Effect(NamedTuple):
    """One end of a factor's bar: what the factor was set to, and by how much the metric changed (0.1: 10 % more)."""

    factor: str
    kind: str
    setting: str
    change: float


def effects(
    frame: pd.DataFrame, stem: Path, metric: str, factors: Sequence[str], base: int | None
) -> tuple[float, list[Effect]]:
    """The metric of the base, and the ends of every factor's bar, the factor with the largest swing first.

    A row counts if it differs from the base in one factor only. Of numbers the lowest and the highest setting are
    taken, of names those with the lowest and the highest metric. base: the row of this `point`; None: the row which
    has the most frequent setting of every factor. Raises ConfigError as `tornado`.
    """
    rows = checked(frame, stem, [*factors, *(["point"] if base is not None else [])], [metric])
    settings = rows[list(factors)].astype(object).where(rows[list(factors)].notna(), "none")
    if base is not None:
        at = rows.index[rows["point"] == base]
        missing = f"no row is point {base}"
    else:
        usual = [Counter(settings[factor]).most_common(1)[0][0] for factor in factors]  # ties: the first in the table
        at = rows.index[(settings == usual).all(axis=1)]
        missing = "no row has the most frequent setting of every factor; name the base by its point"
    if not len(at):
        raise ConfigError(f"figure {stem.name}: {missing}.")
    differs = settings.ne(settings.loc[at[0]])
    one = rows[differs.sum(axis=1) <= 1]
    one_row_each(one.assign(**{name: settings[name] for name in factors}), stem, factors)
    middle = float(rows.loc[at[0], metric])
    if not middle > 0:
        raise ConfigError(f"figure {stem.name}: '{metric}' of the base is {middle:g}; expected more than 0.")
    change = one[metric] / middle - 1
    bars = []
    for factor in factors:
        mine = (differs.loc[one.index, factor] | (one.index == at[0])) & change.notna()
        ends = _ends(factor, settings.loc[one.index, factor][mine], change[mine], at[0])
        if ends:
            bars.append(ends)
    if not bars:
        raise ConfigError(f"figure {stem.name}: no row differs from the base in one factor only; expected some.")
    bars.sort(key=lambda ends: (-_swing(ends), ends[0].factor))
    return middle, [end for ends in bars for end in ends]


def _ends(factor: str, settings: pd.Series, change: pd.Series, base: int) -> list[Effect]:
    """The first and the last setting, the base's among them, that are not the base itself."""
    numeric = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in settings)
    ordered = (settings.astype("float64") if numeric else change).sort_values(kind="stable").index
    kinds = ("lowest value", "highest value") if numeric else ("other choice", "other choice")
    return [
        Effect(factor, kind, _setting(factor, settings[at]), float(change[at]))
        for kind, at in zip(kinds, (ordered[0], ordered[-1]), strict=True)
        if at != base
    ]


def _setting(factor: str, value: Any) -> str:
    if not factor.endswith("_bytes") or value == "none":
        return shown(value, 14)
    return size(value)


def _swing(ends: Sequence[Effect]) -> float:
    changes = [0.0, *(end.change for end in ends)]
    return max(changes) - min(changes)


def tornado(
    frame: pd.DataFrame,
    stem: Path,
    *,
    metric: str,
    factors: Sequence[str],
    base: int | None = None,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """Change of `metric` against a base when one of `factors` is changed alone; the largest swing on top.

    frame: a sweep's points, of which those count that differ from the base in one factor. base: its number in column
    `point`; None: the row which has the most frequent setting of every factor. Of a factor with numbers the lowest
    and the highest setting are drawn, of one with names those with the lowest and the highest metric; the setting
    stands at the end of its bar. Returns the files written; raises ConfigError for a table that does not fit, or
    without a base.
    """
    middle, ends = effects(frame, stem, metric, factors, base)
    unit = quantity(metric, [middle])
    order = list(dict.fromkeys(end.factor for end in ends))
    names = [
        shown(quantity(factor).words if factor.endswith("_bytes") else quantity(factor).label, 20) for factor in order
    ]
    kinds = [kind for kind in _KINDS if any(end.kind == kind for end in ends)]
    columns, legend_in = legend_shape(kinds, width_in)
    row_in = max(0.28, 0.06 + 0.11 * text_lines(names), 0.06 + 0.2 * text_lines(end.setting for end in ends))
    with figure(width_in, 0.65 + row_in * len(order) + legend_in) as drawing:
        axes = drawing.subplots()
        for place, factor in enumerate(order):
            mine = [end for end in ends if end.factor == factor]
            beside = len(mine) == 2 and mine[0].change * mine[1].change >= 0  # both on one side: half the height each
            for number, end in enumerate(mine):
                at = place + (0.2 * (2 * number - 1) if beside else 0.0)
                look = fill(_KINDS[end.kind])
                axes.barh(at, 100 * end.change, 0.38 if beside else 0.7, label=end.kind, **look)
                right = end.change >= 0
                axes.annotate(
                    end.setting,
                    (100 * end.change, at),
                    (3 if right else -3, 0),
                    fontsize=6,
                    textcoords="offset points",
                    ha="left" if right else "right",
                    va="center",
                )
        axes.axvline(0.0, color="black", linewidth=0.8)
        changes = [100 * end.change for end in ends]
        least, most = min(0.0, *changes), max(0.0, *changes)
        room = 0.07 + 0.022 * max(len(line) for end in ends for line in end.setting.split("\n"))
        span = (most - least) or 1.0
        axes.set_xlim(least - room * span, most + room * span)
        axes.set_yticks(np.arange(len(order)), names)
        axes.set_ylim(len(order) - 0.45, -0.55)
        axes.grid(axis="y", visible=False)
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"change of {unit.words} (%)\nbase: {middle * unit.factor:.4g} {unit.unit}".rstrip())
        handles = dict(zip(*reversed(axes.get_legend_handles_labels()), strict=True))
        drawing.legend([handles[kind] for kind in kinds], kinds, loc="outside upper center", ncols=columns)
        return save(drawing, stem)
