"""Which experts the tokens go to, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from experiments.figures.style import COLOURS, COLUMN_IN, figure, save
from experiments.figures.table import checked, one_row_each, quantity

if TYPE_CHECKING:
    import pandas as pd

_ROW_IN = (0.045, 0.13)  # height of a layer: at least, at most
_PANEL_IN = 1.6  # height of all layers together that is aimed at


def expert_load_map(
    experts: pd.DataFrame, stem: Path, *, value: str = "selections", by_load: bool = False, width_in: float = COLUMN_IN
) -> list[Path]:
    """Heat map of layers × experts, beside it the load imbalance of each layer: its largest load over its mean.

    experts: a run's table `experts`, a row for each `layer` and `expert` with `value` (tokens or loads).
    by_load sorts every layer's experts, the busiest first. Missing experts are white, and a layer without load has
    no imbalance. Returns the files written; raises ConfigError for a table that does not fit.
    """
    rows = checked(experts, stem, [], ["layer", "expert", value])
    one_row_each(rows, stem, ["layer", "expert"])
    rows = rows.astype({"layer": "int64", "expert": "int64"})
    table = rows.pivot(index="layer", columns="expert", values=value).sort_index().sort_index(axis=1)
    loads = table.to_numpy(dtype=np.float64)
    if by_load:
        loads = -np.sort(-loads, axis=1)  # missing ones come last
    means = np.nanmean(np.where(np.isnan(loads).all(axis=1, keepdims=True), 0.0, loads), axis=1)
    imbalance = np.where(means > 0, np.nanmax(loads, axis=1, initial=0.0) / np.where(means > 0, means, 1.0), np.nan)
    unit = quantity(value, loads)
    height_in = 0.95 + float(np.clip(_PANEL_IN, _ROW_IN[0] * len(loads), _ROW_IN[1] * len(loads)))
    with figure(width_in, max(1.5, height_in)) as drawing:
        cells, strip = drawing.subplots(1, 2, sharey=True, gridspec_kw={"width_ratios": (3.6, 1), "wspace": 0.03})
        edges = np.arange(len(loads) + 1) - 0.5
        across = np.arange(loads.shape[1] + 1) - 0.5
        image = cells.pcolormesh(
            across, edges, np.ma.masked_invalid(loads * unit.factor), cmap="cividis", vmin=0, rasterized=True
        )
        drawing.colorbar(image, ax=cells, location="top", aspect=30, label=unit.label)
        cells.set_xlabel("expert, busiest first" if by_load else "expert")
        cells.set_ylabel("layer")
        strip.barh(np.arange(len(loads)), imbalance, height=0.8, color=COLOURS[0])
        strip.axvline(1.0, color="black", linewidth=0.6)
        strip.set_xlabel("max/mean\nload (×)")  # noqa: RUF001
        strip.set_xlim(0, 1.05 * max(1.0, np.nanmax(imbalance, initial=1.0)))
        for axes in (cells, strip):
            axes.grid(visible=False)
        strip.tick_params(axis="y", length=0)
        step = -(-len(loads) // 8)
        cells.set_yticks(np.arange(0, len(loads), step), [str(layer) for layer in table.index[::step]])
        cells.set_ylim(len(loads) - 0.5, -0.5)
        every = max(1, 2 ** int(np.ceil(np.log2(loads.shape[1] / 8))))
        names = range(loads.shape[1]) if by_load else table.columns
        cells.set_xticks(np.arange(0, loads.shape[1], every), [str(expert) for expert in names[::every]])
        return save(drawing, stem)
