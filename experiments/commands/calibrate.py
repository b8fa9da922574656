"""`moesim calibrate`: fit the kernel models to the shipped measurements, and report their errors."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.explain import ConfigError, did_you_mean
from experiments.fidelity.page import summarised, write_page
from hwmodels.calibrate import calibrate, read, write
from hwmodels.kernels import kernels
from hwmodels.predict import FITTED


def main(options: argparse.Namespace) -> int:
    """Fit, write one file for each kernel model; print the errors, and write their page with figures if asked for."""
    known = kernels()
    for name in options.kernels:
        if name not in known:
            raise ConfigError(f"{name}: there is no such kernel model{did_you_mean(name, known)}")
    if options.workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {options.workers}.")
    page = Path(options.report) if options.report else None
    if page and not page.parent.is_dir():
        raise ConfigError(f"{page.parent}: there is no such folder to write {page.name} to.")
    if options.no_fit and options.kernels:
        raise ConfigError(f"--no-fit reports on all fitted files and fits none; leave out {' '.join(options.kernels)}.")
    folder = Path(options.out) if options.out else FITTED
    if not options.no_fit:
        folder.mkdir(parents=True, exist_ok=True)
        for content in calibrate(options.kernels or list(known), options.workers, _say):
            write(content, folder)
    contents = read(folder)
    _print(contents)
    if page:
        for path in write_page(contents, page):
            _say(f"wrote {path}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr)


def _print(contents: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="mean absolute error")
    table.add_column("kernel model")
    for head in ("rows", "unseen shapes", "plain roofline", "unseen device"):
        table.add_column(head, justify="right")
    for row in summarised(contents):
        errors = (f"{100 * row[key]:.1f} %" if row[key] == row[key] else "-" for key in ("mean", "rival", "left_out"))
        table.add_row(row["kernel"], f"{row['rows']:,}", *errors)
    Console(width=100).print(table)
