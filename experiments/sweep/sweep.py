"""A whole sweep: from overrides to a folder of tables."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.explain import ConfigError
from experiments.run import DRAWS, check_folder, write_json
from experiments.sweep.batches import FOLDER as BATCHES
from experiments.sweep.batches import on_launcher
from experiments.sweep.identity import code_digest, point_id, trace_digest
from experiments.sweep.journal import FOLDER, entries
from experiments.sweep.points import Point, points
from experiments.sweep.runner import Progress, SweepError, Task, run_tasks
from experiments.sweep.tables import draw_table, point_table, request_table, whole, write_file
from simulator.result import VERSION

if TYPE_CHECKING:
    import pandas as pd

MARK = "sweep.json"
POINTS, REQUESTS, FAILURES = "points.parquet", "requests.parquet", "failures.csv"
_LEFT = re.compile(r"\.(sweep|points|requests|draws|failures|best)\.\w{8}\.(json|parquet|csv)")
SWEEP_FILES = (MARK, POINTS, REQUESTS, DRAWS, FAILURES, FOLDER, BATCHES)


@dataclass(frozen=True)
class Report:
    """What a sweep came to. points: the table of finished points; failures: number of the point -> why."""

    folder: Path
    total: int
    reused: int
    points: pd.DataFrame
    failures: dict[int, str]


def sweep_folder(name: str) -> Path:
    """Where a sweep is written unless a folder is given."""
    if not name.strip() or ".." in Path(name).parts:
        raise ConfigError(f"name is '{name}'; expected text that can name a folder.")
    return Path("runs") / "sweep" / name


def sweep(
    overrides: Sequence[str],
    folder: Path | None = None,
    *,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    launcher: Sequence[str] = (),
    batches: int = 8,
) -> Report:
    """Run every combination of the listed values and write the tables of the finished points.

    folder: None for runs/sweep/<name>; points that its journal holds are not run again. workers: processes
    (None: one for each core, 0: this process alone). report: told how far it is. launcher: overrides that choose
    one of Hydra's launchers, such as `hydra/launcher=submitit_slurm`, for so many `batches` of points.
    Raises ConfigError for overrides or a folder that cannot be used, SweepError if it had to stop.
    """
    listed = points(overrides)
    folder = folder or sweep_folder(listed[0].config["name"])
    return run_points(overrides, listed, folder, workers, report, launcher, batches)


def run_points(
    overrides: Sequence[str],
    listed: Sequence[Point],
    folder: Path,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
    launcher: Sequence[str] = (),
    batches: int = 8,
) -> Report:
    """As `sweep`, for points that are composed already; `overrides` only tell a reader of the folder what they are."""
    open_folder(folder, overrides, listed)
    identified = [(point, point_id(point.config)) for point in listed]
    tasks = [Task(identity, point.config) for point, identity in identified]
    with tables_on_stop(folder, identified):
        if launcher:
            progress = on_launcher(tasks, folder, launcher, batches, report)
        else:
            progress = run_tasks(tasks, folder, workers, report)
    return write_tables(folder, identified, progress)


@contextmanager
def tables_on_stop(folder: Path, identified: Sequence[tuple[Point, str]]) -> Iterator[None]:
    """Should what is done here have to stop, write the tables of what is finished, if there is room for them."""
    try:
        yield
    except (KeyboardInterrupt, SweepError):
        with suppress(OSError):
            write_tables(folder, identified, Progress(len(identified)))
        raise


def open_folder(
    folder: Path, overrides: Sequence[str], listed: Sequence[Point], ours: Collection[str] = SWEEP_FILES
) -> None:
    """Make the folder, and say in it what is swept. Raises ConfigError if it holds other things than `ours`."""
    left = [path.name for path in folder.glob(".*") if _LEFT.fullmatch(path.name)]  # by processes that were killed
    check_folder(folder, (*ours, *left), left[0] if left else MARK)
    folder.mkdir(parents=True, exist_ok=True)
    traces = {point.config["trace"]["name"]: trace_digest(point.config) for point in listed}
    about = {
        "moesim_version": VERSION,
        "code_sha256": code_digest(),
        "overrides": list(overrides),
        "points": len(listed),
        "traces": dict(sorted(traces.items())),
    }
    if (folder / MARK).exists() and not _says(folder / MARK, about):
        for name in set(ours) & {POINTS, REQUESTS, DRAWS, FAILURES, "best.csv"}:  # of another sweep; its journal stays
            (folder / name).unlink(missing_ok=True)
    with whole(folder / MARK) as temporary:
        write_json(temporary, about)


def _says(mark: Path, about: dict[str, Any]) -> bool:
    try:
        return bool(json.loads(mark.read_text(encoding="utf-8")) == about)
    except ValueError:
        return False


def write_tables(folder: Path, identified: Sequence[tuple[Point, str]], progress: Progress) -> Report:
    """Write the tables of what the journal holds of these points. The same points give the same bytes."""
    import pandas as pd

    wanted = {identity for _, identity in identified}
    found: dict[str, dict[str, Any]] = {}
    for entry in entries(folder):
        if entry["id"] in wanted and "error" not in entry:
            found[entry["id"]] = entry
    table = point_table(identified, found)
    if len(table):
        write_file(table, folder / POINTS)
        write_file(request_table(identified, found), folder / REQUESTS)
    else:
        for name in (POINTS, REQUESTS, DRAWS):
            (folder / name).unlink(missing_ok=True)
    drawn = draw_table(identified, found)
    if len(drawn):
        write_file(drawn, folder / DRAWS)
    else:
        (folder / DRAWS).unlink(missing_ok=True)
    failed = [(point, identity) for point, identity in identified if identity in progress.failures]
    failures = {point.number: progress.failures[identity] for point, identity in failed}
    if failures:
        rows = [(p.number, identity, " ".join(p.overrides), failures[p.number]) for p, identity in failed]
        write_file(pd.DataFrame(rows, columns=["point", "point_id", "overrides", "error"]), folder / FAILURES)
    else:
        (folder / FAILURES).unlink(missing_ok=True)
    return Report(folder, len(identified), progress.reused, table, failures)
