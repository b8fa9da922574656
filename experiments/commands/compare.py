"""`moesim compare`: one's own measured times per token beside those of a run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from experiments.commands.replay import ROW_SUFFIXES
from experiments.explain import ConfigError
from experiments.run import write_table
from experiments.table import percent, seconds


def main(options: argparse.Namespace) -> int:
    """Align the tokens of both sides and print how well they agree."""
    from experiments.results import agreement, align

    rows_file = Path(options.rows) if options.rows else None
    if rows_file is not None and rows_file.suffix not in ROW_SUFFIXES:
        raise ConfigError(f"--rows {rows_file}: expected a file ending in {' or '.join(ROW_SUFFIXES)}.")
    if rows_file is not None and not rows_file.parent.is_dir():
        raise ConfigError(f"--rows {rows_file}: there is no folder {rows_file.parent}.")
    rows = align(options.run, options.measured)
    said = agreement(rows)
    if rows_file is not None:
        write_table(rows, rows_file)
    if options.json:
        print(json.dumps({"run": options.run, "measured": options.measured, **said}, indent=2, ensure_ascii=False))
    else:
        _print(said, f"{options.run} and {options.measured}")
    return 0


def _print(said: dict[str, Any], title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=f"{title}; tokens aligned: {said['tokens']}", title_justify="left", title_style="bold")
    table.add_column("", style="bold")
    for name in ("simulated", "measured", "error"):
        table.add_column(name, justify="right", no_wrap=True)
    for row, key in (("mean", "mean"), ("median", "p50"), ("p99", "p99")):
        simulated, measured = said[f"simulated_{key}_s"], said[f"measured_{key}_s"]
        table.add_row(row, seconds(simulated), seconds(measured), _signed(simulated / measured - 1))
    console = Console(highlight=False, soft_wrap=True)
    console.print(table)
    absolute = [percent(said[key]) for key in ("mean_absolute_error", "absolute_error_p50", "absolute_error_p99")]
    console.print(f"error of single tokens: mean {_signed(said['mean_error'])} (above 0: simulated too slow)")
    console.print(f"without sign: mean {absolute[0]} (MAPE), median {absolute[1]}, p99 {absolute[2]}")
    correlation = "none, for a side is constant" if said["correlation"] is None else f"{said['correlation']:.3f}"
    console.print(f"correlation: {correlation}")
    for side, other in (("simulated", "measured"), ("measured", "simulated")):
        if count := said[f"only_{side}"]:
            console.print(f"left out, {side} but not {other}: {count}")


def _signed(share: float) -> str:
    return f"{100 * share:+.1f} %"
