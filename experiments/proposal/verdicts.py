"""What the runs say in words: the verdict, break-even values, the region where the proposed machine wins."""

from __future__ import annotations

from experiments.proposal.breakeven import break_even
from experiments.proposal.cases import Case
from experiments.proposal.intervals import intervals
from experiments.proposal.parameters import Parameter
from experiments.proposal.sides import Side
from experiments.proposal.study import WHOLE, Study

EVEN = 0.005  # speed-ups that differ from 1 by less count as equal


def verdict(study: Study, rival: Side) -> str:
    """One paragraph: how many times as quick in every case, whether that is sure, and what all memory would change."""
    parts = []
    for case in study.cases:
        up = study.speed_up(rival, case)
        if up != up:
            parts.append(f"{case.words}: no comparison, one of the two does not run")
            continue
        low, high = intervals(study, rival, case).calibration
        sure = low != low or low > 1 or high < 1
        parts.append(f"{case.words}: {up:.2f} times as quick{'' if sure else f' (not sure: {low:.2f} to {high:.2f})'}")
    text = f"**Against {rival.label}**: {'; '.join(parts)}."
    if study.main != WHOLE:
        ups = [study.speed_up(rival, case, WHOLE) for case in study.cases]
        said = ", ".join("does not run" if up != up else f"{up:.2f}" for up in ups)
        text += f" With all memory of both: {said}."
    return text


def break_evens(study: Study, rival: Side) -> list[list[str]]:
    """A row for each parameter: its name, its value, and in each case where the speed-up passes 1."""
    return [
        [parameter.name, parameter.text(1.0), *(_break_even(study, rival, case, parameter) for case in study.cases)]
        for parameter in study.parameters
    ]


def _break_even(study: Study, rival: Side, case: Case, parameter: Parameter) -> str:
    speed = study.speed_ups(rival, case, parameter)
    found = break_even(speed)
    if found is None:
        return "-"
    failed = [factor for factor, value in speed.items() if value != value]
    note = f"; does not run at {', '.join(parameter.text(factor) for factor in sorted(failed))}" if failed else ""
    ties = [factor for factor, value in speed.items() if abs(value - 1) < EVEN]
    if ties and found.factors and found.wins_above and min(speed) in ties:
        return f"as quick up to {parameter.text(max(ties))}, quicker beyond{note}"
    if found.factors:
        values = " and ".join(parameter.text(factor) for factor in found.factors)
        where = "" if len(found.factors) > 1 else " or more" if found.wins_above else " or less"
        return f"{values}{where}{note}"
    ends = f"{parameter.text(found.least)} to {parameter.text(found.most)}"
    return f"{'wins' if found.wins_above else 'loses'} at all of {ends}{note}"


def better_halved(study: Study) -> list[str]:
    """Parameters of which half is quicker than the file's value, each with the case."""
    found = []
    for (case_name, name, factor), outcome in study.swept.items():
        case = next(case for case in study.cases if case.name == case_name)
        if factor == 0.5 and study.seconds(study.box, case) / outcome.value(case.metric) > 1 + EVEN:
            found.append(f"{name} ({case.words})")
    return found


def winning_region(study: Study, rival: Side, skew: str | None) -> str:
    """The cells of the map that are won, in words."""
    grid = study.map_grid(rival, skew)
    cells = [
        (float(grid[row, column]), batch, context)
        for row, context in enumerate(study.scope.contexts)
        for column, batch in enumerate(study.scope.batches)
        if grid[row, column] == grid[row, column]
    ]
    if not cells:
        return "nothing runs."
    won = [cell for cell in cells if cell[0] > 1 + EVEN]
    best, worst = max(cells), min(cells)
    count = f"quicker in {len(won)} of {len(cells)} cells"
    most = f"most at batch {best[1]}, {best[2]:,} tokens ({best[0]:.2f}x)"
    least = f"least at batch {worst[1]}, {worst[2]:,} tokens ({worst[0]:.2f}x)"
    return f"{count}; {most}, {least}."


def not_run(study: Study) -> list[str]:
    """Why cells of the map have no figure: each machine's first reason."""
    found: dict[str, str] = {}
    for (machine, batch, context, _), item in study.map.items():
        if item.error:
            found.setdefault(machine, f"Batch {batch}, {context:,} tokens does not run on {machine}: {item.error}")
    return list(found.values())
