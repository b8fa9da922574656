"""Systems side by side: speed against what is possible, and where the time of a token goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.explain import ConfigError
from experiments.figures.style import (
    BOUND,
    COLOURS,
    COLUMN_IN,
    REFERENCE,
    figure,
    fill,
    legend_shape,
    save,
    shown,
    text_lines,
)
from experiments.figures.table import Quantity, checked, one_row_each, quantity
from experiments.table import CAUSES
from simulator.energy import PARTS

if TYPE_CHECKING:
    import pandas as pd

ENERGY_WORDS = {"gemm": "other products"}
_ROW_IN = 0.2
_LEAST_SHARE = 0.002  # causes below this share in every row are not drawn


def speed_bars(
    comparison: pd.DataFrame, reference_tokens_per_s: float | None, bound_tokens_per_s: float | None, stem: Path
) -> list[Path]:
    """Bars of tokens/s, fastest on top, with the clairvoyant reference and the physics bound as lines.

    comparison: one row per system with `name` and `tokens_per_s`. Returns the files written.
    """
    rows = checked(comparison, stem, ["name"], ["tokens_per_s"])
    ordered = rows.sort_values(["tokens_per_s", "name"], ascending=[True, False])
    names = [shown(name) for name in ordered["name"]]
    lines = ((reference_tokens_per_s, "clairvoyant", REFERENCE), (bound_tokens_per_s, "physics bound", BOUND))
    most = max([ordered["tokens_per_s"].max(), *(line[0] or 0.0 for line in lines)])
    with figure(COLUMN_IN, 0.85 + max(_ROW_IN, 0.06 + 0.11 * text_lines(names)) * len(ordered)) as drawing:
        axes = drawing.subplots()
        axes.grid(axis="y", visible=False)
        place = np.arange(len(ordered))
        bars = axes.barh(place, ordered["tokens_per_s"].fillna(0.0), height=0.7, color=COLOURS[0])
        for bar, value in zip(bars, ordered["tokens_per_s"], strict=True):
            inside = value > 0.2 * most
            x = -3 if inside else 3
            look: dict[str, Any] = {"color": "white" if inside else "black", "ha": "right" if inside else "left"}
            look |= {} if inside else {"bbox": {"facecolor": "white", "edgecolor": "none", "pad": 0.5}}
            text = "n/a" if np.isnan(value) else f"{value:.1f}"
            spot = (bar.get_width(), bar.get_y() + bar.get_height() / 2)
            axes.annotate(text, spot, (x, 0), textcoords="offset points", va="center_baseline", fontsize=7, **look)
        for limit, label, dashes in lines:
            if limit is not None:
                axes.axvline(limit, label=f"{label} ({limit:.0f})", **dashes)
        axes.set_yticks(place, names)
        axes.set_ylim(-0.6, len(ordered) - 0.4)
        axes.set_xlabel("decoded tokens per second")
        axes.set_xlim(0, 1.12 * most)
        axes.tick_params(axis="y", length=0)
        if any(line[0] is not None for line in lines):
            drawing.legend(loc="outside upper center", ncols=2)
        return save(drawing, stem)


def time_stacks(
    comparison: pd.DataFrame,
    stem: Path,
    *,
    name: str = "name",
    time: str = "tpot_s",
    share: bool = False,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """Stacked bars of the time of a decoded token by what the critical path waited for, the fastest on top.

    comparison: one row per system with `name`, `time` in seconds and a column `<cause>_share` (0..1) for each
    cause; a missing share is none. `share` draws per cent of each row's time instead of seconds, with the seconds
    written beside it. Returns the files written; raises ConfigError for a table that does not fit.
    """
    rows = checked(comparison, stem, [name], [time]).dropna(subset=[time])
    one_row_each(rows, stem, [name])
    rates = {"late_share", "on_cpu_share"}  # shares of accesses, should a table have them, are not of time
    columns = [column for column in map(str, rows.columns) if column.endswith("_share") and column not in rates]
    if not columns:
        raise ConfigError(f"figure {stem.name}: the table has no column named '<cause>_share'; expected one per cause.")
    shares = checked(rows[[*columns]].fillna(0.0), stem, [], columns).set_index(rows.index)
    order = rows.assign(_shown=rows[name].map(str)).sort_values([time, "_shown"], ascending=[True, True]).index
    rows, shares = rows.loc[order], shares.loc[order]
    kept = [column for column in columns if (shares[column] > _LEAST_SHARE).any()]
    known = [*CAUSES, *sorted({column.removesuffix("_share") for column in columns} - set(CAUSES))]
    kept.sort(key=lambda column: known.index(column.removesuffix("_share")))  # the same order in every figure
    unit = quantity(time, rows[time])
    scale = np.full(len(rows), 100.0) if share else unit.factor * rows[time].to_numpy()
    causes = {column: column.removesuffix("_share") for column in kept}
    pieces = [
        (shown(CAUSES.get(cause, cause)), known.index(cause), scale * shares[column].to_numpy())
        for column, cause in causes.items()
    ]
    label = "share of the time per token (%)" if share else f"time per decoded token ({unit.unit})"
    return _stacks(list(rows[name]), rows[time], pieces, stem, unit, label, share, width_in)


def energy_stacks(
    comparison: pd.DataFrame,
    stem: Path,
    *,
    name: str = "name",
    share: bool = False,
    width_in: float = COLUMN_IN,
) -> list[Path]:
    """Stacked bars of the energy of a token by part, the least on top.

    comparison: one row per system with `name`, `energy_per_token_j` and `energy_<part>_per_token_j` for each part of
    the account; `share` as in `time_stacks`. Returns the files written; raises ConfigError for a table that does not
    fit.
    """
    total = "energy_per_token_j"
    columns = {part: f"energy_{part}_per_token_j" for part in PARTS}
    rows = checked(comparison, stem, [name], [total, *columns.values()])
    one_row_each(rows, stem, [name])
    missing = rows[rows[list(columns.values())].isna().any(axis=1)]
    if len(missing):
        raise ConfigError(
            f"figure {stem.name}: the energy of {missing[name].iloc[0]} is known by power alone, without parts;"
            " provenance.json says which constant is missing."
        )
    rows = rows.assign(_shown=rows[name].map(str)).sort_values([total, "_shown"], ascending=[True, True])
    unit = quantity(total, rows[total])
    scale = 100.0 / rows[total].to_numpy() if share else np.full(len(rows), unit.factor)
    pieces = [
        (ENERGY_WORDS.get(part, part), number, scale * rows[column].to_numpy())
        for number, (part, column) in enumerate(columns.items())
        if (rows[column] > _LEAST_SHARE * rows[total]).any()
    ]
    label = "share of the energy per token (%)" if share else f"energy per token ({unit.unit})"
    return _stacks(list(rows[name]), rows[total], pieces, stem, unit, label, share, width_in)


def _stacks(
    called: list[Any],
    totals: pd.Series,
    pieces: list[tuple[str, int, np.ndarray]],
    stem: Path,
    unit: Quantity,
    label: str,
    share: bool,
    width_in: float,
) -> list[Path]:
    """A bar for each of `called`, made of pieces (label, number of its fill, widths [rows]), its total beside it."""
    decimals = _decimals(unit.factor * totals)
    names = [shown(item) for item in called]
    legend_columns, legend_in = legend_shape([piece[0] for piece in pieces], width_in)
    row_in = max(_ROW_IN, 0.06 + 0.11 * text_lines(names))
    with figure(width_in, 0.5 + row_in * len(names) + legend_in) as drawing:
        axes = drawing.subplots()
        axes.grid(axis="y", visible=False)
        place = np.arange(len(names))
        left = np.zeros(len(names))
        for words, number, widths in pieces:
            axes.barh(place, widths, left=left, height=0.7, label=words, **fill(number))
            left = left + widths
        for at, end, value in zip(place, left, totals, strict=True):
            text = f"{unit.factor * value:.{decimals}f}{f' {unit.unit}' if share else ''}"
            axes.annotate(text, (end, at), (3, 0), textcoords="offset points", va="center", fontsize=6)
        axes.set_xlim(0, (1.18 if share else 1.12) * max(left))
        if share:
            axes.set_xticks([0, 25, 50, 75, 100])
        axes.set_yticks(place, names)
        axes.set_ylim(len(names) - 0.4, -0.6)
        axes.set_xlabel(label)
        axes.tick_params(axis="y", length=0)
        drawing.legend(loc="outside upper center", ncols=legend_columns, handlelength=1.6)
        return save(drawing, stem)


def _decimals(values: pd.Series) -> int:
    """As many for all numbers of a column as give the largest three digits and the smallest two."""
    most, least = values.max(), values[values > 0].min()
    if not least > 0:
        return 0
    return int(np.clip(max(2 - np.floor(np.log10(most)), 1 - np.floor(np.log10(least))), 0, 3))
