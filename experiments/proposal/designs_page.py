"""The section of a report on the best designs within a budget, with its picture."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from experiments.figures.style import PAGE_IN, figure, fill, stroke
from experiments.proposal.designs import Design, Designs
from experiments.proposal.space import MEASURES, Range
from experiments.proposal.study import FIGURES, RUNS, Study
from experiments.proposal.text import image, save_svg, table, times
from hwmodels.units import format_quantity
from simulator.words import seconds

BETWEEN = 2  # designs of a frontier that the table shows beside its ends
NAMES = {"area_mm2": "area", "tdp_w": "power", "cost_usd": "cost"}


def designs_lines(study: Study) -> Iterator[str]:
    """Nothing if nothing was searched."""
    found = study.designs
    if found is None:
        return
    section = found.section
    yield "## 6. The best designs within the budget"
    yield ""
    limits = ", ".join(f"{NAMES[name]} {most:g} {MEASURES[name]}" for name, most in section.budget.items())
    yield f"What the section `search` of the file lets change ({found.case.words}), within {limits or 'no limit'}."
    yield "Budgets hold for all devices of the file but GPUs and CPUs: what they state, and what each change adds at"
    yield "the file's prices."
    yield ""
    yield told(study, found)
    yield ""
    yield image(_picture(study, found).name, "Designs by time, energy and what is budgeted")
    yield ""
    yield from _table(study, found)
    yield ""


def told(study: Study, found: Designs) -> str:
    """What was found, in a few sentences."""
    front = found.frontier
    more = f"{len(found.found)} designs were run"
    refused = [f"{count} for {why}" for why, count in found.refused.items()]
    more += f"; others that were drawn were not: {', '.join(refused)}" if refused else ""
    more += f"; {len(found.failed)} failed ({next(iter(found.failed.values()))})" if found.failed else ""
    if not front:
        return f"{more}."
    quick, thrifty = front[0], min(front, key=lambda design: design.energy_j)
    own = study.seconds(study.box, found.case)
    text = f"The quickest takes {seconds(quick.seconds)}, {own / quick.seconds:.2f} times as quick as the file's values"
    if thrifty is quick:
        text += f", and is the thriftiest too, at {quick.energy_j:.3g} J per token"
    else:
        text += f"; the thriftiest {thrifty.energy_j:.3g} J per token at {seconds(thrifty.seconds)}"
    exceeds = [name for name, most in found.section.budget.items() if found.start[name] > most]
    text += f". The file's values themselves exceed the {', '.join(NAMES[n] for n in exceeds)}" if exceeds else ""
    return f"{text}. {more}."


def _table(study: Study, found: Designs) -> Iterator[str]:
    named = _named(study, found)
    own = study.outcome(study.box, found.case)
    rows = []
    for span in found.section.ranges:
        values = (span.before, *(design.values[span.key] for design in named.values()))
        rows.append([f"`{span.key}`", *(_value(span, value) for value in values)])
    for name in found.start:
        numbers = [found.start[name], *(design.measures[name] for design in named.values())]
        most = found.section.budget.get(name)
        label = f"{NAMES[name]} ({MEASURES[name]}{'' if most is None else f', at most {most:g}'})"
        rows.append([label, *(f"{number:.4g}" for number in numbers)])
    took = [study.seconds(study.box, found.case), *(design.seconds for design in named.values())]
    what = "time to the first token" if "ttft" in found.case.metric else "time per token"
    rows.append([what, *(seconds(value) for value in took)])
    joules = [own.value("energy_per_token_j") if own else math.nan, *(design.energy_j for design in named.values())]
    account = "bottom up" if own and own.value("energy_bottom_up_j") > 0 else "by power"
    rows.append([f"energy (J/token, {account})", *(f"{value:.3g}" for value in joules)])
    for rival in study.rivals:
        theirs = study.seconds(rival, found.case)
        rows.append([f"speed-up over {rival.label}", *(times(theirs / value) for value in took)])
    yield "No design that was run is both quicker and thriftier than the quickest, the thriftiest or one between them."
    yield "*Least* is of designs that are at least as quick as the file's values. All designs are in"
    yield f"`{RUNS}/designs/points.parquet`."
    yield ""
    yield from table(["", "the file", *named], rows, left=1)


def _named(study: Study, found: Designs) -> dict[str, Design]:
    """Names of a design -> it: the ends of the frontier, some between them, the least of each measure."""
    front = found.frontier
    picked = [("quickest", front[0]), ("thriftiest", front[-1])] if front else []
    inner = front[1:-1]
    step = max(1, len(inner) // BETWEEN)
    picked[1:1] = [("between", design) for design in inner[::step][:BETWEEN]]
    enough = [item for item in found.found if item.seconds <= study.seconds(study.box, found.case)]
    for name in found.start:
        if enough:
            picked.append((f"least {NAMES[name]}", min(enough, key=lambda item: (item.measures[name], item.seconds))))
    names: dict[int, str] = {}
    designs: dict[int, Design] = {}
    for name, design in picked:
        designs[id(design)] = design
        names[id(design)] = f"{names[id(design)]}, {name}" if id(design) in names else name
    count = list(names.values()).count("between")
    numbers = iter(range(1, count + 1))
    return {
        f"{name} {next(numbers)}" if name == "between" and count > 1 else name: designs[key]
        for key, name in names.items()
    }


def _value(span: Range, value: float) -> str:
    unit = span.parameter.unit
    return format_quantity(value, unit) if unit else f"{value:,.6g}"


def _picture(study: Study, found: Designs) -> Path:
    """Time per token over energy and over each measure: designs, those that no other beats in both, the file's."""
    measures = list(found.start)
    own = study.outcome(study.box, found.case)
    with figure(PAGE_IN, 2.4) as drawing:
        panels = drawing.subplots(1, 1 + len(measures), sharey=True, squeeze=False)[0]
        for axes, name in zip(panels, ["", *measures], strict=True):
            points = [(design.measures[name] if name else design.energy_j, design.seconds) for design in found.found]
            front = _least(points)
            axes.scatter(*zip(*[(x, 1e3 * y) for x, y in points], strict=True), s=9, color="#999999", label="designs")
            look = {**stroke(0), "drawstyle": "steps-post"}
            axes.plot(*zip(*[(x, 1e3 * y) for x, y in front], strict=True), label="no other beats them", **look)
            x = found.start[name] if name else own.value("energy_per_token_j") if own else math.nan
            mark = 1e3 * study.seconds(study.box, found.case)
            axes.scatter([x], [mark], s=45, marker="*", color=fill(3)["color"], zorder=3, label="the file")
            if name in found.section.budget:
                axes.axvline(found.section.budget[name], color="black", linewidth=0.8, linestyle=":")
            axes.set_xlabel(f"{NAMES[name]} ({MEASURES[name]})" if name else "energy (J per token)")
        panels[0].set_ylabel("ms to the first token" if "ttft" in found.case.metric else "ms per token")
        handles, labels = panels[0].get_legend_handles_labels()
        drawing.legend(handles, labels, loc="outside upper center", ncols=3)
        return save_svg(drawing, study.folder / FIGURES / "designs.svg")


def _least(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Those that no other is below in one and at most equal in the other, by the first.

    >>> _least([(2, 3), (1, 5), (3, 3), (4, 1)])
    [(1, 5), (2, 3), (4, 1)]
    """
    found: list[tuple[float, float]] = []
    for point in sorted(points):
        if not found or point[1] < found[-1][1]:
            found.append(point)
    return found
