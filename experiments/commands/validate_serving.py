"""`moesim validate serving-rows | runtime-rows`: measured serving beside predictions, or beside runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from experiments.explain import ConfigError
from experiments.run import check_folder, write_table

VARIABLE = "MOESIM_EXTRA_DATA"


def main(options: argparse.Namespace) -> int:
    """Write the page, its table and figures to a folder that is new or its own; with --fit also engines.yaml."""
    from experiments.serving.drawing import FIGURES, draw
    from experiments.serving.engines import FILE, engines
    from experiments.serving.left_out import left_out
    from experiments.serving.measured import beside, fit_all, read_measured
    from experiments.serving.report import PAGE, TABLE, overview, page, summary, write_engines

    source = _source(options.measured)
    out = Path(options.out)
    check_folder(out, (PAGE, TABLE, *FIGURES), mark=PAGE)
    frame = read_measured(source)
    if options.fit:
        constants = fit_all(frame)
        write_engines(constants, beside(frame, constants), left_out(frame, constants), source, FILE)
        engines.cache_clear()
    rows = beside(frame, engines())
    out.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(page(rows), encoding="utf-8")
    write_table(summary(rows), out / TABLE)
    draw(rows, out)
    print(overview(rows))
    print(f"written to {out}")
    return 0


def runs(options: argparse.Namespace) -> int:
    """Run measured rows, and write the page, its table and figure to a folder that is new or its own."""
    from experiments.commands.sweep import INTERRUPTED, live
    from experiments.serving.measured import read_measured
    from experiments.serving.runtime_report import FIGURE, PAGE, TABLE, draw, overview, page, summary
    from experiments.serving.runtime_rows import run_rows

    out, kept = Path(options.out), Path(options.runs)
    check_folder(out, (PAGE, TABLE, FIGURE), mark=PAGE)
    if options.rows < 1:
        raise ConfigError(f"--rows is {options.rows}; expected at least 1.")
    try:
        with live(False) as report:
            rows = run_rows(read_measured(_source(options.measured)), kept, options.rows, options.workers, report)
    except KeyboardInterrupt:
        print("interrupted; the finished runs are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    if not (rows["reason"] == "").any():
        raise ConfigError(f"no row of this table can be run; the first one: {rows['reason'].iloc[0]}")
    out.mkdir(parents=True, exist_ok=True)
    (out / PAGE).write_text(page(rows), encoding="utf-8")
    write_table(summary(rows), out / TABLE)
    draw(rows, out / FIGURE)
    print(overview(rows))
    print(f"written to {out}")
    return 0


def _source(name: str | None) -> Path:
    if name:
        return Path(name)
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise ConfigError(
            f"name a table with --measured, or set {VARIABLE} to the folder that holds measured/serving.csv."
        )
    return Path(folder) / "measured" / "serving.csv"
