"""`moesim explain`: the constants that a finished run depended on most, and where they are from."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.compose import read_yaml
from experiments.dependence import by_origin, dependence
from experiments.explain import ConfigError
from experiments.run import MARK, plain
from experiments.table import percent

if TYPE_CHECKING:
    import pandas as pd

LEAST = 0.005  # elasticities below are not printed


def main(options: argparse.Namespace) -> int:
    """Change each constant of the run's platform a little, repeat the run, and print what it does."""
    folder = Path(options.run)
    if not (folder / MARK).is_file() or not (folder / "config.yaml").is_file():
        raise ConfigError(f"{folder}: expected the folder of a run, with config.yaml and {MARK}.")
    if options.requests is not None and options.requests < 1:
        raise ConfigError(f"--requests is {options.requests}; expected at least 1.")
    cfg = {**plain(read_yaml(folder / "config.yaml")), "out": None}
    rows = dependence(cfg, options.metric, options.requests)
    if options.json:
        said = {"run": options.run, "metric": options.metric, "origins": by_origin(rows)}
        table = json.loads(rows.to_json(orient="records"))
        print(json.dumps({**said, "constants": table}, indent=2, ensure_ascii=False))
    else:
        _print(rows, f"{folder}: what {options.metric} depends on")
    return 0


def _print(rows: pd.DataFrame, title: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", title_style="bold")
    for name in ("constant", "value", "origin"):
        table.add_column(name, no_wrap=True)
    for name in ("elasticity", "moved by its uncertainty"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = rows[rows["elasticity"].abs() >= LEAST]
    for row in shown.to_dict("records"):
        value = "" if row["value"] != row["value"] else f"{row['value']:.4g}"
        effect = f"{100 * row['effect']:.1f} %" if row["effect"] else "-"
        table.add_row(row["constant"], value, row["origin"], f"{row['elasticity']:+.2f}", effect)
    console = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else 120)
    console.print(table)
    if hidden := len(rows) - len(shown):
        console.print(f"{hidden} more constants hardly matter (elasticity below {LEAST}).")
    for origin, what in sorted(by_origin(rows).items(), key=lambda item: -item[1]["share"]):
        console.print(f"{origin}: {percent(what['share'])} of the dependence; uncertain by {percent(what['effect'])}")
    console.print("\nSources", style="bold")
    for source, group in shown.groupby("source", sort=False):
        console.print(f"{', '.join(group['constant'])}: {source}")
