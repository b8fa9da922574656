"""From runs to the figures of claims: the metric, the mean over cases, the verdict."""

from __future__ import annotations

import difflib
import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from experiments.explain import ConfigError
from experiments.validation.published.claims import UNITS, Cell, Claim, Metric, Overrides, Paper, Range, Table
from experiments.validation.published.engines import Engine, fitted_cells
from experiments.validation.published.runs import Run


@dataclass(frozen=True)
class Outcome:
    """What the runs of a claim, or of a table's cell, came to.

    value: ours in the published unit, None where a run failed; weight: asserted, scored or shown; inside: in the
    band, None without one; fitted: the engine whose constant was fitted on it, so that it is not counted; runs: name
    -> run, of all cases in turn; speeds: tokens/s of the runs by name.
    """

    paper: Paper
    part: Claim | Table
    cell: Cell | None
    value: float | None
    published: Range | None
    band: Range | None
    weight: str
    inside: bool | None
    fitted: str | None = None
    partly_fitted: bool = False
    error: str | None = None
    runs: tuple[tuple[str, Run], ...] = ()
    values: tuple[float, ...] = ()
    remarks: tuple[str, ...] = field(default_factory=tuple)

    @property
    def counted(self) -> bool:
        """Whether it counts as in or out of its band."""
        return self.weight != "shown" and self.band is not None and self.fitted is None

    @property
    def ratio(self) -> float | None:
        """Ours over the published figure; of a range, over its nearest number."""
        if self.value is None or self.published is None:
            return None
        nearest = nearest_in(self.value, self.published)
        return self.value / nearest if nearest else None


def nearest_in(value: float, within: Range) -> float:
    """The number of a range that is nearest to `value`."""
    low, high = within
    return max(value if low is None else low, value if high is None else min(value, high))


def is_inside(value: float, band: Range) -> bool:
    """Whether a value lies in a band, ends included; nine digits count."""
    slack = 1e-9 * max(abs(value), *(abs(end) for end in band if end is not None))
    return abs(value - nearest_in(value, band)) <= slack


def outcomes(papers: Sequence[Paper], runs: Mapping[Overrides, Run], engines: Mapping[str, Engine]) -> list[Outcome]:
    """One for each claim and each cell of a table, in the order of the files."""
    known = {name: engine for name, engine in engines.items() if engine.framework_layer_s is not None}
    fitted = {runs[c.overrides].identity: name for _, _, c, name in fitted_cells(papers, known) if c.overrides}
    found = []
    for paper in papers:
        found += [of_claim(paper, claim, runs, fitted) for claim in paper.claims]
        for table in paper.tables:
            found += [of_cell(paper, table, cell, runs, fitted) for cell in table.cells]
    return found


def of_claim(paper: Paper, claim: Claim, runs: Mapping[Overrides, Run], fitted: Mapping[str, str]) -> Outcome:
    """The outcome of a claim. fitted: identity of a run -> engine fitted on it."""
    named = [(name, runs[overrides]) for case in claim.cases for name, overrides in case.items()]
    engines = [fitted.get(run.identity) for _, run in named]
    values, error = _values(claim, [{name: runs[o] for name, o in case.items()} for case in claim.cases], paper)
    value = None if error else mean(claim.mean, values)
    inside = None if value is None or claim.band is None else is_inside(value, claim.band)
    if error and claim.band is not None:
        inside = False
    return Outcome(
        paper,
        claim,
        None,
        value,
        claim.published,
        claim.band,
        claim.weight,
        inside,
        fitted=next((e for e in engines if e), None) if engines and all(engines) else None,
        partly_fitted=any(engines) and not all(engines),
        error=error,
        runs=tuple(named),
        values=tuple(values),
        remarks=_remarks(named),
    )


