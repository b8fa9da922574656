"""Pieces of a report: tables and pictures in Markdown, factors in words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.proposal.study import FIGURES

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 2) -> Iterator[str]:
    """A Markdown table; the columns behind the first `left` are aligned to the right."""
    yield f"| {' | '.join(header)} |"
    yield f"|{'|'.join('---' if place < left else '---:' for place in range(len(header)))}|"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '/') for cell in row)} |"


def image(name: str, words: str) -> str:
    """A picture of the folder of figures."""
    return f"![{words}]({FIGURES}/{name})"


def times(value: float) -> str:
    """A speed-up, a dash if it is not known."""
    return "-" if value != value else f"{value:.2f}x"


def save_svg(drawing: Figure, path: Path) -> Path:
    """Write one SVG without a date; the same drawing gives the same bytes. Call it while in `figure`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawing.savefig(path, metadata={"Date": None, "Creator": None})
    return path
