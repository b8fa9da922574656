"""`moesim trace`: import a trace of another format, make another trace of one, statistics of one."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from traces import Trace


def main(options: argparse.Namespace) -> int:
    """Do what the action says, and say what came out."""
    if options.action == "transform":
        return transform(options)
    if options.action == "stats":
        return stats(options)
    if options.action == "capture":
        from experiments.commands.trace_capture import capture

        return capture(options)
    if options.action == "synthesize":
        return synthesize(options)
    if options.action == "workload":
        from experiments.commands.trace_workload import workload

        return workload(options)
    return bring(options)


def bring(options: argparse.Namespace) -> int:
    """Convert a foreign file."""
    from traces.importers import import_trace

    _check_destination("DEST", options.destination, options.source)
    trace = import_trace(
        options.source,
        options.destination,
        model=options.model,
        native_top_k=options.native_top_k,
        dataset=options.dataset,
        licence=options.licence,
        origin=options.origin,
        num_experts=options.num_experts,
        salvage=options.salvage,
    )
    return _came_out(trace, options.destination)


def transform(options: argparse.Namespace) -> int:
    """Write what the steps make of a trace; the step `help` lists the steps there are instead."""
    from traces.transforms import list_transforms, transform_trace, usage

    if "help" in options.steps:
        for module in list_transforms():
            print(f"{usage(module)}\n    {(module.__doc__ or '').partition(': ')[2].strip()}")
        return 0
    source = _source(options.source)
    _check_destination("DEST", options.destination, source)
    return _came_out(transform_trace(source, options.destination, options.steps), options.destination)


def synthesize(options: argparse.Namespace) -> int:
    """Fit or read a model of routing, and write what is drawn from it."""
    from experiments.explain import ConfigError
    from traces import open_trace
    from traces.synthesis import fit_trace, read_profile, rescale
    from traces.synthesis import synthesize as write_trace

    for switch in ("layers", "experts", "top_k"):  # those of the source if they are None
        if getattr(options, switch) is not None and getattr(options, switch) < 1:
            raise ConfigError(f"--{switch.replace('_', '-')} is {getattr(options, switch)}; expected at least 1.")
    source = _source(options.fit) if options.fit else None
    _check_destination("--out", options.out, source)
    if source:
        model = fit_trace(open_trace(source))
    else:
        model = read_profile(options.profile)
    model = rescale(model, layers=options.layers, experts=options.experts, top_k=options.top_k)
    drawn = write_trace(model, options.out, requests=options.requests, tokens=options.tokens, seed=options.seed)
    return _came_out(drawn, options.out)


def stats(options: argparse.Namespace) -> int:
    """Print the statistics of a trace, or write the page of all of them."""
    from experiments.commands.replay import named_trace
    from experiments.explain import ConfigError
    from traces.statistics import summarise

    if (options.trace is None) == (options.report is None):
        raise ConfigError("moesim trace stats: expected either TRACE or --report FILE.md.")
    for switch, file in (("--html", options.html), ("--report", options.report)):
        if file and not Path(file).parent.is_dir():
            raise ConfigError(f"{switch} {file}: there is no folder {Path(file).parent}.")
        if file and Path(file).is_dir():
            raise ConfigError(f"{switch} {file}: expected a file to write, but this is a folder.")
    if options.report:
        from experiments.trace_page import page

        Path(options.report).write_text(page(), encoding="utf-8")
        print(f"wrote {options.report}")
        return 0
    if options.requests is not None and options.requests < 1:
        raise ConfigError(f"--requests is {options.requests}; expected at least 1.")
    if options.seed < 0:
        raise ConfigError(f"--seed is {options.seed}; expected at least 0.")
    values = summarise(named_trace(options.trace), requests=options.requests, seed=options.seed)
    if options.html:
        from experiments.trace_report import html_page

        Path(options.html).write_text(html_page(values, options.trace), encoding="utf-8")
    if options.json:
        print(json.dumps(values, indent=2, ensure_ascii=False))
        return 0
    from experiments.trace_report import print_table

    print_table(values, options.trace)
    if options.html:
        print(f"wrote {options.html}")
    return 0


def _source(name: str) -> Path:
    """The file that a path names, or else that of a shipped trace. Raises TraceError if there is neither."""
    from traces import data_path

    path = Path(name).expanduser()
    return path if path.is_file() else data_path(name if path.suffix else f"{name}.parquet")


def _check_destination(switch: str, destination: str, source: str | Path | None) -> None:
    """Refuse a file that `moesim run trace=` would not take for a trace, and the source itself."""
    from experiments.explain import ConfigError

    if Path(destination).suffix != ".parquet" or Path(destination).is_dir():
        raise ConfigError(f"{switch} {destination}: expected the name of a file that ends in .parquet.")
    if source is not None and Path(destination).exists() and Path(destination).samefile(source):
        raise ConfigError(f"{switch} {destination}: this is the source, which would be lost; expected another file.")


def _came_out(trace: Trace, destination: str) -> int:
    from experiments.compose import choices

    meta = trace.meta
    tokens = sum(request.tokens for request in trace.requests)
    print(
        f"{destination}: {meta.model}, {len(trace)} requests, {tokens} tokens, {len(meta.layers)} layers of"
        f" {meta.num_experts} experts, top-{meta.top_k}"
    )
    name = re.sub(r"[^a-z0-9]+", "_", meta.model.lower())
    model = f" model={name}" if name in choices()["model"] and name != "gpt_oss_20b" else ""  # which is the default
    print(f"use it with: moesim run trace={destination}{model}")
    return 0
