"""`moesim calibrate local`: measure this machine, write its platform file, and run an offloading loop to check it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from math import isnan
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.explain import ConfigError
from experiments.local.folder import scratch
from experiments.local.machine import QUICK, Extent, Machine, as_yaml, usable_threads
from experiments.local.proof import IO_THREADS, Plan, Proof, compare
from experiments.table import percent, seconds, size
from hwmodels.microbench import Bench, Row
from hwmodels.microbench_copies import copy_cases, cuda_torch
from hwmodels.microbench_files import Reader, write_random
from hwmodels.microbench_fit import fit_copies
from hwmodels.microbench_kernels import backend, on_threads

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import Console

    from experiments.local.loop import LoopRun

WIDTH = 120
BUSY = 0.1  # share of the loop's time from which its delays are remarked
QUICK_PLAN = Plan(layers=2, tokens=6, capacities=(16, 48), hidden=128, width=64)


def main(options: argparse.Namespace) -> int:
    """Measure and write; with --prove run the loop between the repetitions and compare."""
    out, folder = _checked(options)
    library = backend(options.backend)
    threads = options.threads or usable_threads()
    extent, plan = (QUICK, QUICK_PLAN) if options.quick else (Extent(), Plan())
    proving = out_folder(options.prove) if options.prove else None
    with scratch(folder, Proof.size_bytes(plan) if proving else extent.file_bytes) as temporary:
        if proving:
            proof = Proof(temporary, plan)
            file = proof.file
        else:
            file = temporary / "random.bin"
            write_random(file, extent.file_bytes)
        machine = Machine(library, threads, file, extent)
        runs: dict[int, list[LoopRun]] = {capacity: [] for capacity in proof.capacities} if proving else {}
        with on_threads(library, threads), Reader(file, IO_THREADS) as reader:
            loop = proof.loop(reader, machine) if proving else None
            for number in range(options.repetitions):
                machine.measure()
                if loop is not None:
                    for capacity, done in runs.items():
                        done.append(loop(capacity))
                print(f"repetition {number + 1} of {options.repetitions}", file=sys.stderr)
        mapping = machine.mapping()
        copies = _copies(options.repetitions)
        if proving:
            summary, tokens = compare(proof, machine, runs)
    out.write_text(as_yaml(mapping), encoding="utf-8")
    _print_rows([*machine.rows(), *copies], machine)
    if proving:
        summary.to_csv(proving / "summary.csv", index=False, lineterminator="\n")
        tokens.to_csv(proving / "tokens.csv", index=False, lineterminator="\n")
        _print_proof(summary, plan)
        print(f"wrote {proving / 'summary.csv'} and {proving / 'tokens.csv'}")
    if remark := mapping.get("remark"):
        print(f"note: {remark}")
    print(f"wrote {out}; use it with platform={out}")
    return 0


def _checked(options: argparse.Namespace) -> tuple[Path, Path]:
    out = Path(options.out)
    if out.suffix not in (".yaml", ".yml"):
        raise ConfigError(f"--out {out}: expected a file ending in .yaml.")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}.")
    for name, least in (("repetitions", 1), ("threads", 0)):
        value = getattr(options, name)
        if value < least:
            raise ConfigError(f"--{name} is {value}; expected at least {least}.")
    return out, Path(options.folder)


def out_folder(name: str) -> Path:
    """The folder for the tables, made if it is not there. Raises ConfigError if a file is."""
    folder = Path(name)
    if folder.exists() and not folder.is_dir():
        raise ConfigError(f"--prove {folder}: there is a file of that name; expected a folder.")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _copies(repetitions: int) -> list[Row]:
    """Copies to and from a GPU, if torch sees one."""
    torch = cuda_torch()
    if torch is None:
        return []
    bench = Bench(copy_cases(torch))
    for _ in range(repetitions):
        bench.round()
    return bench.rows()


def _console() -> Console:
    """Wide enough for the tables, also where there is no terminal."""
    from rich.console import Console

    return Console(highlight=False, soft_wrap=True, width=max(WIDTH, Console().width))


def _print_rows(rows: Sequence[Row], machine: Machine) -> None:
    from rich.table import Table

    title = f"measured with {machine.library.name} on {machine.threads} thread(s); files read with {machine.method}"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("benchmark", style="bold", no_wrap=True)
    for name in ("bytes", "tokens", "at once", "in cache", "median", "GB/s", "GFLOP/s", "spread"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        flops = f"{row.flop_per_s / 1e9:.1f}" if row.flops else ""
        told = ("yes" if row.cached else "", seconds(row.median_s), f"{row.bytes_per_s / 1e9:.2f}", flops)
        table.add_row(
            row.benchmark, size(row.size_bytes), str(row.tokens), str(row.at_once), *told, percent(row.spread)
        )
    console = _console()
    console.print(table)
    for name in ("copy_to_device", "copy_from_device"):
        for pageable in (False, True):
            mine = [row for row in rows if (row.benchmark, row.cached) == (name, pageable)]
            if mine:
                latency, rate = fit_copies(mine)
                kind = "pageable" if pageable else "pinned"
                console.print(f"{name}, {kind}: latency_s {seconds(latency)}, {rate / 1e9:.2f} GB/s")


def _print_proof(summary: pd.DataFrame, plan: Plan) -> None:
    from rich.table import Table

    title = f"{plan.tokens} tokens through {plan.layers} layers, really run and simulated"
    table = Table(title=title, title_justify="left", title_style="bold")
    table.add_column("experts held", style="bold", no_wrap=True)
    columns = (
        "hit rate",
        "hits",
        "bytes",
        "read/token",
        "measured",
        "noise",
        "delayed",
        "predicted",
        "error",
        "undelayed",
    )
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    for row in summary.itertuples():
        same = ("same" if right else "DIFFER" for right in (row.same_hits, row.same_bytes))
        table.add_row(
            str(row.cache_experts),
            percent(row.hit_rate),
            *same,
            size(row.bytes_per_token),
            seconds(row.measured_s),
            percent(row.noise),
            "unknown" if isnan(row.delayed_s) else seconds(row.delayed_s),
            seconds(row.predicted_s),
            f"{100 * row.error:+.1f} %",
            "unknown" if isnan(row.delayed_s) else f"{100 * row.error_undelayed:+.1f} %",
        )
    console = _console()
    console.print(table)
    console.print(
        "Times and bytes per token. noise: distance of the quartiles of the repetitions / median; delayed: ready to run"
        " while other processes ran; error: of the prediction; undelayed: its error beside the measured time without"
        " delays."
    )
    busy = (summary.delayed_s / summary.measured_s).max()
    if busy > BUSY:
        console.print(
            f"Other processes delayed the loop by {percent(busy)} of its time: repeat this on a quieter machine before"
            " believing either figure."
        )
