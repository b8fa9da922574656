"""A published table as bars, ours beside."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.style import PAGE_IN, figure, fill, shown
from experiments.validation.published.claims import Table
from experiments.validation.published.measures import Outcome

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DPI = 150
WIDE = 20.0  # largest over smallest, beyond which the axis is logarithmic
PANELS = 4  # in a row


def draw(part: Table, found: Sequence[Outcome], path: Path) -> Path | None:
    """A panel for each column of the table, a pair of bars for each row; None if nothing in it was simulated."""
    from PIL import Image

    cells = [outcome for outcome in found if outcome.cell and outcome.value is not None]
    columns = [column for column in part.columns if any(o.cell and o.cell.column == column for o in cells)]
    if not columns:
        return None
    rows = list(dict.fromkeys(o.cell.row for o in cells if o.cell))
    values = [value for o in cells if o.cell for value in (o.value or 0.0, o.cell.published) if value > 0]
    logarithmic = bool(values) and max(values) > WIDE * min(values)
    across = min(PANELS, len(columns))
    down = -(-len(columns) // across)
    with figure(PAGE_IN, 0.5 + down * (1.5 + 0.05 * max(map(len, rows)))) as drawing:
        grid = drawing.subplots(down, across, sharey=True, squeeze=False)
        for place, axes in enumerate(grid.flat):
            if place >= len(columns):
                axes.set_visible(False)
                continue
            _panel(axes, [o for o in cells if o.cell and o.cell.column == columns[place]], rows)
            axes.set_title(shown(columns[place]))
            if logarithmic:
                axes.set_yscale("log")
                axes.set_ylim(min(values) / 1.5, max(values) * 1.5)
            if place % across == 0:
                axes.set_ylabel(part.unit)
        drawing.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside upper center", ncols=2)
        whole = BytesIO()
        drawing.savefig(whole, format="png", dpi=DPI, metadata={"Software": None})
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(whole).convert("RGB").quantize(64, dither=Image.Dither.NONE).save(path, optimize=True)
    return path


def _panel(axes: Axes, cells: Sequence[Outcome], rows: Sequence[str]) -> None:
    width = 0.4
    for number, name in enumerate(("published", "ours")):
        places = [rows.index(o.cell.row) + (number - 0.5) * width for o in cells if o.cell]
        values = [o.cell.published if number == 0 else (o.value or 0.0) for o in cells if o.cell]
        axes.bar(places, values, width * 0.94, label=name, **fill(number))
    names = [shown(row) for row in rows]
    axes.set_xticks(range(len(rows)), names, rotation=90 if max(map(len, names)) > 6 else 0)
    axes.set_xlim(-0.6, len(rows) - 0.4)
    axes.grid(axis="x", visible=False)