def of_cell(
    paper: Paper, table: Table, cell: Cell, runs: Mapping[Overrides, Run], fitted: Mapping[str, str]
) -> Outcome:
    """The outcome of a table's cell."""
    band = None
    if table.within is not None:
        band = (cell.published * (1 - table.within), cell.published * (1 + table.within))
    published = (cell.published, cell.published)
    if cell.overrides is None:
        return Outcome(paper, table, cell, None, published, band, "shown", None)
    run = runs[cell.overrides]
    named = (("cell", run),)
    error = run.error
    value = None if error else measured(table.metric, {"cell": run}, _where(paper, table)) * UNITS[table.unit]
    inside = None if band is None else value is not None and is_inside(value, band)
    engine = fitted.get(run.identity)
    return Outcome(
        paper,
        table,
        cell,
        value,
        published,
        band,
        table.weight,
        inside,
        fitted=engine,
        error=error,
        runs=named,
        remarks=_remarks(named),
    )


def _where(paper: Paper, part: Claim | Table) -> str:
    return f"{paper.path}: {'claim' if isinstance(part, Claim) else 'table'} '{part.id}'"


def _remarks(named: Sequence[tuple[str, Run]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(remark for _, run in named for remark in run.remarks))


def _values(claim: Claim, cases: Sequence[Mapping[str, Run]], paper: Paper) -> tuple[list[float], str | None]:
    """The metric of every case in the published unit, or why there is none."""
    for case in cases:
        for name, run in case.items():
            if run.error:
                return [], f"run '{name}' failed: {run.error}"
    where = _where(paper, claim)
    return [measured(claim.metric, case, where) * UNITS[claim.unit] for case in cases], None


def mean(kind: str, values: Sequence[float]) -> float:
    """Of the cases: arithmetic, geometric, min or max."""
    if kind in ("min", "max"):
        return min(values) if kind == "min" else max(values)
    if kind == "geometric":
        return math.exp(sum(math.log(value) for value in values) / len(values)) if min(values) > 0 else 0.0
    return sum(values) / len(values)


def measured(metric: Metric, runs: Mapping[str, Run], where: str) -> float:
    """The metric of some finished runs, in SI units. Raises ConfigError naming claim and key."""
    if metric.kind == "python":
        return _python(metric, runs, where)
    if metric.kind == "share":
        assert metric.of is not None
        return sum(float(runs[metric.of].summary.get(f"{cause}_share") or 0.0) for cause in metric.key)
    assert metric.of is not None
    of = lookup(runs[metric.of], metric.key[0], where)
    if metric.over is None:
        return of
    over = lookup(runs[metric.over], metric.key[0], where)
    if metric.kind == "difference":
        return of - over
    if metric.kind == "sign":
        return float((of > over) - (of < over))
    if over == 0:
        raise ConfigError(f"{where}: metric.{metric.kind} divides by {metric.key[0]} of '{metric.over}', which is 0.")
    return of / over - (metric.kind == "change")


def lookup(run: Run, key: str, where: str) -> float:
    """A number of a run's summary; keys of nested parts follow a dot (`quality.dropped`, `attribution.pcie`)."""
    if key.startswith("attribution."):
        return float(run.summary.get(f"{key.partition('.')[2]}_share", 0.0))
    node: Any = run.summary
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            near = difflib.get_close_matches(key, run.summary, n=1, cutoff=0.4)
            hint = f"; did you mean '{near[0]}'?" if near else "."
            raise ConfigError(f"{where}: metric '{key}' is no key of the summary{hint}")
        node = node[part]
    if not isinstance(node, int | float):
        raise ConfigError(f"{where}: metric '{key}' is {node!r} in the run {' '.join(run.overrides)}, not a number.")
    return float(node)


def _python(metric: Metric, runs: Mapping[str, Run], where: str) -> float:
    """A function's number: it gets the runs by name, if there are any, and the arguments."""
    module, _, name = metric.key[0].rpartition(".")
    try:
        function = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        raise ConfigError(f"{where}: metric.python names '{metric.key[0]}', which cannot be loaded.") from None
    try:
        return float(function(runs, **metric.arguments) if runs else function(**metric.arguments))
    except TypeError as error:
        raise ConfigError(f"{where}: metric.python {metric.key[0]}: {error}.") from None
