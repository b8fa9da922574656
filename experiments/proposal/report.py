"""The report of a proposal: Markdown with pictures beside it, and the same as one HTML file."""

from __future__ import annotations

import math
from collections.abc import Iterator

from experiments.proposal import pictures
from experiments.proposal.cautions import cautions
from experiments.proposal.designs_page import designs_lines
from experiments.proposal.energy import ACCOUNTS, energies, per_dollar, per_watt, unpriced, unsaid
from experiments.proposal.intervals import LEAST, intervals
from experiments.proposal.page import html_page
from experiments.proposal.sides import described
from experiments.proposal.skew import words
from experiments.proposal.study import EQUAL, HTML, MARKDOWN, RUNS, WHOLE, Study
from experiments.proposal.text import image, table, times
from experiments.proposal.verdicts import better_halved, break_evens, not_run, verdict, winning_region
from experiments.sweep.tables import whole
from hwmodels.units import format_quantity
from simulator.words import CAUSES, seconds

METHOD = {
    WHOLE: "all memory that a worker has left for experts",
    EQUAL: "{gib:.3g} GiB for experts on each worker",
}


def write_report(study: Study) -> None:
    """Write report.md, report.html and the pictures below the study's folder."""
    text = "\n".join(_lines(study)) + "\n"
    for name, content in ((MARKDOWN, text), (HTML, html_page(text, study.folder, f"Proposal: {study.box.label}"))):
        with whole(study.folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")


def _lines(study: Study) -> Iterator[str]:
    yield from _head(study)
    yield from _warnings(study)
    yield from _speed(study)
    yield from _time(study)
    yield from _parameters(study)
    yield from _map(study)
    yield from _sure(study)
    yield from designs_lines(study)
    yield from _how(study)


def _head(study: Study) -> Iterator[str]:
    model, trace = study.config["model"]["name"], study.config["trace"]["name"]
    yield f"# Is {study.box.label} worth building?"
    yield ""
    if study.box.platform.description:
        yield f"{study.box.platform.description}"
        yield ""
    yield (
        f"Simulated runs of {model}, whose experts are chosen as in the trace `{trace}`; "
        f"{_budget(study, study.main)}. Of each machine the system that is quickest counts (see the end). Three "
        "workloads:"
    )
    yield ""
    for case in study.cases:
        yield f"- *{case.words}*: {case.explained}"
    yield ""
    for rival in study.rivals:
        yield f"{verdict(study, rival)}"
        yield ""


def _budget(study: Study, budget: str) -> str:
    return METHOD[budget].format(gib=study.equal_gib)


def _warnings(study: Study) -> Iterator[str]:
    yield "## Before you believe it"
    yield ""
    for text in cautions(study):
        yield f"- {text}"
    yield ""


def _speed(study: Study) -> Iterator[str]:
    yield "## 1. Speed and energy"
    yield ""
    yield (
        "Time is from a token of a request to its next one, or to the first token for prompts; speed-up is time "
        "of the rival / time of the proposed machine. Energy is the machine's, per token of any request, by two "
        "accounts: *bottom up*, each bit moved and operation at its price, and *by power*, full power (`tdp_w`) "
        "of what is busy and idle power of the rest. They miss different things: compare within a column. A dash: "
        "a file lacks what it needs."
    )
    for budget in _budgets(study):
        yield ""
        yield f"### With {_budget(study, budget)}"
        yield ""
        rows = []
        for case in study.cases:
            for side in study.sides:
                outcome = study.outcome(side, case, budget)
                time = "does not run" if outcome is None else seconds(study.seconds(side, case, budget))
                system = study.best.get((side.label, case.name, budget), "-")
                up = "" if side is study.box else times(study.speed_up(side, case, budget))
                joules = energies(study, side, case, budget)
                rows.append([case.words, side.label, system, time, up, *joules])
        header = ["workload", "machine", "system", "time", f"speed-up of {study.box.label} over it", *ACCOUNTS]
        yield from table(header, rows, left=3)
        yield ""
        yield f"From `{RUNS}/{budget}/points.parquet`, which has all systems."
    yield ""
    for text in unpriced(study):
        yield f"- {text}"
    yield ""
    yield from _equal(study)


def _budgets(study: Study) -> list[str]:
    """The main budget, and the others if they are not the same."""
    found = [study.main]
    same = all(
        study.seconds(side, case, EQUAL) == study.seconds(side, case, WHOLE)
        for case in study.cases
        for side in study.sides
        if study.outcome(side, case, EQUAL) is not None or study.outcome(side, case, WHOLE) is not None
    )
    return found if same else [*found, *(budget for budget in (EQUAL, WHOLE) if budget not in found)]


def _equal(study: Study) -> Iterator[str]:
    rows = []
    for rival in study.rivals:
        for case in study.cases:
            up, room = study.speed_up(rival, case), study.speed_up(rival, case, EQUAL)
            power, cost = per_watt(study, rival), per_dollar(study, rival)
            rows.append([rival.label, case.words, *map(times, (up, room, up * power, up * cost))])
    yield "### At equal capacity, power and cost"
    yield ""
    yield (
        f"Equal room is {study.equal_gib:.3g} GiB for experts on each worker. At equal power and cost the speed-up "
        "is divided by how many times the rival's power (sum of `tdp_w` of what computes) or cost (sum of "
        "`cost_usd`) the proposed machine has, as if machines came in fractions."
    )
    yield ""
    header = ["rival", "workload", "speed-up", "at equal room for experts", "at equal power", "at equal cost"]
    yield from table(header, rows)
    yield ""
    for side in study.sides:
        gpu, home = side.platform.memory_of(side.platform.workers[0]), side.platform.device(side.platform.home)
        sizes = (format_quantity(item.memory_capacity_bytes, "bytes") for item in (gpu, home))
        yield "- {}: {} on each worker, {} where all experts lie.".format(side.label, *sizes)
    for rival in study.rivals:
        for text in unsaid(study, rival):
            yield f"- {text}"
    areas = {name: device.area_mm2 for name, device in study.box.platform.devices.items() if device.area_mm2}
    if areas:
        said = ", ".join(f"{name} {area:g} mm²" for name, area in areas.items())
        yield f"- Silicon that the units add: {said}."
    yield ""


def _time(study: Study) -> Iterator[str]:
    yield "## 2. Where the time goes"
    yield ""
    yield image(pictures.where_time_goes(study).name, "Time by what the critical path waited for")
    yield ""
    rows = []
    for case in study.cases:
        for side in study.sides:
            outcome = study.outcome(side, case)
            shares = outcome.shares if outcome else {}
            shown = {CAUSES.get(cause, cause): share for cause, share in shares.items() if share > 0.005}
            said = ", ".join(f"{cause} {share:.0%}" for cause, share in shown.items())
            rows.append([case.words, side.label, said or "does not run"])
    yield from table(["workload", "machine", "share of the time"], rows)
    yield ""


def _parameters(study: Study) -> Iterator[str]:
    yield "## 3. What matters, and where it breaks even"
    yield ""
    yield "Each parameter alone, halved and doubled, at the system that is quickest with the file's values:"
    yield ""
    yield image(pictures.tornado(study).name, "Change of speed with each parameter halved and doubled")
    yield ""
    if odd := better_halved(study):
        yield (
            f"Half is quicker than the file's value of {', '.join(odd)}. That is the system's doing, not the machine's:"
            " its rule takes each layer by itself and every copy as alone on its link, and where copies seem cheap it"
            " makes more of them than pay."
        )
        yield ""
    factors = ", ".join(f"{factor:g}" for factor in study.scope.factors)
    yield (
        f"Break-even values are interpolated, not searched: runs at {factors} times the file's value, and between "
        "them the logarithm of the speed-up is taken as linear in that of the parameter. The rival stays as it "
        "is."
    )
    for rival in study.rivals:
        yield ""
        yield f"### Against {rival.label}"
        yield ""
        yield image(pictures.speed_over_parameters(study, rival).name, f"Speed-up over {rival.label} by parameter")
        yield ""
        yield from table(["parameter", "in the file", *(case.words for case in study.cases)], break_evens(study, rival))
    yield ""


def _map(study: Study) -> Iterator[str]:
    yield "## 4. For which batches, contexts and skews it wins"
    yield ""
    yield (
        f"Decoding {study.scope.map_tokens} tokens; speed-up by requests at once (batch), tokens of context, and "
        "how uneven experts are used. Beside the routing as recorded stand traces in which every token draws its "
        "experts anew: all alike, or the n-th most popular of a layer as often as 1/n or 1/n² says (steps "
        "`shuffle uniform` and `skew` of `moesim trace transform`). Headings say what share of the work the "
        "busiest eighth of the experts has. Each machine runs one system throughout, the one that is quickest in "
        f"the case '{study.cases[1].words}' (at batch 1 '{study.cases[0].words}'): another may be quicker in a cell. "
        "A dash: one of the two machines does not run there."
    )
    for rival in study.rivals:
        yield ""
        yield f"### Against {rival.label}"
        yield ""
        yield image(pictures.map_of(study, rival).name, f"Speed-up over {rival.label} by batch, context and skew")
        yield ""
        for skew in study.scope.skews:
            share = study.shares.get(skew, math.nan)
            yield f"- {words(skew)} (busiest eighth: {share:.0%}): {winning_region(study, rival, skew)}"
    for text in not_run(study):
        yield f"- {text}"
    yield ""


def _sure(study: Study) -> Iterator[str]:
    yield "## 5. How sure"
    yield ""
    yield (
        f"*Constants*: the middle 90 % of {study.scope.draws} runs with all constants of both machines drawn by "
        "how well each is known (`uncertainty=calibration`; a GPU that both have is drawn alike), a dash with fewer "
        f"than {LEAST}. *Requests*: 95 % if other "
        "requests like these had been served (bootstrap, the same requests on both). Those of one batch count as "
        "one sample, and with fewer than five samples nothing is said: a dash."
    )
    yield ""
    rows = []
    for rival in study.rivals:
        for case in study.cases:
            found = intervals(study, rival, case)
            up = times(study.speed_up(rival, case))
            rows.append(
                [rival.label, case.words, up, _span(found.calibration), _span(found.sampling), str(found.units)]
            )
    header = ["rival", "workload", "speed-up", "constants", "requests", "samples"]
    yield from table(header, rows)
    yield ""


def _how(study: Study) -> Iterator[str]:
    yield "## How this was made"
    yield ""
    given = " ".join(study.overrides) or "none"
    yield (
        f"{study.runs} runs below `{RUNS}/`, each part an ordinary sweep folder (`experiments.results.load`); the "
        f"same command goes on from them. Overrides: `{given}`. Systems tried:"
    )
    yield ""
    for side in study.sides:
        for system in side.systems:
            yield f"- {side.label}, `{system}`: {described(system)}"
    yield ""
    refused: dict[str, str] = {}
    for (machine, system, case, _), outcome in study.systems.items():
        if outcome.error:
            refused.setdefault(f"{machine}, {system}, {_words(study, case)}", outcome.error)
    for what, error in refused.items():
        yield f"- {what} did not run: {error}"


def _words(study: Study, name: str) -> str:
    return next(case.words for case in study.cases if case.name == name)


def _span(ends: tuple[float, float]) -> str:
    low, high = ends
    return "-" if low != low else f"{low:.2f} to {high:.2f}x"
