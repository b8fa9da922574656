"""A set of claims from its files to a page, a CSV and figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.run import run_config, write_table
from experiments.sweep.runner import Progress, measures
from experiments.validation.published.claims import ENGINES, UNITS, Overrides, Table
from experiments.validation.published.engines import Engine, fit, fitted_cells, read_engines, write_engines
from experiments.validation.published.figure import draw
from experiments.validation.published.measures import Outcome, measured, outcomes
from experiments.validation.published.page import intro_of, page, rows_of
from experiments.validation.published.reading import claim_sets, read_papers
from experiments.validation.published.runs import Run, compose_all, run_all


@dataclass(frozen=True)
class Report:
    """What was found. runs: distinct runs; reused: how many of them were there before; failed: how many failed."""

    outcomes: list[Outcome]
    engines: dict[str, Engine]
    runs: int
    reused: int
    failed: int


def validate(
    folder: Path,
    kept: Path,
    only: Sequence[str] = (),
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Run what the claims of a folder need and measure it. kept: folder of finished runs, which are not repeated."""
    papers = read_papers(folder, only)
    engines = read_engines(folder.parent / ENGINES)
    runs, progress = run_all(papers, kept, workers, report)
    found = outcomes(papers, runs, engines)
    distinct = {run.identity: run for run in runs.values()}
    failed = sum(run.error is not None for run in distinct.values())
    return Report(found, engines, len(distinct), min(progress.reused, len(distinct)), failed)


def write(name: str, folder: Path, done: Report, out: Path) -> list[Path]:
    """Write NAME.md, NAME.csv and NAME/*.png below `out`. The same runs give the same bytes."""
    out.mkdir(parents=True, exist_ok=True)
    figures = []
    for paper in dict.fromkeys(outcome.paper for outcome in done.outcomes):
        for part in paper.tables:
            cells = [outcome for outcome in done.outcomes if outcome.part is part]
            if path := draw(part, cells, out / name / f"{paper.name}_{part.id}.png"):
                figures.append(path)
    own = claim_sets().get(name)
    given = None if own is not None and own.resolve() == folder.resolve() else folder.as_posix()
    text = page(name, intro_of(folder), done.outcomes, done.engines, [path.stem for path in figures], given)
    (out / f"{name}.md").write_text(text, encoding="utf-8")
    write_table(rows_of(done.outcomes), out / f"{name}.csv")
    return [out / f"{name}.md", out / f"{name}.csv", *figures]


def fit_engines(
    folder: Path, only: Sequence[str] = (), say: Callable[[str], None] = lambda line: None
) -> dict[str, Engine]:
    """Fit the constants of engines whose column is in this folder, and write them to `engines.yaml` beside it.

    Raises ConfigError for a column that is not there, and what runs raise.
    """
    path = folder.parent / ENGINES
    engines = read_engines(path)
    papers = read_papers(folder, only)
    cells = [cell for _, _, cell, _ in fitted_cells(papers, engines)]
    configs = compose_all({cell.overrides: str(folder) for cell in cells if cell.overrides})

    def value(part: Table, overrides: Overrides, framework_layer_s: float) -> float:
        config = dict(configs[overrides])
        config["settings"] = {**config["settings"], "framework_layer_s": framework_layer_s}
        run = Run(overrides, "", measures(run_config(config))["metrics"])
        return measured(part.metric, {"cell": run}, f"table '{part.id}'") * UNITS[part.unit]

    found = fit(papers, engines, value, say)
    write_engines(path, found)
    return found
