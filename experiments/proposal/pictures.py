"""The pictures of a report, as SVG: where time goes, tornado, break-even, map."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.figures.style import PAGE_IN, figure, fill, stroke
from experiments.proposal.sides import Side
from experiments.proposal.skew import words
from experiments.proposal.study import FIGURES, Study
from experiments.proposal.text import save_svg
from simulator.words import CAUSES

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def where_time_goes(study: Study) -> Path:
    """Seconds per token (or to the first) by cause, one panel a case, one bar a machine."""
    causes: list[str] = []
    for case in study.cases:
        for side in study.sides:
            outcome = study.outcome(side, case)
            causes += [cause for cause in (outcome.shares if outcome else ()) if cause not in causes]
    labels = [CAUSES.get(cause, cause) for cause in causes]
    with figure(PAGE_IN, 1.0 + 0.35 * len(study.sides) + 0.25) as drawing:
        panels = drawing.subplots(1, len(study.cases), squeeze=False)[0]
        for axes, case in zip(panels, study.cases, strict=True):
            for place, side in enumerate(study.sides):
                outcome = study.outcome(side, case)
                left = 0.0
                for cause, share in (outcome.shares if outcome else {}).items():
                    width = 1e3 * share * study.seconds(side, case)
                    axes.barh(place, width, 0.7, left=left, **fill(causes.index(cause)))
                    left += width
                if outcome is None:
                    axes.text(0, place, " does not run", va="center", fontsize=7)
            axes.set_yticks(range(len(study.sides)), [side.label for side in study.sides])
            axes.set_ylim(len(study.sides) - 0.5, -0.5)
            axes.grid(axis="y", visible=False)
            axes.set_title(case.words)
            axes.set_xlabel("ms to the first token" if "ttft" in case.metric else "ms per token")
            if axes is not panels[0]:
                axes.set_yticklabels([])
        from matplotlib.patches import Patch

        handles = [Patch(label=label, **_patch(number)) for number, label in enumerate(labels)]
        drawing.legend(handles=handles, loc="outside upper center", ncols=min(len(labels), 6))
        return save_svg(drawing, study.folder / FIGURES / "where_time_goes.svg")


def _patch(number: int) -> dict[str, Any]:
    look = fill(number)
    return {**{key: value for key, value in look.items() if key != "color"}, "facecolor": look["color"]}


def tornado(study: Study) -> Path:
    """Change of speed of the proposed machine with each parameter halved and doubled, the largest swing on top."""
    with figure(PAGE_IN, 0.9 + 0.26 * len(study.parameters)) as drawing:
        panels = drawing.subplots(1, len(study.cases), sharey=True, squeeze=False)[0]
        swing = {parameter.name: 0.0 for parameter in study.parameters}
        changes: dict[tuple[str, str, float], float] = {}
        for (case_name, name, factor), outcome in study.swept.items():
            case = next(case for case in study.cases if case.name == case_name)
            if factor in (0.5, 2.0):
                change = 100 * (study.seconds(study.box, case) / outcome.value(case.metric) - 1)
                changes[case_name, name, factor] = change
                swing[name] = max(swing[name], abs(change)) if change == change else swing[name]
        order = sorted(study.parameters, key=lambda parameter: -swing[parameter.name])
        for axes, case in zip(panels, study.cases, strict=True):
            for place, parameter in enumerate(order):
                ends = {factor: changes.get((case.name, parameter.name, factor), math.nan) for factor in (0.5, 2.0)}
                beside = ends[0.5] * ends[2.0] > 0  # both on one side: half the height each
                for number, change in enumerate(ends.values()):
                    at = place + (0.19 * (2 * number - 1) if beside else 0.0)
                    if change == change:
                        axes.barh(at, change, 0.36 if beside else 0.72, **fill(number))
                if ends[0.5] != ends[0.5]:
                    axes.text(0, place, "halved: does not run ", ha="right", va="center", fontsize=5)
            axes.axvline(0, color="black", linewidth=0.8)
            axes.margins(x=0.08)
            axes.set_title(case.words)
            axes.set_xlabel("change of speed (%)")
            axes.grid(axis="y", visible=False)
        panels[0].set_yticks(range(len(order)), [f"{item.name}\n{item.text(1.0)}" for item in order], fontsize=6)
        panels[0].set_ylim(len(order) - 0.45, -0.55)
        from matplotlib.patches import Patch

        handles = [Patch(label=label, **_patch(number)) for number, label in enumerate(("halved", "doubled"))]
        drawing.legend(handles=handles, loc="outside upper center", ncols=2)
        return save_svg(drawing, study.folder / FIGURES / "tornado.svg")


def speed_over_parameters(study: Study, rival: Side) -> Path:
    """Speed-up over a rival as each parameter grows; 1 is break-even."""
    with figure(PAGE_IN, 2.5) as drawing:
        panels = drawing.subplots(1, len(study.cases), sharey=True, squeeze=False)[0]
        for axes, case in zip(panels, study.cases, strict=True):
            for number, parameter in enumerate(study.parameters):
                speed = study.speed_ups(rival, case, parameter)
                known = [(factor, value) for factor, value in sorted(speed.items()) if value == value]
                if known:
                    axes.plot(*zip(*known, strict=True), label=parameter.name, **stroke(number))
            axes.axhline(1.0, color="black", linewidth=0.8)
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
            _plain(axes, "x", lambda value: f"{value:g}")
            _plain(axes, "y", lambda value: f"{value:.2g}")
            axes.set_title(case.words)
            axes.set_xlabel("parameter, times the file's")
        panels[0].set_ylabel(f"speed-up over {rival.label}")
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside upper center", ncols=3)
        return save_svg(drawing, study.folder / FIGURES / f"break_even_{rival.label}.svg")


def _plain(axes: Axes, which: str, text: Callable[[float], str]) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    axis = getattr(axes, f"{which}axis")
    if which == "y":
        axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
    axis.set_minor_formatter(NullFormatter())


def map_of(study: Study, rival: Side) -> Path:
    """Speed-up by batch and context, one panel a skew: blue where the proposed machine wins, red where it loses."""
    from matplotlib.colors import TwoSlopeNorm

    scope = study.scope
    grids = [study.map_grid(rival, skew) for skew in scope.skews]
    known = np.concatenate([np.abs(np.log2(grid[np.isfinite(grid)])) for grid in grids] or [np.zeros(1)])
    most = max(0.5, float(known.max(initial=0.0)))
    with figure(PAGE_IN, 0.9 + 0.36 * len(scope.contexts)) as drawing:
        panels = drawing.subplots(1, len(scope.skews), sharey=True, squeeze=False)[0]
        for axes, skew, grid in zip(panels, scope.skews, grids, strict=True):
            shade = np.log2(grid)
            axes.imshow(shade, cmap="RdBu", norm=TwoSlopeNorm(0.0, -most, most), aspect="auto", origin="lower")
            for (row, column), value in np.ndenumerate(grid):
                dark = math.isfinite(value) and abs(math.log2(value)) > 0.65 * most
                text = f"{value:.2f}" if math.isfinite(value) else "-"
                axes.text(column, row, text, ha="center", va="center", color="white" if dark else "black", fontsize=7)
            axes.set_xticks(range(len(scope.batches)), [str(batch) for batch in scope.batches])
            axes.set_yticks(range(len(scope.contexts)), [f"{context:,}" for context in scope.contexts])
            axes.grid(visible=False)
            axes.tick_params(length=0)
            axes.set_title(f"{words(skew)}\nbusiest eighth: {study.shares.get(skew, math.nan):.0%}")
            axes.set_xlabel("batch (requests)")
        panels[0].set_ylabel("context (tokens)")
        return save_svg(drawing, study.folder / FIGURES / f"map_{rival.label}.svg")
