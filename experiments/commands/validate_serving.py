"""`moesim validate serving-rows`: measured serving beside predictions, or fitting the constants of engines to it."""

from __future__ import annotations

import argparse
import os
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


def _source(name: str | None) -> Path:
    if name:
        return Path(name)
    folder = os.environ.get(VARIABLE)
    if not folder:
        raise ConfigError(
            f"name a table with --measured, or set {VARIABLE} to the folder that holds measured/serving.csv."
        )
    return Path(folder) / "measured" / "serving.csv"
