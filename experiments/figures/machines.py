"""Machines below each other: how much quicker each is than a rival on the same machine, and the energy of a token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.figures.policies import ENERGY_WORDS
from experiments.figures.style import COLOURS, PAGE_IN, figure, fill, legend_shape, logarithmic, save
from experiments.figures.table import quantity

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

PARTS = ("attention", "gemm", "experts", "head", "transfers")  # without the background, which files state or do not
CIRCLE = "\N{WHITE CIRCLE}"  # the mark of the baseline
_ROW_IN = 0.17
_BAR = 0.68  # of a row
_LOOKS: dict[str, dict[str, Any]] = {
    "baseline": {"marker": "o", "color": "white"},
    "mark": {"marker": "D", "color": "white"},
}
_EDGE: dict[str, Any] = {"markeredgecolor": "black", "markeredgewidth": 0.8, "linestyle": "none"}


def machine_rows(
    table: pd.DataFrame,
    stem: Path,
    *,
    groups: Mapping[str, Sequence[str]],
    same: str,
    panels: str,
    rivals: Mapping[str, str],
    called: Mapping[str, str],
    width_in: float = PAGE_IN,
) -> list[Path]:
    """Bars of speed-ups from 1 on a logarithmic axis, one panel for each value of `panels`; energy at the largest.

    table: `role` (a name of `groups`, baseline or mark), `same`, `panels`, `speed_up` with `_low` and `_high`, and
    `energy_<part>_per_token_j`. rivals: baseline, and mark if there is one -> what the legend says. called: names of
    rows, where they differ. Returns the files written.
    """
    values = sorted(table[panels].unique())
    rows = [row for title, names in groups.items() for row in [(title, True), *((name, False) for name in names)]]
    table = table.assign(energy=table[[f"energy_{part}_per_token_j" for part in PARTS]].sum(axis=1, skipna=False))
    legend = [*(ENERGY_WORDS.get(part, part) for part in PARTS), *rivals.values()]
    columns, legend_in = legend_shape(legend, width_in)
    with figure(width_in, 0.65 + _ROW_IN * len(rows) + legend_in) as drawing:
        shape = {"width_ratios": [*(1.0 for _ in values), 1.5]}
        places = drawing.subplots(1, len(values) + 1, sharey=True, gridspec_kw=shape)
        for axes, value in zip(places, values, strict=False):
            low, high = table["speed_up"].min(), table["speed_up"].max()
            logarithmic(axes, "x", min(0.5, 0.8 * low), 2.3 * high)
            _each(axes, rows, table[table[panels] == value], same, rivals, _speed)
            axes.axvline(1.0, color="black", linewidth=0.8)
            axes.set(title=_text(panels, value), xlabel=f"speed-up over {CIRCLE}")
        last = table[table[panels] == values[-1]]
        _each(places[-1], rows, last, same, rivals, _energy)
        places[-1].set_xlim(0, 1.2 * last["energy"].max())
        places[-1].set(title=_text(panels, values[-1]), xlabel="energy per token, no background (mJ)")
        places[-1].xaxis.set_major_formatter(lambda value, _: f"{1e3 * value:g}")
        for axes in places:
            axes.set_ylim(len(rows) - 0.4, -0.6)
            axes.grid(axis="y", visible=False)
            axes.tick_params(axis="y", length=0)
        places[0].set_yticks(range(len(rows)), [called.get(text, text) for text, _ in rows])
        for label, (_, title) in zip(places[0].get_yticklabels(), rows, strict=True):
            label.set_fontweight("bold" if title else "normal")
        handles = [places[-1].barh([0], [0], **fill(number)) for number in range(len(PARTS))]
        handles += [places[-1].plot([], [], **_LOOKS[role], **_EDGE, markersize=4)[0] for role in rivals]
        drawing.legend(handles, legend, loc="outside upper center", ncols=columns, handlelength=1.6)
        return save(drawing, stem)


def _text(column: str, value: float) -> str:
    """A number of a column with its words: batch size 8."""
    return f"{quantity(column).words.partition(' (')[0]} {value:g}"


def _each(
    axes: Axes,
    rows: Sequence[tuple[str, bool]],
    here: pd.DataFrame,
    same: str,
    rivals: Mapping[str, str],
    draw: Any,
) -> None:
    """Draw the bar of each row with its rivals and, at the right, its number."""
    for place, (name, title) in enumerate(rows):
        found = here[here["role"] == name]
        if title or not len(found):
            continue
        row = found.iloc[0]
        beside = {role: here[(here["role"] == role) & (here[same] == row[same])] for role in rivals}
        text = draw(axes, place, row, {role: one.iloc[0] for role, one in beside.items() if len(one)})
        look: dict[str, Any] = {"ha": "right", "va": "center_baseline", "fontsize": 6.5}
        axes.text(0.995, place, text, transform=axes.get_yaxis_transform(), **look)


def _speed(axes: Axes, place: int, row: Any, rivals: Mapping[str, Any]) -> str:
    up, low, high = row["speed_up"], row["speed_up_low"], row["speed_up_high"]
    axes.barh(place, up - 1, _BAR, left=1, color=COLOURS[0 if up >= 1 else 3])
    if low == low:
        axes.plot([low, high], [place, place], color="black", linewidth=0.9)
    if "mark" in rivals:
        axes.plot([rivals["mark"]["speed_up"]], [place], markersize=3.2, **_LOOKS["mark"], **_EDGE)
    return f"{up:.0f}" if up >= 9.95 else f"{up:.1f}" if up >= 0.995 else f"{up:.2f}"


def _energy(axes: Axes, place: int, row: Any, rivals: Mapping[str, Any]) -> str:
    if row["energy"] != row["energy"]:
        return "a price is not known"
    left = 0.0
    for number, part in enumerate(PARTS):
        width = row[f"energy_{part}_per_token_j"]
        axes.barh(place, width, _BAR, left=left, **fill(number))
        left += width
    for role, rival in rivals.items():
        axes.plot([rival["energy"]], [place], markersize=3.2, **_LOOKS[role], **_EDGE)
    return f"{1e3 * left:.3g}"
