"""The page and the CSV of a set of published claims beside what the simulator makes of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.validation.published.claims import Claim, Overrides, Paper, Table
from experiments.validation.published.engines import Engine
from experiments.validation.published.measures import Outcome
from experiments.validation.published.text import NONE, anchor, number, span, table
from simulator.tables import LOST

if TYPE_CHECKING:
    import pandas as pd

INTRO = "intro.md"  # in a set's folder: the text at the top of its page
_READING = """\
What is done with a published figure depends on how it is known:

- **asserted**: the publication, or its abstract, was read. Ours must lie in the band;
- **scored**: known from notes, from other publications, or read off a figure. In or out is counted apart;
- **shown**: derived or recalled, or without a band. Not counted.

Cells that a framework's constant was fitted on are marked *fitted* and never counted. *Ours/published* of a published
range is over its nearest end, so that 1.00 lies within it. Each band stands with its reason; a miss keeps its band and
gets an explanation.
"""


def page(
    name: str,
    intro: str,
    found: Sequence[Outcome],
    engines: Mapping[str, Engine],
    figures: Iterable[str],
    given: str | None = None,
) -> str:
    """The page as Markdown. figures: `<paper>_<table>` of those that were drawn, in the folder `name` beside it.

    given: the folder of claims as the user named it; None for a shipped set, whose page has links to other documents.
    """
    papers = list(dict.fromkeys(outcome.paper for outcome in found))
    parts = [
        intro.strip() or f"# Published claims: {name}",
        _origin(name, given),
        _READING.strip(),
        "## Summary",
        *_summary(papers, found),
        *_engine_table(papers, engines),
    ]
    drawn = set(figures)
    for paper in papers:
        own = [outcome for outcome in found if outcome.paper is paper]
        parts += _section(name, paper, own, drawn, links=given is None)
    return "\n\n".join(parts) + "\n"


def _origin(name: str, given: str | None) -> str:
    if given is not None:
        return f"Written by `moesim validate claims {shlex.quote(given)}`; do not edit. The claims are the data there."
    return (
        f"Written by `moesim validate {name}`; do not edit. The claims are data:"
        f" `experiments/validation/claims/{name}`, in the format of [claims](claims.md)."
    )


def _summary(papers: Sequence[Paper], found: Sequence[Outcome]) -> list[str]:
    rows = []
    for paper in papers:
        own = [outcome for outcome in found if outcome.paper is paper]
        link = f"[{paper.title}](#{anchor(paper.title)})"
        rows.append([link, *_counts(own)])
    rows.append(["**all**", *(f"**{text}**" for text in _counts(found))])
    parts = [
        table(
            ["publication", "asserted, in band", "scored, in band", "shown", "fitted", "failed"],
            rows,
            numbers=range(1, 6),
        )
    ]
    misses = [outcome for outcome in found if outcome.counted and outcome.inside is False]
    if misses:
        rows = [
            [_label(o), o.paper.title, o.weight, *_numbers(o), o.error or o.part.explains_miss or "not explained yet"]
            for o in misses
        ]
        heads = ["out of band", "publication", "", "published", "ours", "ours/published", "band", "why"]
        parts += ["### Out of band", table(heads, rows, numbers=range(3, 7))]
    return parts


def _counts(found: Sequence[Outcome]) -> list[str]:
    texts = []
    for kind in ("asserted", "scored"):
        own = [o for o in found if o.counted and o.weight == kind]
        texts.append(f"{sum(bool(o.inside) for o in own)} of {len(own)}" if own else NONE)
    shown = [o for o in found if not o.counted and o.fitted is None and o.runs]
    return [
        *texts,
        str(len(shown)),
        str(sum(o.fitted is not None for o in found)),
        str(sum(o.error is not None for o in found)),
    ]


def _engine_table(papers: Sequence[Paper], engines: Mapping[str, Engine]) -> list[str]:
    names = {paper.name: paper.title for paper in papers}
    rows = [
        [f"`{name}`", names[e.paper], f"`{e.table}`, {e.column}", f"{e.framework_layer_s * 1e3:.3f} ms"]
        for name, e in engines.items()
        if e.paper in names and e.framework_layer_s is not None
    ]
    if not rows:
        return []
    text = "What a framework spends on each layer beyond its kernels: one constant per engine, fitted on one column."
    return ["## Fitted constants", text, table(["engine", "publication", "fitted on", "per layer"], rows, numbers=[3])]


def _section(name: str, paper: Paper, found: Sequence[Outcome], figures: set[str], links: bool) -> list[str]:
    where = " ".join(text for text in (paper.venue, paper.year) if text)
    parts = [f"## {paper.title}", f"{', '.join(filter(None, [where, paper.reference]))}."]
    facts = []
    if paper.system:
        system = f"`{paper.system}`"
        facts.append(f"- system: {f'[{system}](../systems/{paper.system}.md)' if links else system}")
    facts += [f"- models: {', '.join(paper.models)}"] if paper.models else []
    facts += [f"- machines: {', '.join(paper.machines)}"] if paper.machines else []
    facts += [f"- framework overhead: engine `{paper.engine}`"] if paper.engine else []
    facts += [f"- what a simulator cannot show: {paper.cannot_show}"] if paper.cannot_show else []
    parts += ["\n".join(facts)] if facts else []
    parts += [paper.remarks] if paper.remarks else []
    claims = [outcome for outcome in found if isinstance(outcome.part, Claim)]
    if claims:
        parts += [_claims(claims), _notes(claims), _commands([(o.part.id, o.runs) for o in claims])]
    for part in paper.tables:
        parts += _table_part(name, part, [outcome for outcome in found if outcome.part is part], figures)
    return [part for part in parts if part]


def _claims(found: Sequence[Outcome]) -> str:
    heads = ["claim", "", "published", "ours", "ours/published", "band", "verdict", "known from"]
    rows = [[_label(o), o.part.says, *_numbers(o), verdict(o), f"{o.part.confidence}, {o.part.source}"] for o in found]
    return table(heads, rows, numbers=range(2, 6))


def _label(outcome: Outcome) -> str:
    return f"`{outcome.part.id}`" + (f", {outcome.cell.row}, {outcome.cell.column}" if outcome.cell else "")


def _numbers(outcome: Outcome) -> list[str]:
    unit = outcome.part.unit
    ours = "failed" if outcome.error else NONE if outcome.value is None else number(outcome.value, unit)
    ratio = NONE if outcome.ratio is None or unit == "sign" else f"{outcome.ratio:.2f}"
    return [span(outcome.published, unit), ours, ratio, span(outcome.band, unit)]


def verdict(outcome: Outcome) -> str:
    """In a word: in band, **out**, failed, fitted, shown."""
    if outcome.error:
        return "**failed**"
    if outcome.fitted:
        return "fitted"
    if outcome.inside is None:
        return "shown"
    text = "in band" if outcome.inside else "**out**"
    return text if outcome.counted else f"{text} (shown)"


def _notes(found: Sequence[Outcome]) -> str:
    """For each claim: why this band, what is different from the publication, why it is missed, quality."""
    lines = []
    for o in found:
        part = o.part
        assert isinstance(part, Claim)
        texts = [f"band: {part.band_reason}"] if part.band_reason else []
        if len(o.values) > 1:
            each = ", ".join(number(value, part.unit) for value in o.values)
            texts.append(f"{part.mean + ' mean' if part.mean[-1] == 'c' else part.mean} of {each}")
        texts += [f"decode: {text}" for text in [_speeds(o)] if text]
        texts += [f"quality: {text}" for text in [_qualities(o)] if text]
        texts += [part.remarks] if part.remarks else []
        texts += ["one of its runs was used to fit a constant"] if o.partly_fitted else []
        texts += [f"remark: {remark}" for remark in o.remarks]
        texts += [f"failed: {o.error}"] if o.error else []
        texts += [f"**why not:** {part.explains_miss}"] if part.explains_miss and not o.inside else []
        if texts:
            lines.append(f"- `{part.id}`: " + "; ".join(text.strip().rstrip(".") for text in texts) + ".")
    return "\n".join(lines)


def _speeds(outcome: Outcome) -> str:
    """Decoding speed of the runs by name, where a claim has one case."""
    assert isinstance(outcome.part, Claim)
    if len(outcome.part.cases) > 1:
        return ""
    speeds = [(name, run.summary.get("tokens_per_s")) for name, run in outcome.runs]
    return ", ".join(f"{name} {speed:.3g} tokens/s" for name, speed in speeds if speed)


def quality(summary: Mapping[str, Any]) -> dict[str, float]:
    """Shares of gate weight that did not run as the router chose, by what became of them; without zeros."""
    shares = {name.replace("_", " "): summary.get(f"{name}_share") for name in LOST}
    return {name: share for name, share in shares.items() if share}


def _qualities(outcome: Outcome) -> str:
    texts = []
    for name, run in outcome.runs:
        if shares := quality(run.summary):
            texts.append(f"{name} " + ", ".join(f"{key} {100 * share:.1f} %" for key, share in shares.items()))
    return ", ".join(dict.fromkeys(texts))


def _commands(named: Iterable[tuple[str, Iterable[tuple[str, Any]]]]) -> str:
    """The lines that reproduce each run, each once, folded away."""
    users: dict[Overrides, list[str]] = {}
    for label, runs in named:
        for name, run in runs:
            text = f"{label}: {name}" if name != "cell" else label
            if text not in users.setdefault(run.overrides, []):
                users[run.overrides].append(text)
    if not users:
        return ""
    lines = [f"# {'; '.join(names)}\n{command(overrides)}" for overrides, names in users.items()]
    return "<details>\n<summary>Commands</summary>\n\n```sh\n" + "\n".join(lines) + "\n```\n\n</details>"


def command(overrides: Overrides) -> str:
    """The line that runs it."""
    return f"moesim run {shlex.join(overrides)}"


def _table_part(name: str, part: Table, found: Sequence[Outcome], figures: set[str]) -> list[str]:
    by_place = {(o.cell.row, o.cell.column): o for o in found if o.cell}
    rows = []
    for row in dict.fromkeys(o.cell.row for o in found if o.cell):
        rows.append([row, *(_cell(by_place.get((row, column)), part) for column in part.columns)])
    paper = found[0].paper
    stem = f"{paper.name}_{part.id}"
    counted = [o for o in found if o.counted]
    said = f"published → ours, {part.unit}; {part.confidence}, {part.source}"
    if part.within is not None:
        inside = sum(bool(o.inside) for o in counted)
        said += f"; {part.weight} within {part.within:.0%}: {inside} of {len(counted)} ({part.within_reason})"
    parts = [f"### {part.says}", f"`{part.id}`: {said}.", table(["", *part.columns], rows, numbers=range(1, 99))]
    if stem in figures:
        parts.append(f"![{part.says}]({name}/{stem}.png)")
    texts = [part.remarks] if part.remarks else []
    texts += [f"Remark: {remark}." for remark in dict.fromkeys(r for o in found for r in o.remarks)]
    texts += [f"{_label(o)} failed: {o.error}" for o in found if o.error]
    if part.explains_miss and any(o.counted and not o.inside for o in found):
        texts.append(f"**Why not:** {part.explains_miss}")
    parts += ["\n".join(f"- {text}" for text in texts)] if texts else []
    parts.append(_commands((f"{o.cell.row}, {o.cell.column}", o.runs) for o in found if o.cell))
    return parts


def _cell(outcome: Outcome | None, part: Table) -> str:
    if outcome is None or outcome.cell is None:
        return ""
    published = number(outcome.cell.published, part.unit, with_unit=False)
    if outcome.error:
        return f"{published} → failed"
    if outcome.value is None:
        return published
    ours = number(outcome.value, part.unit, with_unit=False)
    text = f"{published} → {ours} ({(outcome.value / outcome.cell.published - 1) * 100:+.0f} %)"
    if outcome.fitted:
        return f"{text}, *fitted*"
    return f"{text}, **out**" if outcome.counted and not outcome.inside else text


def rows_of(found: Sequence[Outcome]) -> pd.DataFrame:
    """One row for each claim and cell, for the CSV; figures in the published unit."""
    import pandas as pd

    rows = []
    for o in found:
        low, high = o.published or (None, None)
        band_low, band_high = o.band or (None, None)
        rows.append(
            {
                "claims": o.paper.name,
                "system": o.paper.system,
                "id": o.part.id,
                "row": o.cell.row if o.cell else None,
                "column": o.cell.column if o.cell else None,
                "says": o.part.says,
                "source": o.part.source,
                "confidence": o.part.confidence,
                "weight": o.weight,
                "unit": o.part.unit,
                "published_low": low,
                "published_high": high,
                "ours": o.value,
                "ours_over_published": o.ratio,
                "band_low": band_low,
                "band_high": band_high,
                "inside": o.inside,
                "counted": o.counted,
                "fitted": o.fitted,
                "error": o.error,
                "commands": "; ".join(dict.fromkeys(command(run.overrides) for _, run in o.runs)),
                "remarks": "; ".join(o.remarks),
            }
        )
    return pd.DataFrame(rows)


def intro_of(folder: Path) -> str:
    """The text at the top of a set's page."""
    path = folder / INTRO
    return path.read_text(encoding="utf-8") if path.is_file() else ""
