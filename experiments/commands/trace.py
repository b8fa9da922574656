"""`moesim trace`: import a trace of another format, make another trace of one, statistics of one."""

from __future__ import annotations

import argparse
import json
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
    from traces import data_path
    from traces.transforms import list_transforms, transform_trace, usage

    if "help" in options.steps:
        for module in list_transforms():
            print(f"{usage(module)}\n    {(module.__doc__ or '').partition(': ')[2].strip()}")
        return 0
    named = not Path(options.source).suffix and not Path(options.source).exists()
    source = data_path(f"{options.source}.parquet" if named else options.source)
    return _came_out(transform_trace(source, options.destination, options.steps), options.destination)


def synthesize(options: argparse.Namespace) -> int:
    """Fit or read a model of routing, and write what is drawn from it."""
    from traces import data_path, open_trace
    from traces.synthesis import fit_trace, read_profile, rescale
    from traces.synthesis import synthesize as write_trace

    if options.fit:
        named = not Path(options.fit).suffix and not Path(options.fit).exists()
        model = fit_trace(open_trace(data_path(f"{options.fit}.parquet" if named else options.fit)))
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


def _came_out(trace: Trace, destination: str) -> int:
    meta = trace.meta
    tokens = sum(request.tokens for request in trace.requests)
    print(
        f"{destination}: {meta.model}, {len(trace)} requests, {tokens} tokens, {len(meta.layers)} layers of"
        f" {meta.num_experts} experts, top-{meta.top_k}"
    )
    print(f"use it with: moesim run trace={destination}")
    return 0
