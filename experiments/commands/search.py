"""`moesim search`: the best configurations of a space, by Optuna over the runner of sweeps."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.commands.sweep import INTERRUPTED, SOME_FAILED, live, print_points
from experiments.explain import ConfigError
from experiments.search import BEST, search


def main(options: argparse.Namespace) -> int:
    """Search, write the tables, and print the best."""
    aims = dict.fromkeys(options.minimize, "minimize") | dict.fromkeys(options.maximize, "maximize")
    if len(aims) < len(options.minimize) + len(options.maximize):
        raise ConfigError("a metric is named twice; name each aim once.")
    try:
        with live(options.quiet or options.json) as report:
            found = search(
                options.overrides,
                aims,
                options.trials,
                Path(options.out) if options.out else None,
                batch=options.batch,
                seed=options.seed,
                workers=options.workers,
                report=report,
            )
    except KeyboardInterrupt:
        print("interrupted; the finished trials are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    code = SOME_FAILED if found.failures else 0
    if options.json:
        best = json.loads(found.best.to_json(orient="records"))
        about = {"out": found.folder.as_posix(), "trials": len(found.trials), "failed": len(found.failures)}
        print(json.dumps({**about, "best": best}, indent=2, ensure_ascii=False))
        return code
    if options.quiet:
        return code
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    before = f", {found.reused} of them from before" if found.reused else ""
    console.print(f"{len(found.trials):,} trials{before}; {len(found.failures):,} failed")
    title = f"Pareto front, {len(found.best)} points" if len(aims) > 1 else "best"
    print_points(
        console, title, found.best.sort_values(list(aims)) if len(found.best) else found.best, found.trials, [*aims]
    )
    for number, error in list(found.failures.items())[:1]:
        console.print(f"trial {number} failed: {error}")
    written = f"{BEST}, points.parquet, requests.parquet" + (", failures.csv" if found.failures else "")
    console.print(f"written to {found.folder.as_posix()}: {written}")
    return code
