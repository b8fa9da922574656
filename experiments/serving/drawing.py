"""Figures of measured serving beside predictions: parity, residuals by load, prompt and model, and by group of rows."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.figures.style import PAGE_IN, figure
from experiments.serving.report import GROUP, named_rows
from experiments.serving.rows import BACKENDS

if TYPE_CHECKING:
    import pandas as pd

FIGURES = ("serving_rows_parity.png", "serving_rows_residuals.png", "serving_rows_groups.png")
DPI = 150


def draw(rows: pd.DataFrame, folder: Path) -> None:
    """FIGURES, of the held-out aggregated rows."""
    named = named_rows(rows)
    held = named[(named["side"] == "held out") & (named["mode"] == "agg") & (named["reason"] == "")]
    for name, drawn in zip(FIGURES, (_parity, _residuals, _groups), strict=True):
        drawn(held, folder / name)


def _parity(held: pd.DataFrame, path: Path) -> None:
    with figure(PAGE_IN, 4.2) as drawing:
        grid = drawing.subplots(2, len(BACKENDS))
        for line, what in zip(grid, ("tpot", "ttft"), strict=True):
            for axes, engine in zip(line, BACKENDS, strict=True):
                mine = held[held["backend"] == engine]
                x, y = mine[f"silicon_{what}_ms"], mine[f"predicted_{what}_ms"]
                axes.scatter(x, y, s=4, alpha=0.4, linewidths=0)
                low, high = min(x.min(), y.min()) / 1.5, max(x.max(), y.max()) * 1.5
                axes.plot([low, high], [low, high], color="0.4", linewidth=0.8)
                axes.set(xscale="log", yscale="log", xlim=(low, high), ylim=(low, high))
                axes.set_title(f"{engine}: {what.upper()}", fontsize=8)
                axes.set_xlabel("measured (ms)", fontsize=7)
        for line in grid:
            line[0].set_ylabel("predicted (ms)", fontsize=7)
        drawing.savefig(path, dpi=DPI, metadata={"Software": None})


def _residuals(held: pd.DataFrame, path: Path) -> None:
    with figure(PAGE_IN, 4.2) as drawing:
        grid = drawing.subplots(2, 3)
        for line, what in zip(grid, ("tpot", "ttft"), strict=True):
            ratio = 1 + held[f"{what}_error"]
            places = (held["batch_size"] * held["attention_dp_size"].fillna(1), held["isl"], held["model"])
            for axes, x, title in zip(line, places, ("requests under way", "prompt tokens", "model"), strict=True):
                kinds = sorted(set(x.dropna()))
                axes.boxplot([ratio[x == kind] for kind in kinds], showfliers=False, widths=0.6)
                axes.axhline(1.0, color="0.4", linewidth=0.8)
                names = [str(kind)[:13] if isinstance(kind, str) else f"{kind:g}" for kind in kinds]
                axes.set_xticks(range(1, len(kinds) + 1), names, rotation=90, fontsize=5)
                axes.set_title(f"{what.upper()} by {title}", fontsize=8)
                axes.set_yscale("log")
            line[0].set_ylabel("predicted / measured", fontsize=7)
        drawing.savefig(path, dpi=DPI, metadata={"Software": None})


def _groups(held: pd.DataFrame, path: Path) -> None:
    """Every row, by model, GPU, engine and precision; the bar is the median."""
    groups = list(held.groupby(GROUP[1:]))[::-1]
    with figure(PAGE_IN, 0.19 * len(groups) + 0.9) as drawing:
        grid = drawing.subplots(1, 2, sharey=True)
        for axes, what in zip(grid, ("tpot", "ttft"), strict=True):
            for place, (_, part) in enumerate(groups):
                ratio = 1 + part[f"{what}_error"]
                across = place + 0.5 * (np.arange(len(ratio)) % 5 - 2) / 5  # so that dots do not hide each other
                axes.scatter(ratio, across, s=3, alpha=0.4, linewidths=0, color="C0")
                axes.plot([ratio.median()] * 2, [place - 0.4, place + 0.4], color="0.1", linewidth=1.2)
            axes.axvline(1.0, color="0.4", linewidth=0.8)
            axes.set_xscale("log")
            axes.set_title(f"{what.upper()}: predicted / measured", fontsize=8)
        names = [" / ".join(str(part) for part in key) for key, _ in groups]
        grid[0].set_yticks(range(len(groups)), names, fontsize=5)
        drawing.savefig(path, dpi=DPI, metadata={"Software": None})
