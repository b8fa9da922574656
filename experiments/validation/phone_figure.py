"""The figure of `moesim validate phone`: wall time token by token, and the parts of every run's mean."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from experiments.figures.style import PAGE_IN, figure, fill, save
from experiments.validation.phone import Comparison, Validation
from experiments.validation.phone_report import signed

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

_WINDOW = 9  # tokens of the rolling mean
_MOST_MS = 450.0  # end of its axis
_NAMES = {"compute_s": "compute", "stall_s": "stall", "management_s": "management"}


def draw(validation: Validation, stem: Path) -> list[Path]:
    """Rolling wall time of the runs with routes, and the parts of every run's mean; returns the files written."""
    routed = [compared for compared in validation.comparisons if compared.routed]
    with figure(PAGE_IN, 4.8) as drawing:
        grid = drawing.add_gridspec(2, len(routed))
        for number, compared in enumerate(routed):
            axes = drawing.add_subplot(grid[0, number])
            _rolling(axes, compared, compared.run is validation.training)
            if number == 0:
                drawing.legend(*axes.get_legend_handles_labels(), loc="outside upper center", ncols=3)
        _bars(drawing.add_subplot(grid[1, :]), validation)
        return save(drawing, stem)


def _rolling(axes: Axes, compared: Comparison, fitted: bool) -> None:
    run, good = compared.run, compared.run.undisturbed

    def rolling(tokens: pd.DataFrame) -> pd.Series:
        return tokens.loc[good.to_numpy(), "wall_s"].rolling(_WINDOW, center=True, min_periods=1).mean() * 1e3

    token, wall_ms = run.tokens["token"], run.tokens["wall_s"] * 1e3
    axes.plot(token, wall_ms, ".", color="#999999", markersize=2.5, label="measured")
    axes.plot(
        token[good], rolling(run.tokens), color="#000000", label=f"measured, mean of {_WINDOW} undisturbed tokens"
    )
    axes.plot(token[good], rolling(compared.tokens), color="#D55E00", linestyle="--", label="simulated, same tokens")
    axes.set_ylim(0, _MOST_MS)
    if beyond := int((wall_ms > _MOST_MS).sum()):
        axes.annotate(f"{beyond} above", (0.99, 0.95), xycoords="axes fraction", ha="right", fontsize=6)
    axes.set_title(f"{run.name} ({'fitted' if fitted else 'predicted'}): {run.model}, top-{run.top_k}")
    axes.set_xlabel("decoded token")
    axes.set_ylabel("wall time (ms)")


def _bars(axes: Axes, validation: Validation) -> None:
    width = 0.38
    for place, compared in enumerate(validation.comparisons):
        for side, value_of in ((-1, compared.measured_s), (1, compared.predicted_s)):
            below = 0.0
            for number, (part, name) in enumerate(_NAMES.items()):
                value = value_of(part) * 1e3
                label = name if place == 0 and side < 0 else None
                axes.bar(place + side * width / 2, value, width * 0.94, bottom=below, label=label, **fill(number))
                below += value
            if side > 0:
                text = signed(compared.error())
                axes.annotate(text, (place + side * width / 2, below + 3), ha="center", fontsize=6)
    names = [
        f"{c.run.name}\n{'fitted' if c.run is validation.training else 'predicted'}" for c in validation.comparisons
    ]
    axes.set_xticks(range(len(names)), names)
    axes.grid(axis="x", visible=False)
    axes.set_title("mean of undisturbed tokens: left measured, right simulated")
    axes.set_ylabel("time (ms)")
    axes.set_ylim(top=axes.get_ylim()[1] * 1.12)
    axes.legend(ncols=3, loc="upper right")
