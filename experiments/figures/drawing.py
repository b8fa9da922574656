"""What a kind of figure is: from what the runs left to a table and its drawing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

Draw = Callable[..., list[Path]]  # (stem, *, width_in)


class Drawing(NamedTuple):
    """The rows that are drawn, and how."""

    table: pd.DataFrame
    draw: Draw


class Kind(NamedTuple):
    """needs: "sweep" (points and requests), "runs" (run folders), "recording" (a Result), "recordings" (several),
    "configuration"."""

    prepare: Callable[..., Drawing]
    needs: str


def drawn_by(draw: Callable[..., list[Path]], *given: Any, **options: Any) -> Draw:
    """`draw` with its table and options, waiting for a place and a width."""
    return lambda stem, *, width_in: draw(*given, stem, width_in=width_in, **options)
