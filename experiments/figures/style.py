"""The look of all figures: sizes, colours, hatches, names, legends, and how a figure is saved."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COLUMN_IN, PAGE_IN = 3.3, 7.0  # widths of a column and of a page of two
# Okabe and Ito, "Color Universal Design" (2008): told apart with any kind of colour vision
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#F0E442", "#000000", "#999999")
HATCHES = ("", "///", "...", "\\\\\\", "xxx", "---", "++", "oo", "**")
_INKS = ("white", "black", "white", "white", "black", "black", "black", "white", "black")  # hatches seen on them
_LINE_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#56B4E9", "#CC79A7", "#000000", "#999999")  # no yellow
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
LINES: tuple[Any, ...] = (
    "-",
    (0, (5, 1)),
    (0, (6, 1, 1, 1)),
    (0, (1, 1)),
    (0, (3, 1, 1, 1, 1, 1)),
    (0, (9, 2)),
    (0, (2, 2)),
    (0, (6, 1, 1, 1, 1, 1, 1, 1)),
    (0, (4, 3)),
)
REFERENCE: dict[str, Any] = {"color": "#000000", "linestyle": "--", "linewidth": 1.0}
BOUND: dict[str, Any] = {"color": "#707070", "linestyle": ":", "linewidth": 1.2}
CHARACTER_IN = 0.056  # width of a character of 7 points, on average
_STYLE: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.columnspacing": 1.2,
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
    paths = [stem.with_name(f"{stem.name}.{suffix}") for suffix in ("png", "pdf")]
    drawing.savefig(paths[0], metadata={"Software": None})
    drawing.savefig(paths[1], metadata={"CreationDate": None, "Producer": None, "Creator": None})
    return paths


def fill(number: int) -> dict[str, Any]:
    """Colour and hatch of the number-th kind of bar; beyond nine the hatches shift, so that no pair repeats soon."""
    place = number % len(COLOURS)
    hatch = HATCHES[(number + number // len(COLOURS)) % len(HATCHES)]
    return {"color": COLOURS[place], "hatch": hatch, "edgecolor": _INKS[place], "linewidth": 0.3}


def stroke(number: int) -> dict[str, Any]:
    """Colour, marker and line style of the number-th line; the three cycle at different lengths."""
    return {
        "color": _LINE_COLOURS[number % len(_LINE_COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINES[number % len(LINES)],
    }


def shown(name: object, characters: int = 24) -> str:
    """A name as text of a figure: at most three lines, which break after blanks and `_ = /`; `$` is no formula."""
    text = "none" if name is None or name != name else f"{name:g}" if isinstance(name, float) else str(name)
    lines = [""]
    for word in words(text):
        for piece in textwrap.wrap(word, characters, drop_whitespace=False) or [word]:
            if len(lines[-1]) + len(piece.rstrip()) > characters:
                lines.append("")
            lines[-1] += piece
    if len(lines) > 3:
        lines = [*lines[:2], lines[2].rstrip()[: characters - 1] + "…"]
    return "\n".join(line.strip() for line in lines).replace("$", r"\$")


def words(text: str) -> list[str]:
    """The pieces of a name between which a line may break."""
    return [word for word in re.split(r"(?<=[ _=/])", text) if word]


def text_width_in(names: Iterable[str]) -> float:
    """Width of the longest line of some tick labels, roughly."""
    return CHARACTER_IN * max((len(line) for name in names for line in name.split("\n")), default=0)


def text_lines(names: Iterable[str]) -> int:
    """The most lines that any of the names has."""
    return max((name.count("\n") + 1 for name in names), default=0)


def legend_shape(labels: Iterable[str], width_in: float) -> tuple[int, float]:
    """Columns that fit the width, and the height in inches, of a legend above the axes."""
    labels = list(labels)
    if not labels:
        return 1, 0.0
    for columns in range(min(len(labels), 6), 0, -1):
        rows = -(-len(labels) // columns)
        filled = [labels[first : first + rows] for first in range(0, len(labels), rows)]
        if sum(text_width_in(column) + 0.36 for column in filled) <= width_in - 0.1:
            break
    columns = len(filled)
    return columns, 0.08 + 0.145 * rows * text_lines(labels)


def logarithmic(axes: Axes, which: str, low: float, high: float) -> None:
    """Make axis "x" or "y" logarithmic from `low` to `high`, both above 0, with plain numbers at its ticks."""
    from matplotlib.ticker import LogLocator, NullFormatter

    getattr(axes, f"set_{which}scale")("log")
    getattr(axes, f"set_{which}lim")(low, high)
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 300 * low else (1.0,)))
    axis.set_major_formatter("{x:g}")
    axis.set_minor_formatter(NullFormatter())
