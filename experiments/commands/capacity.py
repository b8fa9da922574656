"""`moesim capacity`: the best layout and batch under an SLO and a memory budget."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.capacity import GIB, RUNS, STEM, TABLE, Capacity, Limits, capacity
from experiments.commands.sweep import INTERRUPTED, SHOWN, SOME_FAILED, live
from experiments.explain import ConfigError

if TYPE_CHECKING:
    import pandas as pd


def main(options: argparse.Namespace) -> int:
    """Run all layouts and batches, write the table and the figure, and print the front and the best point."""
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers is {options.workers}; expected 0 (no other process) or more.")
    limits = Limits(options.slo_ttft_s, options.slo_tpot_s, options.memory_gib, options.percentile)
    out = Path(options.out) if options.out else None
    try:
        with live(options.quiet or options.json) as report:
            done = capacity(options.overrides, limits, out, workers=options.workers, report=report)
    except KeyboardInterrupt:
        print("interrupted; the finished points are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        parts = {"front": done.front, "best": done.best, "infeasible": done.table[done.table["infeasible"] != ""]}
        rows = {name: json.loads(part.to_json(orient="records")) for name, part in parts.items()}
        about = {"out": done.folder.as_posix(), "points": len(done.table), "reused": done.reused}
        print(json.dumps({**about, **rows}, indent=2, ensure_ascii=False))
    elif not options.quiet:
        _print(done, limits)
    return SOME_FAILED if done.failed else 0


def _print(done: Capacity, limits: Limits) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    refused = done.table[done.table["infeasible"] != ""]
    before = f", {done.reused} of them from before" if done.reused else ""
    console.print(f"{len(done.table):,} points{before}; {len(refused):,} infeasible")
    latencies = f"TTFT and TPOT at p{limits.percentile}"
    shown = Table(title=f"Pareto front, {latencies}", title_justify="left", box=None, pad_edge=False)
    for header in ("point", "layout", "GPUs", "batch", "tokens/s/GPU", "requests/s/GPU", "TTFT", "TPOT", "GiB", "SLO"):
        shown.add_column(header, justify="left" if header in ("point", "layout") else "right", no_wrap=True)
    for row in done.front.to_dict("records"):
        times = (_seconds(row[limits.ttft]), _seconds(row[limits.tpot]))
        speeds = (f"{row['tokens_per_s_per_gpu']:.4g}", f"{row['requests_per_s_per_gpu']:.4g}")
        rest = (f"{row['memory_peak_bytes'] / GIB:.2f}", "met" if row["slo_met"] else "missed")
        shown.add_row(str(row["point"]), row["layout"], str(row["gpus"]), str(row["max_batch"]), *speeds, *times, *rest)
    console.width = max(console.width, console.measure(shown, options=console.options.update(max_width=10_000)).maximum)
    console.print(shown)
    console.print(_verdict(done.best, limits))
    if done.table["max_batch"].max() > done.requests:
        console.print(f"There are {done.requests} requests, and no batch holds more; give more to see larger batches.")
    for row in refused.head(SHOWN).to_dict("records"):
        console.print(f"point {row['point']} ({row['layout']}, batch {row['max_batch']}): {row['infeasible']}")
    if len(refused) > SHOWN:
        console.print(f"... and {len(refused) - SHOWN} more, in {TABLE}")
    figures = f"{STEM}.png, {STEM}.pdf, " if len(done.front) else ""
    console.print(f"written to {done.folder.as_posix()}: {TABLE}, {figures}{RUNS}/")


def _verdict(best: pd.DataFrame, limits: Limits) -> str:
    slo = {"TTFT": limits.slo_ttft_s, "TPOT": limits.slo_tpot_s}
    said = [f"{name} up to {_seconds(value)}" for name, value in slo.items() if value is not None]
    if limits.memory_gib is not None:
        said.append(f"{limits.memory_gib:g} GiB a GPU")
    under = f" under {', '.join(said)}" if said else ""
    if not len(best):
        return f"No point holds{under.removeprefix(' under')}."
    row = best.iloc[0]
    what = f"{row['layout']}, batch {row['max_batch']}, {row['tokens_per_s_per_gpu']:.4g} tokens/s and GPU"
    return f"Best{under}: point {row['point']}, {what}."


def _seconds(value_s: float) -> str:
    from simulator.words import seconds

    return "-" if value_s != value_s else seconds(value_s)
