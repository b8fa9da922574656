"""The report of a proposal: Markdown with pictures beside it, and the same as one HTML file."""

from __future__ import annotations

from collections.abc import Iterator

from experiments.proposal import pictures
from experiments.proposal.cases import SKEW_WORDS
from experiments.proposal.cautions import cautions
from experiments.proposal.designs_page import designs_lines
from experiments.proposal.energy import ACCOUNTS, energies, per_dollar, per_watt
from experiments.proposal.intervals import intervals
from experiments.proposal.page import html_page
from experiments.proposal.study import EQUAL, HTML, MARKDOWN, RUNS, WHOLE, Study
from experiments.proposal.text import image, table, times
from experiments.proposal.verdicts import break_evens, verdict, winning_region
from experiments.sweep.tables import whole
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
    yield f"{model}, trace `{trace}`; {_budget(study, study.main)}."
    yield ""
    for rival in study.rivals:
        yield f"- {verdict(study, rival)}"
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
    yield "Each machine runs each of its systems; the quickest counts. Speed-up: time of the rival / time of the"
    yield f"proposed machine. The other sections are with {_budget(study, study.main)}."
    for budget in dict.fromkeys((study.main, EQUAL, WHOLE)):
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
        first = "time per token / to the first"
        yield from table(["workload", "machine", "system", first, "speed-up", *ACCOUNTS], rows)
    yield ""
    yield "Energy has two accounts: bottom up (bits and operations at their price; misses what has no price) and by"
    yield "power (idle and full power by what is busy). Compare within a column. A dash: the file lacks what it needs."
    yield ""
    yield from _equal(study)


def _equal(study: Study) -> Iterator[str]:
    rows = []
    for rival in study.rivals:
        for case in study.cases:
            up = study.speed_up(rival, case)
            power, cost = per_watt(study, rival), per_dollar(study, rival)
            rows.append([rival.label, case.words, times(up), times(up * power), times(up * cost)])
    yield "### At equal power and cost"
    yield ""
    yield "The speed-up divided by how many times the rival's power (sum of `tdp_w` of what computes) or cost"
    yield "(`cost_usd` of all devices) the proposed machine has, as if machines came in fractions. A dash: one of the"
    yield "files does not say."
    yield ""
    yield from table(["rival", "workload", "speed-up", "at equal power", "at equal cost"], rows)
    areas = {name: device.area_mm2 for name, device in study.box.platform.devices.items() if device.area_mm2}
    if areas:
        said = ", ".join(f"{name} {area:g} mm²" for name, area in areas.items())
        yield ""
        yield f"Silicon that the units add: {said}."
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
    factors = ", ".join(f"{factor:g}" for factor in study.scope.factors)
    yield f"Break-even values are interpolated, not searched: runs at {factors} times the file's value, and between"
    yield "them the logarithm of the speed-up is taken as linear in that of the parameter. The rival stays as it is."
    for rival in study.rivals:
        yield ""
        yield f"### Against {rival.label}"
        yield ""
        yield image(pictures.speed_over_parameters(study, rival).name, f"Speed-up over {rival.label} by parameter")
        yield ""
        yield from table(["parameter", "in the file", *(case.words for case in study.cases)], break_evens(study, rival))
    yield ""


def _map(study: Study) -> Iterator[str]:
    yield "## 4. For which batches and contexts it wins"
    yield ""
    yield f"Decoding {study.scope.map_tokens} tokens; speed-up by requests at once and tokens of context, with the"
    yield "routing as recorded and, as the other extreme of skew, with experts drawn alike (`shuffle uniform`)."
    for rival in study.rivals:
        yield ""
        yield f"### Against {rival.label}"
        yield ""
        yield image(pictures.map_of(study, rival).name, f"Speed-up over {rival.label} by batch and context")
        yield ""
        for skew in study.scope.skews:
            yield f"- {SKEW_WORDS.get(skew, str(skew))}: {winning_region(study, rival, skew)}"
    yield ""


def _sure(study: Study) -> Iterator[str]:
    yield "## 5. How sure"
    yield ""
    yield f"Of the speed-up: the middle 90 % of {study.scope.draws} draws of all constants (`uncertainty=calibration`,"
    yield "paired by draw), and 95 % from resampled requests (paired bootstrap; requests of one batch are drawn"
    yield "together, and fewer than five units say nothing: a dash)."
    yield ""
    rows = []
    for rival in study.rivals:
        for case in study.cases:
            found = intervals(study, rival, case)
            up = times(study.speed_up(rival, case))
            rows.append(
                [rival.label, case.words, up, _span(found.calibration), _span(found.sampling), str(found.units)]
            )
    header = ["rival", "workload", "speed-up", "calibration", "requests", "drawn units"]
    yield from table(header, rows)
    yield ""


def _how(study: Study) -> Iterator[str]:
    yield "## How this was made"
    yield ""
    given = " ".join(study.overrides) or "none"
    yield f"{study.runs} runs below `{RUNS}/`, each part an ordinary sweep folder (`experiments.results.load`); the"
    yield f"same command goes on from them. Overrides: `{given}`. Systems tried:"
    yield ""
    for side in study.sides:
        yield f"- {side.label}: {', '.join(side.systems)}"
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
