"""A figure by its definition: run what it needs, or take what was run, and write picture and data."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from experiments.compose import read_yaml
from experiments.explain import ConfigError
from experiments.figures.data import Data
from experiments.figures.definition import WIDTHS_IN, Definition, figure_file, read_definition
from experiments.figures.drawing import Drawing
from experiments.figures.kinds import KINDS
from experiments.figures.where import where
from experiments.run import MARK, plain, run_config, write_result, write_table
from experiments.sweep.identity import point_id
from experiments.sweep.points import Point, points
from experiments.sweep.runner import Progress
from experiments.sweep.sweep import run_points

WORK = Path("runs") / "figures"


@dataclass(frozen=True)
class Drawn:
    """What was written. runs: how many the figure shows; reused: how many of those it found done."""

    files: list[Path]
    runs: int
    reused: int


def draw_figure(
    name: str,
    out: Path = WORK,
    overrides: Sequence[str] = (),
    sources: Sequence[Path] = (),
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    conditions: Sequence[str] = (),
) -> Drawn:
    """Write NAME.png, NAME.pdf and the drawn rows as NAME.csv to `out`.

    name: of a shipped figure, or the path of a definition of one's own. overrides: added to every run. sources: run
    or sweep folders to draw from; nothing is run then. conditions: which of their points count, as
    `experiments.figures.where`. workers, report: as `experiments.sweep.sweep`. Runs are kept below runs/figures/NAME
    and not repeated. Raises ConfigError for a figure that cannot be drawn, and what runs raise.
    """
    path = figure_file(name)
    definition = read_definition(path)
    data, reused = prepare(path.stem, definition, overrides, sources, workers, report, conditions)
    drawing = table_of(definition, data)
    files = drawing.draw(out / path.stem, width_in=WIDTHS_IN[definition.width])
    files.append(out / f"{path.stem}.csv")
    write_table(drawing.table, files[-1])
    runs = len(data.results) if data.points is None else len(data.points)
    return Drawn(files, runs, reused)


def table_of(definition: Definition, data: Data) -> Drawing:
    """The rows of a figure, and how they are drawn."""
    return KINDS[definition.kind].prepare(data, **definition.draw)


def prepare(
    name: str,
    definition: Definition,
    overrides: Sequence[str] = (),
    sources: Sequence[Path] = (),
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    conditions: Sequence[str] = (),
) -> tuple[Data, int]:
    """What the kind draws from, and how many runs were there before."""
    needs = KINDS[definition.kind].needs
    if sources:
        if overrides:
            raise ConfigError(f"{overrides[0]}: with --from nothing is run, so that nothing can be overridden.")
        return _from_folders(name, definition, sources, conditions), 0
    if conditions:
        raise ConfigError(
            f"--where {conditions[0]}: it chooses among runs that are there; give their folder by --from."
        )
    extra = [*overrides, *(["timeline=true"] if needs.startswith("recording") else [])]
    listed = _listed(definition, extra)
    configs = [point.config for point in listed]
    data = Data(name, definition.names, configs=configs)
    if needs == "recording":
        data.results = [run_config(data.only(configs))]
        return data, 0
    if needs == "recordings":
        data.results = [run_config(config) for config in configs]
        return data, 0
    if needs == "configuration":
        return data, 0
    if needs == "runs":
        folders, reused = _run_folders(listed, WORK / name / "runs", report)
    else:
        parts = [" ".join(part) for part in definition.overrides(extra)]
        done = run_points(parts, listed, WORK / name / "sweep", workers, report)
        if done.failures:
            number, why = next(iter(done.failures.items()))
            lost = f"{len(done.failures)} of its {done.total} runs failed, the first ({number})"
            raise ConfigError(f"figure {name}: {lost} with: {why}")
        folders, reused = [done.folder], done.reused
    _load(data, folders)
    return data, reused


def _listed(definition: Definition, extra: Sequence[str]) -> list[Point]:
    """The points of all sweeps, numbered as one."""
    found = [point for part in definition.overrides(list(extra)) for point in points(part)]
    return [Point(number, p.overrides, p.config, p.choices) for number, p in enumerate(found)]


def _run_folders(listed: Sequence[Point], folder: Path, report: Callable[[Progress], None]) -> tuple[list[Path], int]:
    """A run folder for each point, named by its identity; those of other points are removed."""
    folders = [folder / f"{point.number}-{point_id(point.config)[:16]}" for point in listed]
    for old in sorted(folder.glob("*/")):
        if old not in folders and (old / MARK).is_file():
            shutil.rmtree(old)
    todo = [(point, place) for point, place in zip(listed, folders, strict=True) if not (place / MARK).is_file()]
    progress = Progress(len(listed), reused=len(listed) - len(todo))
    report(progress)
    for point, place in todo:
        write_result(run_config(point.config), OmegaConf.create(point.config), place)
        progress.finished += 1
        report(progress)
    return folders, progress.reused


def _from_folders(name: str, definition: Definition, sources: Sequence[Path], conditions: Sequence[str]) -> Data:
    needs = KINDS[definition.kind].needs
    data = Data(name, definition.names)
    if needs.startswith("recording"):
        raise ConfigError(f"figure {name}: kind {definition.kind} needs runs in memory; draw it without --from.")
    _load(data, sources)
    assert data.points is not None
    assert data.requests is not None
    if conditions:
        data.points = where(data.points, conditions)
        data.requests = data.requests[data.requests["point"].isin(data.points["point"])].reset_index(drop=True)
    if needs == "configuration":
        folders = [Path(folder) for folder in dict.fromkeys(data.points["folder"])]
        for folder in folders:
            if not (folder / "config.yaml").is_file():
                raise ConfigError(f"{folder}: a sweep keeps no configuration; expected the folder of a run.")
        data.configs = [plain(read_yaml(folder / "config.yaml")) for folder in folders]
    return data


def _load(data: Data, folders: Sequence[Any]) -> None:
    from experiments import results

    data.points, data.requests = results.load(*folders), results.requests(*folders)
