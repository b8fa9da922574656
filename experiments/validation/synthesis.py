"""Synthetic traces beside real requests that they were not fitted to.

A model is fitted to every second request of a trace; what is drawn from it is compared with the other requests.
Beside it stand the requests that it was fitted to, which show how far halves of the trace differ by themselves, and a
trace with the same popularity and no structure, which shows what structure buys.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from experiments.catalogue import load
from experiments.explain import ConfigError
from experiments.policy import make_policy
from traces import RequestTrace, Trace, TraceWriter, data_path, open_trace

if TYPE_CHECKING:
    import pandas as pd

FILES = ("synthesis.md", "synthesis_statistics.csv", "synthesis_policies.csv")
EXTRA_DATA = "MOESIM_EXTRA_DATA"
FOREIGN = {  # traces that are not shipped: files below the folder of EXTRA_DATA
    "gpt_oss_20b_mmlu": ("gpt-oss-20b_mmlu",),
    "deepseek_v2_lite_esft": tuple(f"deepseek-v2-lite_esft_{task}" for task in ("intent", "summary", "translation")),
    "tiny_olmoe": ("tiny_olmoe",),
}
SHIPPED = ("gpt_oss_20b",)
KINDS = ("fitted", "held_out", "synthetic", "popularity_only")
# What is compared, and how far it may be off: absolute, or relative to the held-out requests.
ALLOWED = {
    "consecutive_overlap": (0.02, False),
    "consecutive_overlap_within_request_shuffle": (0.02, False),
    "consecutive_overlap_global_shuffle": (0.02, False),
    "next_layer_recall": (0.03, False),
    "load_cv": (0.10, True),
    "lru_hit_rate": (0.02, False),
    "belady_hit_rate": (0.02, False),
}
POLICIES = ("lru", "lfu", "lfu_history", "fifo", "s3fifo", "random", "belady")
SHARES = (0.25, 0.5)  # of a layer's experts in the cache
REPLAYED_TOKENS = 3000


@dataclass(frozen=True, eq=False)
class Compared:
    """One trace: statistics by kind of requests, and hit rates by share of experts, kind and policy."""

    name: str
    requests: int
    statistics: dict[str, dict[str, Any]]
    hit_rates: dict[tuple[float, str], dict[str, float]]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per statistic; of hit curves, the cache size at which the synthetic trace is farthest off."""
        for name, (allowed, relative) in ALLOWED.items():
            values = {kind: self.statistics[kind][name] for kind in KINDS}
            if isinstance(values["held_out"], dict):
                sizes = list(values["held_out"])
                off = {size: abs(values["synthetic"][size] - values["held_out"][size]) for size in sizes}
                worst = max(sizes, key=lambda size: off[size])
                label = f"{name}, farthest off at {worst}"
                values = {kind: curve[worst] for kind, curve in values.items()}
            else:
                label = name
            scale = values["held_out"] if relative else 1.0
            error = (values["synthetic"] - values["held_out"]) / scale
            met = abs(error) <= allowed
            yield {"trace": self.name, "statistic": label, **values, "error": error, "allowed": allowed, "met": met}

    def ranked(self, kind: str) -> tuple[int, int]:
        """Pairs of policies that `kind` ranks as the held-out requests do, and all pairs."""
        same = total = 0
        for share in SHARES:
            real, other = self.hit_rates[share, "held_out"], self.hit_rates[share, kind]
            for one, two in combinations(POLICIES, 2):
                total += 1
                same += (real[one] > real[two]) == (other[one] > other[two])
        return same, total


def validate(names: Sequence[str] | None = None, seed: int = 0) -> list[Compared]:
    """Compare on the named traces, or on all that are there: shipped, and those of the folder of EXTRA_DATA.

    Raises ConfigError for a name that is not known or whose files are not there.
    """
    there = os.environ.get(EXTRA_DATA)
    names = names or [*SHIPPED, *(FOREIGN if there else ())]
    for name in names:
        if name not in (*SHIPPED, *FOREIGN):
            raise ConfigError(f"--trace {name}: expected one of {', '.join((*SHIPPED, *FOREIGN))}.")
        if name in FOREIGN and not there:
            raise ConfigError(f"--trace {name}: it is not shipped; expected its folder in {EXTRA_DATA}.")
    if seed < 0:
        raise ConfigError(f"--seed is {seed}; expected at least 0.")
    with tempfile.TemporaryDirectory() as folder:
        return [_compare(name, Path(folder), seed) for name in names]


