"""The look of all figures: sizes, colours, hatches, and how a figure is saved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMN_IN, PAGE_IN = 3.3, 7.0  # widths of a column and of a page of two
# Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000", "#999999")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "++", "oo", "**")
MARKERS = ("o", "s", "^", "D", "v", "P")
REFERENCE = {"color": "#000000", "linestyle": "--", "linewidth": 1.0}
BOUND = {"color": "#707070", "linestyle": ":", "linewidth": 1.2}
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#d8d8d8",
    "grid.linewidth": 0.5,
    "axes.linewidth": 0.6,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "hatch.linewidth": 0.5,
    "lines.linewidth": 1.2,
    "lines.markersize": 4,
    "text.usetex": False,
    "pdf.fonttype": 42,  # TrueType, so that text stays text
    "svg.hashsalt": "moesim",
    "figure.dpi": 100,
    "savefig.dpi": 300,
}


@contextmanager
def figure(width_in: float, height_in: float) -> Iterator[Figure]:
    """An empty figure in this style; made without pyplot, so that nothing global remembers it."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(_STYLE):
        yield Figure(figsize=(width_in, height_in), layout="constrained")


def save(drawing: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.pdf, without dates, and return them. Call it while in `figure`."""
    stem.parent.mkdir(parents=True, exist_ok=True)
    paths = [stem.with_suffix(".png"), stem.with_suffix(".pdf")]
    drawing.savefig(paths[0], metadata={"Software": None})
    drawing.savefig(paths[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return paths
