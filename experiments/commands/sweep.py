"""`moesim sweep`: every combination of the listed values, on all cores, resumable."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.estimate import describe
from experiments.explain import ConfigError
from experiments.multirun import split_launcher
from experiments.sweep import Report, sweep
from experiments.sweep.points import points
from experiments.sweep.runner import Progress

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

SHOWN = 5
INTERRUPTED = 130
SOME_FAILED = 1  # exit code: the tables are written, but some points are in failures.csv


def main(options: argparse.Namespace) -> int:
    """Sweep, write the tables, and say what came out."""
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers is {options.workers}; expected 0 (no other process) or more.")
    if options.batches < 1:
        raise ConfigError(f"--batches is {options.batches}; expected at least 1.")
    overrides, launcher = split_launcher(options.overrides)
    if options.dry_run:
        print(describe([point.config for point in points(overrides)], options.workers or os.cpu_count() or 1))
        return 0
    try:
        with live(options.quiet or options.json) as report:
            done = sweep(
                overrides,
                Path(options.out) if options.out else None,
                workers=options.workers,
                report=report,
                launcher=launcher,
                batches=options.batches,
            )
    except KeyboardInterrupt:
        print("interrupted; the finished points are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json.dumps(_as_json(done), indent=2, ensure_ascii=False))
    elif not options.quiet:
        _print(done)
    return SOME_FAILED if done.failures else 0


@contextmanager
def live(hidden: bool) -> Iterator[Callable[[Progress], None]]:
    """A bar with points, rate, failures and time left on a terminal, nothing elsewhere; gives the callback."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    if hidden or not console.is_terminal:
        yield lambda progress: None
        return
    words = TextColumn("{task.fields[rate]}{task.fields[failed]}")
    columns = (TextColumn("points"), BarColumn(), MofNCompleteColumn(), words, TimeRemainingColumn())
    with Bar(*columns, console=console, transient=True, speed_estimate_period=10) as bar:
        task = bar.add_task("points", total=None, rate="", failed="")

        def report(progress: Progress) -> None:
            speed = bar.tasks[0].speed
            bar.update(
                task,
                total=progress.total - progress.reused,
                completed=progress.finished + len(progress.failures),
                rate=f"{speed:.0f}/s" if speed else "",
                failed=f", {len(progress.failures)} failed" if progress.failures else "",
            )

        yield report


def _as_json(done: Report) -> dict[str, object]:
    return {
        "out": done.folder.as_posix(),
        "points": done.total,
        "finished": len(done.points),
        "reused": done.reused,
        "failures": [{"point": number, "error": error} for number, error in done.failures.items()],
    }


def _print(done: Report) -> None:
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    before = f", {done.reused} of them from before" if done.reused else ""
    said = f"{done.total:,} point{'s' * (done.total != 1)}: {len(done.points):,} finished{before}"
    console.print(f"{said}, {len(done.failures):,} failed")
    table = done.points
    if len(table):
        metric = "tpot_mean_s" if table["tpot_mean_s"].notna().any() else "duration_s"
        title = f"the {SHOWN} fastest of {len(table):,}" if len(table) > SHOWN else "fastest first"
        print_points(console, title, table.nsmallest(SHOWN, metric), table, [metric, "hit_rate"])
        if f"{metric}_p5" in table and table[f"{metric}_p5"].notna().any():
            console.print("In brackets: between the 5th and the 95th percentile of the drawn constants.")
    for number, error in list(done.failures.items())[:SHOWN]:
        console.print(f"point {number} failed: {error}")
    if len(done.failures) > SHOWN:
        console.print(f"... and {len(done.failures) - SHOWN} more, in failures.csv")
    written = ["points.parquet", "requests.parquet"] if len(table) else []
    written += ["failures.csv"] if done.failures else []
    console.print(f"written to {done.folder.as_posix()}: {', '.join(written)}")
    if len(table):
        console.print(
            f'next, in Python: from experiments import results; df = results.load("{done.folder.as_posix()}")'
        )


def print_points(console: Console, title: str, chosen: pd.DataFrame, of: pd.DataFrame, metrics: Sequence[str]) -> None:
    """A table of chosen points: what varies among all of them, and some metrics."""
    from rich.table import Table

    varied = varied_columns(of) if len(of) else []
    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in ("point", *varied, *metrics):
        shown.add_column(column, justify="right" if column in metrics else "left", no_wrap=True)
    for row in chosen.to_dict("records"):
        numbers = [_number(row, metric) for metric in metrics]
        shown.add_row(str(row["point"]), *(_text(row[column]) for column in varied), *numbers)
    console.print(shown)


def _number(row: Mapping[str, Any], metric: str) -> str:
    """A metric, with its interval if the constants were drawn."""
    if row[metric] is None:
        return "-"
    low, high = (row.get(f"{metric}_p{share}") for share in (5, 95))
    drawn = low is not None and low == low
    return f"{row[metric]:.4g}{f' ({low:.4g} to {high:.4g})' if drawn else ''}"


def varied_columns(table: pd.DataFrame) -> list[str]:
    """The configuration columns in which the points differ, as they stand in the table."""
    end = list(table.columns).index("requests")
    columns = [str(column) for column in table.columns[2:end]]
    varied = [column for column in columns if table[column].astype(str).nunique() > 1]
    return [column for column in varied if column not in ("system", "trace_digest")]


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
