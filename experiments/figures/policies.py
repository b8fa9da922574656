"""Systems side by side: speed against what is possible, and where the time of a token goes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.style import BOUND, COLOURS, COLUMN_IN, HATCHES, REFERENCE, figure, save
from experiments.table import CAUSES

if TYPE_CHECKING:
    import pandas as pd

_ROW_IN = 0.2


def speed_bars(
    comparison: pd.DataFrame, reference_tokens_per_s: float | None, bound_tokens_per_s: float | None, stem: Path
) -> list[Path]:
    """Bars of tokens/s, fastest on top, with the clairvoyant reference and the physics bound as lines.

    comparison: one row per system with `name` and `tokens_per_s`. Returns the files written.
    """
    ordered = comparison.sort_values(["tokens_per_s", "name"], ascending=[True, False])
    with figure(COLUMN_IN, 0.85 + _ROW_IN * len(ordered)) as drawing:
        axes = drawing.subplots()
        axes.grid(axis="y", visible=False)
        bars = axes.barh(ordered["name"], ordered["tokens_per_s"], height=0.7, color=COLOURS[0])
        axes.bar_label(bars, fmt="%.1f", padding=-21, fontsize=7, color="white")
        lines = ((reference_tokens_per_s, "clairvoyant", REFERENCE), (bound_tokens_per_s, "physics bound", BOUND))
        for value, label, look in lines:
            if value is not None:
                axes.axvline(value, label=f"{label} ({value:.0f})", **look)  # type: ignore[arg-type]
        axes.set_xlabel("decoded tokens per second")
        axes.set_xlim(0, 1.12 * max([ordered["tokens_per_s"].max(), *(line[0] or 0.0 for line in lines)]))
        axes.tick_params(axis="y", length=0)
        drawing.legend(loc="outside upper center", ncols=2)
        return save(drawing, stem)


def time_stacks(comparison: pd.DataFrame, stem: Path) -> list[Path]:
    """Stacked bars of the milliseconds of a decoded token by what the critical path waited for.

    comparison: one row per system with `name`, `tpot_s` and a column `<cause>_share` for each cause.
    """
    ordered = comparison.sort_values(["tpot_s", "name"], ascending=[False, False])
    causes = [name.removesuffix("_share") for name in map(str, comparison.columns) if name.endswith("_share")]
    causes = [cause for cause in causes if (ordered[f"{cause}_share"] > 0.002).any()]
    causes.sort(key=lambda cause: -ordered[f"{cause}_share"].mean())
    order = {cause: place for place, cause in enumerate(CAUSES)}
    with figure(COLUMN_IN, 1.05 + _ROW_IN * len(ordered)) as drawing:
        axes = drawing.subplots()
        axes.grid(axis="y", visible=False)
        left = [0.0] * len(ordered)
        for cause in causes:
            place = order.get(cause, len(order)) % len(COLOURS)
            widths = (1e3 * ordered["tpot_s"] * ordered[f"{cause}_share"]).tolist()
            axes.barh(
                ordered["name"],
                widths,
                left=left,
                height=0.7,
                color=COLOURS[place],
                hatch=HATCHES[place],
                edgecolor="white",
                linewidth=0.3,
                label=CAUSES.get(cause, cause),
            )
            left = [start + width for start, width in zip(left, widths, strict=True)]
        axes.set_xlabel("time per decoded token (ms)")
        axes.tick_params(axis="y", length=0)
        drawing.legend(loc="outside upper center", ncols=2, handlelength=1.6)
        return save(drawing, stem)
