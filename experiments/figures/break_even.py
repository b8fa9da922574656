"""A map of speed-up over two numbers of a machine, with the line on which it is as quick as its rival."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figures.style import PAGE_IN, figure, save
from experiments.figures.table import quantity
from hwmodels import Platform
from hwmodels.near_memory import memory_bytes_per_s

if TYPE_CHECKING:
    import pandas as pd

_PAPER: dict[str, Any] = {"facecolor": "white", "edgecolor": "none", "alpha": 0.6, "pad": 0.6}


def internal_and_link(platform: Platform) -> tuple[float, float]:
    """Bytes/s that the home of the experts gives inside, and over the slowest link from it to the first worker."""
    links = platform.route(platform.home, platform.workers[0])
    return memory_bytes_per_s(platform.devices[platform.home]), min(link.bandwidth_bytes_per_s for link in links)


def speed_up_map(
    table: pd.DataFrame,
    stem: Path,
    *,
    x: str,
    y: str,
    words: tuple[str, str],
    panel: str,
    devices: Mapping[str, tuple[float, float]],
    width_in: float = PAGE_IN,
) -> list[Path]:
    """Filled contours of `speed_up` over columns `x` and `y` (bytes/s, a full grid), a panel for each value of `panel`.

    words: what the axes are called; devices: name -> (x, y) of a dot. Contours are linear between
    grid points, in logarithms. Returns the files written.
    """
    from matplotlib.colors import TwoSlopeNorm

    values = sorted(table[panel].unique())
    shades = np.log2(table["speed_up"])
    most = float(np.abs(shades).max())
    levels = np.arange(np.floor(2 * shades.min()), np.ceil(2 * shades.max()) + 1) / 2  # of the logarithm to base 2
    with figure(width_in, 2.75) as drawing:
        places = drawing.subplots(1, len(values), sharey=True, squeeze=False)[0]
        for axes, value in zip(places, values, strict=True):
            grid = table[table[panel] == value].pivot_table(index=y, columns=x, values="speed_up")
            xs, ys, shade = np.log2(grid.columns / 1e9), np.log2(grid.index / 1e9), np.log2(grid.to_numpy())
            norm = TwoSlopeNorm(0.0, -most, most)
            filled = axes.contourf(xs, ys, shade, levels, cmap="RdBu", norm=norm)
            if shade.min() < 0 < shade.max():
                axes.contour(xs, ys, shade, [0.0], colors="black", linewidths=1.6)
            for name, spot in devices.items():
                at = np.log2(np.array(spot) / 1e9)
                if xs[0] <= at[0] <= xs[-1] and ys[0] <= at[1] <= ys[-1]:
                    axes.plot(*at, marker="o", color="black", markeredgecolor="white", markersize=5, linestyle="none")
                    look: dict[str, Any] = {"textcoords": "offset points", "fontsize": 6.5, "va": "center_baseline"}
                    axes.annotate(name, tuple(at), (5, 0), bbox=_PAPER, **look)
            axes.set_xticks(xs, [f"{rate / 1e9:g}" for rate in grid.columns])
            axes.set_yticks(ys, [f"{rate / 1e9:g}" for rate in grid.index])
            axes.grid(visible=False)
            axes.set_title(f"{quantity(panel).words.partition(' (')[0]} {value:g}")
            axes.set_xlabel(f"{words[0]} (GB/s)")
        places[0].set_ylabel(f"{words[1]} (GB/s)")
        bar = drawing.colorbar(filled, ax=list(places), pad=0.01, ticks=[at for at in levels if at % 1 == 0])
        bar.ax.axhline(0.0, color="black", linewidth=1.6)
        bar.ax.yaxis.set_major_formatter(lambda power, _: f"{2**power:g}")
        bar.set_label("speed-up")
        return save(drawing, stem)
