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
    from rich.table import Table

SHOWN = 5  # points of a long table, and failures, that are printed
ALL = 10  # a table of up to so many points is printed whole
INTERRUPTED = 130
SOME_FAILED = 1  # exit code: the tables are written, but some points are in failures.csv
CHANGED = {  # header -> share of the gate weight for which the answer may differ from the model's, 0 to 1
    "dropped": "dropped_weight_share",
    "substituted": "substituted_weight_share",
    "low_precision": "low_precision_weight_share",
}


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
        whole = len(table) <= ALL
        title = "fastest first" if whole else f"the {SHOWN} fastest of {len(table):,}"
        fastest = table.sort_values(metric, kind="stable").head(ALL if whole else SHOWN)
        print_points(console, title, fastest, table, [metric, "hit_rate"])
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
    """A table of chosen points: what varies among all of them, some metrics, and what changes the answers.

    No cell is cut short: where the console is too narrow, columns are left out, and a line below says how many.
    """
    changed = {
        header: name for header, name in CHANGED.items() if name in chosen and (chosen[name].fillna(0) != 0).any()
    }
    changed = {header: name for header, name in changed.items() if name not in metrics}
    measured = {**{name: name for name in metrics}, **changed}
    varied = varied_columns(of) if len(of) else []
    columns = [column for column in varied if not _comes_with_system(of, column, varied)]
    while True:
        shown = _table(title, chosen, columns, measured)
        width = console.measure(shown, options=console.options.update(max_width=10_000)).maximum
        if width <= console.width or len(columns) <= 1:
            break
        columns.remove(_least_useful(of, columns))
    console.width = max(console.width, width)
    console.print(shown)
    if changed:
        console.print(f"{', '.join(changed)}: share of the gate weight, 0 to 1, whose experts were so.")
    if hidden := len(varied) - len(columns):
        said = "1 more column differs" if hidden == 1 else f"{hidden} more columns differ"
        console.print(f"{said} between points; all are in points.parquet.")


def _table(title: str, chosen: pd.DataFrame, columns: Sequence[str], measured: Mapping[str, str]) -> Table:
    """measured: header -> metric."""
    from rich.table import Table

    shown = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for header in ("point", *columns, *measured):
        shown.add_column(header, justify="right" if header in measured else "left", no_wrap=True)
    for row in chosen.to_dict("records"):
        numbers = [_number(row, metric) for metric in measured.values()]
        row["system"] = _own_name(row.get("system"))
        shown.add_row(str(row["point"]), *(_text(row[column]) for column in columns), *numbers)
    return shown


def _number(row: Mapping[str, Any], metric: str) -> str:
    """A metric, with its interval if the constants were drawn."""
    if row[metric] is None or row[metric] != row[metric]:
        return "-"
    low, high = (row.get(f"{metric}_p{share}") for share in (5, 95))
    drawn = low is not None and low == low
    return f"{row[metric]:.4g}{f' ({low:.4g} to {high:.4g})' if drawn else ''}"


def varied_columns(table: pd.DataFrame) -> list[str]:
    """The configuration columns in which the points differ, as they stand in the table but the system first."""
    end = list(table.columns).index("requests")
    columns = [str(column) for column in table.columns[2:end]]
    varied = [column for column in columns if _levels(table, column).nunique() > 1 and column != "trace_digest"]
    return sorted(varied, key=lambda column: column != "system")


def _own_name(system: object) -> str:
    """The system without the policies that replace its own, which have columns."""
    return str(system).partition(" with ")[0]


def _levels(table: pd.DataFrame, column: str) -> pd.Series:
    return table[column].map(_own_name) if column == "system" else table[column].astype(str)


def _told_by(table: pd.DataFrame, others: Sequence[str], column: str) -> bool:
    """Whether points that agree in the other columns agree in this one."""
    if not others:
        return False
    groups = _levels(table, column).groupby([_levels(table, other) for other in others])
    return bool((groups.nunique() == 1).all())


def _comes_with_system(table: pd.DataFrame, column: str, varied: Sequence[str]) -> bool:
    belongs = "system" in varied and column.startswith(("policy.", "settings."))
    return belongs and _told_by(table, ["system"], column)


def _least_useful(table: pd.DataFrame, columns: Sequence[str]) -> str:
    """The column to leave out first: one that the others tell, else a parameter, else a policy; the last of such."""

    def use(column: str) -> tuple[bool, int]:
        parts = column.split(".")
        rank = 0 if len(parts) == 1 else 1 if parts[0] == "policy" and len(parts) == 2 else 2
        return not _told_by(table, [other for other in columns if other != column], column), -rank

    return min((column for column in reversed(columns) if column != "system"), key=use)


def _text(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
