"""A stretch of a recorded run on paper: what computes, what is copied, and which copy is waited for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.explain import ConfigError
from experiments.figures.style import COLOURS, PAGE_IN, figure, legend_shape, save, text_width_in
from simulator.timeline import RUN, Flow, Slice, Timeline, Track, timeline_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from simulator.result import Result

_PS = 1e-12
_ROW_IN, _BAR = 0.3, 0.62  # height of a row, and of its bars as a share of it
_ARROWS = 250  # more than that are no longer told apart
# what it is called, colour, hatch, colour of the hatch: told apart in grey too
_LOOKS: dict[str, tuple[str, str, str, str]] = {
    "dense": ("dense layers, router, head", "#004b7a", "", "white"),
    "experts": ("experts", COLOURS[4], "", "black"),
    "demand": ("load on demand", COLOURS[3], "////", "white"),
    "prefetch": ("prefetch", "#8fd9c2", "....", "black"),
    "cpu": ("expert on the CPU", COLOURS[1], "xxxx", "black"),
    "results": ("results from the CPU", COLOURS[6], "", "black"),
    "management": ("cache management", "#999999", "\\\\\\", "black"),
    "activations": ("activations", COLOURS[5], "----", "black"),
}
_SAME = {"tail": "dense", "expert": "experts"}
_MOVED = ("demand", "prefetch", "cpu")  # one right after another is told apart by a white line


def timeline_strip(
    result: Result, stem: Path, start_s: float | None = None, stop_s: float | None = None, width_in: float = PAGE_IN
) -> list[Path]:
    """A row per processor and lane from `start_s` to `stop_s` of the run, with arrows from a load to its use.

    Without a window, the recorded decode step in the middle; without an end, up to the end of the step
    that runs at `start_s`. Arrows are left out where there would be more than 250. Returns the files
    written. Raises ConfigError for a window in which nothing was recorded, and ScenarioError for a run
    that was not recorded at all.
    """
    timeline = timeline_of(result.run)
    start_ps, stop_ps = _window(timeline, start_s, stop_s)
    shown = [s for s in timeline.slices if s.track.device != RUN and s.begin_ps < stop_ps and s.end_ps > start_ps]
    rows = [track for track in timeline.tracks if any(made.track == track for made in shown)]
    unit_s, unit = (1e-3, "ms") if (stop_ps - start_ps) * _PS >= 1e-3 else (1e-6, "µs")
    scale = _PS / unit_s
    kinds = [kind for kind in _LOOKS if any(_kind(made) == kind for made in shown)]
    columns, legend_in = legend_shape([_LOOKS[kind][0] for kind in kinds], width_in)
    with figure(width_in, 0.75 + legend_in + _ROW_IN * len(rows)) as drawing:
        axes = drawing.subplots()
        axes.grid(visible=False)
        for kind in kinds:
            _bars(axes, [made for made in shown if _kind(made) == kind], rows, kind, (start_ps, stop_ps), scale)
        _arrows(axes, timeline.flows, rows, (start_ps, stop_ps), scale)
        axes.set_xlim(0, (stop_ps - start_ps) * scale)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), [_row_name(track) for track in rows])
        axes.tick_params(axis="y", length=0)
        axes.set_xlabel(f"time ({unit})")
        _layers(axes, [made for made in shown if made.kind == "dense"], rows, (start_ps, stop_ps), scale, width_in)
        drawing.legend(loc="outside upper center", ncols=columns, handlelength=1.8)
        return save(drawing, stem)


def _window(timeline: Timeline, start_s: float | None, stop_s: float | None) -> tuple[int, int]:
    steps = [made for made in timeline.slices if made.track.device == RUN]
    if start_s is None:
        decode = [step for step in steps if step.name.startswith("decode")] or steps
        middle = decode[len(decode) // 2]
        start_ps = middle.begin_ps
    else:
        start_ps = round(start_s / _PS)
    ends = [step.end_ps for step in steps if step.end_ps > start_ps]
    stop_ps = round(stop_s / _PS) if stop_s is not None else min(ends, default=start_ps)
    if not any(step.begin_ps < stop_ps and step.end_ps > start_ps for step in steps) or stop_ps <= start_ps:
        raise ConfigError(
            f"timeline strip from {start_ps * _PS:g} s to {stop_ps * _PS:g} s: nothing was recorded there; expected a"
            f" window that touches a recorded step, within {steps[0].begin_ps * _PS:g} s to"
            f" {steps[-1].end_ps * _PS:g} s."
        )
    return start_ps, stop_ps


def _kind(made: Slice) -> str:
    return _SAME.get(made.kind, made.kind)


def _row_name(track: Track) -> str:
    name = track.name.replace("->", " → ")
    return track.device if name == "compute" else name


def _bars(axes: Axes, slices: list[Slice], rows: list[Track], kind: str, window: tuple[int, int], scale: float) -> None:
    label, colour, hatch, ink = _LOOKS[kind]
    look: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": ink, "linewidth": 0.0}
    for number, track in enumerate(rows):
        row = [made for made in slices if made.track == track]
        if row:
            spans = [(max(made.begin_ps, window[0]), min(made.end_ps, window[1])) for made in row]
            bars = [((begin - window[0]) * scale, (end - begin) * scale) for begin, end in spans]
            axes.broken_barh(bars, (number - _BAR / 2, _BAR), label=label, **look)
            label = "_"  # once in the legend
            ends = {end for _, end in spans if kind in _MOVED}
            borders = [(begin - window[0]) * scale for begin, _ in spans if begin in ends]
            axes.vlines(borders, number - _BAR / 2, number + _BAR / 2, color="white", linewidth=0.8)


def _arrows(axes: Axes, flows: list[Flow], rows: list[Track], window: tuple[int, int], scale: float) -> None:
    """From the end of a copy to what it was for: the next hop, or the expert."""
    links = []
    for flow in flows:
        for (copy, _), (use, use_ps) in zip(flow.points[1:], flow.points[2:], strict=False):
            if (
                copy.track != use.track
                and {copy.track, use.track} <= {*rows}
                and window[0] <= copy.end_ps
                and use_ps <= window[1]
            ):
                links.append((copy, use, use_ps))
    for copy, use, use_ps in links if len(links) <= _ARROWS else ():
        above, below = rows.index(use.track), rows.index(copy.track)
        side = _BAR / 2 if above < below else -_BAR / 2
        axes.annotate(
            "",
            xy=((use_ps - window[0]) * scale, above + side),
            xytext=((copy.end_ps - window[0]) * scale, below - side),
            arrowprops={
                "arrowstyle": "-|>,head_length=0.18,head_width=0.08",
                "linewidth": 0.4,
                "shrinkA": 0,
                "shrinkB": 0,
            },
        )


def _layers(
    axes: Axes, dense: list[Slice], rows: list[Track], window: tuple[int, int], scale: float, width_in: float
) -> None:
    """Routed layers along the upper edge, as many labels as there is room for."""
    first = next((track for track in rows if any(made.track == track for made in dense)), None)
    begins = [(made.begin_ps, made.layer) for made in dense if made.track == first and made.begin_ps >= window[0]]
    if not begins:
        return
    room_in = width_in - text_width_in([_row_name(track) for track in rows]) - 0.2  # of the axes, about
    labels: list[str] = []
    free_in = 0.0
    for begin, layer in begins:
        at_in = (begin - window[0]) / (window[1] - window[0]) * room_in
        half_in = text_width_in([str(layer)]) / 2
        fits = at_in - half_in >= free_in or not labels
        labels.append(str(layer) if fits else "")
        free_in = at_in + half_in + 0.06 if fits else free_in
    upper = axes.secondary_xaxis("top")
    upper.set_xticks([(begin - window[0]) * scale for begin, _ in begins], labels)
    upper.set_xlabel("layer")