def _compare(name: str, folder: Path, seed: int) -> Compared:
    from traces.statistics import summarise
    from traces.synthesis import fit_trace, synthesize

    trace = _open(name, folder)
    halves = [list(range(start, len(trace), 2)) for start in (0, 1)]
    model = fit_trace(trace, halves[0], seed=seed)
    count = len(halves[1])
    traces = {
        "fitted": _select(trace, halves[0], folder / "fitted.parquet"),
        "held_out": _select(trace, halves[1], folder / "held_out.parquet"),
        "synthetic": synthesize(model, folder / "synthetic.parquet", requests=count, seed=seed),
        "popularity_only": synthesize(model.popularity_only(), folder / "plain.parquet", requests=count, seed=seed),
    }
    rates = {
        (share, kind): {policy: _hit_rate(each, policy, share, seed) for policy in POLICIES}
        for share in SHARES
        for kind, each in traces.items()
    }
    return Compared(name, count, {kind: summarise(each) for kind, each in traces.items()}, rates)


def _open(name: str, folder: Path) -> Trace:
    """The trace; parts are joined one after the other."""
    from traces.importers import import_trace

    if name in SHIPPED:
        return open_trace(data_path(f"{name}.parquet"))
    source = Path(os.environ[EXTRA_DATA]) / "traces" / "per_token"
    parts = [import_trace(source / f"{part}.parquet", folder / f"{part}.parquet") for part in FOREIGN[name]]
    number, joined = 0, folder / f"{name}.parquet"
    if len(parts) == 1:
        return parts[0]
    with TraceWriter(joined, parts[0].meta) as writer:
        for label, part in zip(FOREIGN[name], parts, strict=True):
            for request in part:
                writer.write(dataclasses.replace(request, id=number), task=label)
                number += 1
    return open_trace(joined)


def _select(trace: Trace, indices: list[int], path: Path) -> Trace:
    with TraceWriter(path, trace.meta) as writer:
        for index in indices:
            writer.write(trace.request(index), task=trace.requests[index].task)
    return open_trace(path)


def _hit_rate(trace: Trace, policy: str, share: float, seed: int) -> float:
    """Hit rate of a policy on the first requests, every token a step of its own, one cache per layer."""
    from simulator.plan import Plan, Workload
    from simulator.replay import replay

    steps = _Decoded(trace)
    lengths = np.cumsum([info.tokens for info in trace.requests])
    requests = 1 + int(np.searchsorted(lengths[:-1], REPLAYED_TOKENS))
    layers, experts = len(trace.meta.layers), trace.meta.num_experts
    plan = Plan(steps, Workload(requests=requests))  # type: ignore[arg-type]
    make = make_policy(load("policy/cache", policy), "cache")
    budget = layers * max(trace.meta.top_k, round(share * experts))
    return replay(plan, [1] * layers, experts, trace.meta.top_k, make, budget, scope="layer", seed=seed).hit_rate()


class _Decoded:
    """A trace whose tokens all count as generated, so that each is a step."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self.path, self.meta = trace.path, trace.meta
        self.requests = tuple(
            dataclasses.replace(info, prefill_tokens=0, decode_tokens=info.tokens, unknown_tokens=0)
            for info in trace.requests
        )

    def __len__(self) -> int:
        return len(self.requests)

    def request(self, index: int) -> RequestTrace:
        request = self._trace.request(index)
        return dataclasses.replace(request, phases=np.ones_like(request.phases))


def tables(found: list[Compared]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Statistics and hit rates of policies, tidy."""
    import pandas as pd

    statistics = pd.DataFrame([row for compared in found for row in compared.rows()])
    policies = pd.DataFrame(
        [
            {"trace": compared.name, "share_of_experts": share, "requests": kind, "policy": policy, "hit_rate": rate}
            for compared in found
            for (share, kind), rates in compared.hit_rates.items()
            for policy, rate in rates.items()
        ]
    )
    return statistics, policies


def page(found: list[Compared]) -> str:
    """The comparison as Markdown, a table for each trace."""
    out = []
    for compared in found:
        out += [f"### {compared.name}: {compared.requests} requests held out", ""]
        out += ["| statistic | fitted to | held out | synthetic | popularity only | error | allowed | |"]
        out += ["|---|---:|---:|---:|---:|---:|---:|---|"]
        for row in compared.rows():
            values = " | ".join(f"{row[kind]:.3f}" for kind in KINDS)
            unit = ("{:+.1%}", "{:.0%}") if row["statistic"] == "load_cv" else ("{:+.3f}", "{:.2f}")
            error, allowed = unit[0].format(row["error"]), unit[1].format(row["allowed"])
            verdict = "met" if row["met"] else "**missed**"
            out += [f"| {row['statistic'].replace('_', ' ')} | {values} | {error} | {allowed} | {verdict} |"]
        pairs = {kind: compared.ranked(kind) for kind in KINDS}
        shown = " | ".join(f"{same} of {total}" for same, total in pairs.values())
        same, total = pairs["synthetic"]
        verdict = "met" if same >= 0.9 * total else "**missed**"
        out += [f"| pairs of cache policies ranked alike | {shown} | {same / total:.0%} | ≥ 90% | {verdict} |", ""]
    return "\n".join(out)
