"""`moesim replay`: the cache alone, hits and misses without time."""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.catalogue import load
from experiments.compose import choices, is_path
from experiments.explain import ConfigError, did_you_mean
from experiments.policy import make_policy
from experiments.run import write_table
from experiments.table import percent, size

if TYPE_CHECKING:
    from simulator.plan import Plan
    from simulator.replay import ReplayResult
    from traces import Trace

MIB = 2**20
ROW_SUFFIXES = (".csv", ".parquet")


def main(options: argparse.Namespace) -> int:
    """Replay a trace through a cache policy and print the counts."""
    from simulator.plan import Plan, Workload
    from simulator.replay import replay

    if not (math.isfinite(options.budget_mib) and options.budget_mib > 0):
        raise ConfigError(f"--budget-mib is {options.budget_mib:g}; expected a size above 0 in MiB.")
    if options.seed < 0:
        raise ConfigError(f"--seed is {options.seed}; expected at least 0.")
    rows_file = Path(options.rows) if options.rows else None
    if rows_file is not None and rows_file.suffix not in ROW_SUFFIXES:
        raise ConfigError(f"--rows {rows_file}: expected a file ending in {' or '.join(ROW_SUFFIXES)}.")
    if rows_file is not None and not rows_file.parent.is_dir():
        raise ConfigError(f"--rows {rows_file}: there is no folder {rows_file.parent}.")
    choice = _choice("policy/cache", options.policy, "--policy")
    if is_path(choice):
        sys.path.append(str(Path(choice).expanduser().parent.resolve()))  # where its class may live
    make_cache = make_policy(load("policy/cache", choice), "cache", f"--policy {choice}")
    trace = named_trace(options.trace)
    meta = trace.meta
    layer_bytes = _layer_bytes(trace, options)
    plan = Plan(trace, Workload(requests=options.requests))
    result = replay(
        plan,
        layer_bytes,
        meta.num_experts,
        meta.top_k,
        make_cache,
        round(options.budget_mib * MIB),
        scope=options.scope,
        seed=options.seed,
        rows=rows_file is not None,
    )
    if rows_file is not None:
        _write_rows(result, plan, meta.num_experts, rows_file)
    about = {"trace": options.trace, "policy": options.policy, "scope": options.scope, "seed": options.seed}
    summary = {**about, **result.summary()}
    if options.json:
        print(json.dumps(summary, indent=2, ensure_ascii=False))
        return 0
    print(f"{options.policy} on {options.trace}, {size(result.budget_bytes)}, scope {options.scope}")
    for name, counts in (("all", summary), ("prefill", summary["prefill"]), ("decode", summary["decode"])):
        if counts["accesses"]:
            print(
                f"{name:8} hit rate {percent(counts['hit_rate'])}: {counts['hits']} hits of {counts['accesses']}"
                f" accesses, {counts['misses']} misses, {size(counts['loaded_bytes'])} loaded"
            )
    return 0


def _choice(group: str, name: str, switch: str) -> str:
    names = choices()[group]
    if is_path(name):
        if not Path(name).expanduser().is_file():
            raise ConfigError(f"{switch} {name}: there is no such file.")
    elif name not in names:
        raise ConfigError(f"{switch} {name}: there is no such choice{did_you_mean(name, names)}")
    return name


def named_trace(name: str) -> Trace:
    """Open a trace by its name as listed, the path of its YAML, or its own path; ConfigError for another name."""
    from experiments.run import trace_path
    from traces import open_trace

    names = choices()["trace"]
    if name in names or name.endswith((".yaml", ".yml")):
        return open_trace(trace_path(load("trace", _choice("trace", name, "TRACE"))))
    if is_path(name):
        return open_trace(Path(name).expanduser())
    raise ConfigError(f"{name}: there is no such trace{did_you_mean(name, names)}")


def _layer_bytes(trace: Trace, options: argparse.Namespace) -> list[int]:
    """Bytes of one expert in each layer: from the trace, or the model of --model or of the trace's name."""
    from simulator.model import ModelSpec
    from simulator.scenario import check_fit

    if options.model is None and trace.meta.expert_bytes is not None:
        return list(trace.meta.expert_bytes)
    name = options.model or options.trace
    if options.model is None and name not in choices()["model"]:
        raise ConfigError(f"{options.trace}: the trace has no expert sizes; name its model with --model.")
    model = ModelSpec.from_mapping(load("model", _choice("model", name, "--model")), f"model {name}")
    check_fit(model, trace)
    return [model.expert_bytes] * len(model.moe_layers)


def _write_rows(result: ReplayResult, plan: Plan, experts: int, path: Path) -> None:
    """One row per access: step, phase, layer (ordinal of the routed layer), expert, hit (0 or 1)."""
    import numpy as np
    import pandas as pd

    step, layer, blob, hit = np.concatenate(result.rows).T
    prefill = np.array([planned.prefill for planned in plan])
    phase = np.where(prefill[step], "prefill", "decode")
    table = pd.DataFrame({"step": step, "phase": phase, "layer": layer, "expert": blob % experts, "hit": hit})
    write_table(table, path)
