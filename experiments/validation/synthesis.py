"""Synthetic traces beside real requests that they were not fitted to.

A model is fitted to every second request of a trace; what is drawn from it is compared with the other requests, under
several seeds of fitting and drawing, and judged on their mean. Beside it stand the requests that it was fitted to,
which show how far halves of the trace differ by themselves, and a trace with the same popularity and no structure (of
the first seed), which shows what structure buys.
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

FILES = ("synthesis.md", "synthesis_statistics.csv", "synthesis_seeds.csv", "synthesis_policies.csv")
EXTRA_DATA = "MOESIM_EXTRA_DATA"
FOREIGN = {  # traces that are not shipped: files below the folder of EXTRA_DATA
    "gpt_oss_20b_mmlu": ("gpt-oss-20b_mmlu",),
    "deepseek_v2_lite_esft": tuple(f"deepseek-v2-lite_esft_{task}" for task in ("intent", "summary", "translation")),
    "tiny_olmoe": ("tiny_olmoe",),
}
SHIPPED = ("gpt_oss_20b",)
REAL = ("fitted", "held_out")
KINDS = (*REAL, "synthetic", "popularity_only")
SEEDS = 5
# What is compared, and how far the mean over seeds may be off: absolute, or relative to the held-out requests.
ALLOWED: dict[str, tuple[float | None, bool]] = {
    "consecutive_overlap": (0.02, False),
    "consecutive_overlap_within_request_shuffle": (0.02, False),
    "consecutive_overlap_global_shuffle": (0.02, False),
    "next_layer_recall": (0.03, False),
    "load_cv": (0.10, True),
    "lru_hit_rate": (0.02, False),
    "belady_hit_rate": (0.02, False),
    "overlap_by_lag": (None, False),  # shown, not judged
    "first_choice_repeat": (None, False),
    "request_similarity": (None, False),
    "other_request_similarity": (None, False),
}
POLICIES = ("lru", "lfu", "lfu_history", "fifo", "s3fifo", "random", "belady")
SHARES = (0.25, 0.5)  # of a layer's experts in the cache
REPLAYED_TOKENS = 3000
RANKED_ALIKE = 0.9  # share of pairs of policies, at least
Rates = dict[float, dict[str, float]]  # share of experts in the cache -> policy -> hit rate


@dataclass(frozen=True, eq=False)
class Drawn:
    """A trace: its statistics and hit rates. Synthetic ones are of a seed."""

    kind: str
    seed: int | None
    statistics: dict[str, Any]
    hit_rates: Rates


@dataclass(frozen=True, eq=False)
class Compared:
    """One trace: the halves of its requests, `requests` of them held out, and what was drawn under each seed."""

    name: str
    requests: int
    traces: tuple[Drawn, ...]

    def of(self, kind: str) -> list[Drawn]:
        """The traces of a kind, one per seed if it is drawn."""
        return [trace for trace in self.traces if trace.kind == kind]

    def rows(self) -> Iterator[dict[str, Any]]:
        """One row per statistic; of curves, the point at which the mean over seeds is farthest off."""
        for name, (allowed, relative) in ALLOWED.items():
            found: dict[str, list[Any]] = {kind: [each.statistics[name] for each in self.of(kind)] for kind in KINDS}
            label, held_out = name, found["held_out"][0]
            if isinstance(held_out, dict):
                points = [point for point, value in held_out.items() if value is not None]
                off = {p: abs(np.mean([curve[p] for curve in found["synthetic"]]) - held_out[p]) for p in points}
                worst = max(points, key=lambda point: off[point])
                label = f"{name}, farthest off at {worst}"
                found = {kind: [curve[worst] for curve in curves] for kind, curves in found.items()}
            if any(value is None for values in found.values() for value in values):
                continue  # not defined for this trace
            mean = {kind: float(np.mean(values)) for kind, values in found.items()}
            scale = mean["held_out"] if relative else 1.0
            error = (mean["synthetic"] - mean["held_out"]) / scale
            yield {
                "trace": self.name,
                "statistic": label,
                **mean,
                "lowest": min(found["synthetic"]),
                "highest": max(found["synthetic"]),
                "halves_differ": abs(mean["fitted"] - mean["held_out"]) / scale,
                "error": error,
                "allowed": allowed,
                "met": None if allowed is None else abs(error) <= allowed,
            }

    def seed_rows(self) -> Iterator[dict[str, Any]]:
        """One row per statistic, point of a curve, and trace."""
        for each in self.traces:
            for name in ALLOWED:
                value = each.statistics[name]
                for point, number in value.items() if isinstance(value, dict) else [("", value)]:
                    about = {"trace": self.name, "requests": each.kind, "seed": each.seed}
                    yield {**about, "statistic": name, "at": point, "value": number}

    def ranked(self, kind: str) -> tuple[list[int], int]:
        """Pairs of policies that each trace of `kind` ranks as the held-out requests do, and all pairs."""
        (real,) = self.of("held_out")
        pairs = [(share, one, two) for share in SHARES for one, two in combinations(POLICIES, 2)]

        def first_is_better(each: Drawn, share: float, one: str, two: str) -> bool:
            return each.hit_rates[share][one] > each.hit_rates[share][two]

        same = [
            sum(first_is_better(real, *pair) == first_is_better(each, *pair) for pair in pairs)
            for each in self.of(kind)
        ]
        return same, len(pairs)


def validate(names: Sequence[str] | None = None, seed: int = 0, seeds: int = SEEDS) -> list[Compared]:
    """Compare on the named traces, or on all that are there: shipped, and those of the folder of EXTRA_DATA.

    Each is fitted and drawn under the seeds `seed` … `seed + seeds - 1`. Raises ConfigError for a name that is not
    known or whose files are not there, and for numbers out of range.
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
    if seeds < 1:
        raise ConfigError(f"--seeds is {seeds}; expected at least 1.")
    with tempfile.TemporaryDirectory() as folder:
        return [_compare(name, Path(folder), range(seed, seed + seeds)) for name in names]


def _compare(name: str, folder: Path, seeds: Sequence[int]) -> Compared:
    from traces.synthesis import fit_trace, synthesize

    trace = _open(name, folder)
    halves = [list(range(start, len(trace), 2)) for start in (0, 1)]
    count = len(halves[1])
    found = []
    for kind, half in zip(REAL, halves, strict=True):
        found.append(_drawn(kind, None, _select(trace, half, folder / f"{kind}.parquet")))
    for seed in seeds:
        model = fit_trace(trace, halves[0], seed=seed)
        path = folder / "drawn.parquet"
        found.append(_drawn("synthetic", seed, synthesize(model, path, requests=count, seed=seed)))
        if seed == seeds[0]:
            plain = synthesize(model.popularity_only(), path, requests=count, seed=seed)
            found.append(_drawn("popularity_only", seed, plain))
    return Compared(name, count, tuple(found))


def _drawn(kind: str, seed: int | None, trace: Trace) -> Drawn:
    from traces.statistics import summarise

    rates = {share: {policy: _hit_rate(trace, policy, share, seed or 0) for policy in POLICIES} for share in SHARES}
    return Drawn(kind, seed, summarise(trace), rates)


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


def tables(found: list[Compared]) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Statistics over seeds, statistics of each seed, and hit rates of policies, tidy."""
    import pandas as pd

    statistics = pd.DataFrame([row for compared in found for row in compared.rows()])
    by_seed = pd.DataFrame([row for compared in found for row in compared.seed_rows()])
    policies = pd.DataFrame(
        [
            {
                "trace": compared.name,
                "share_of_experts": share,
                "requests": each.kind,
                "seed": each.seed,
                "policy": policy,
                "hit_rate": rate,
            }
            for compared in found
            for each in compared.traces
            for share, rates in each.hit_rates.items()
            for policy, rate in rates.items()
        ]
    )
    return statistics, by_seed, policies


def page(found: list[Compared]) -> str:
    """The comparison as Markdown, a table for each trace."""
    out = []
    for compared in found:
        seeds = [each.seed for each in compared.of("synthetic")]
        out += [f"### {compared.name}: {compared.requests} requests held out, {len(seeds)} seeds", ""]
        out += ["| statistic | fitted to | held out | synthetic, mean (range) | popularity only "]
        out[-1] += "| halves differ by | error of the mean | allowed | |"
        out += ["|---|---:|---:|---:|---:|---:|---:|---:|---|"]
        for row in compared.rows():
            near, signed, least = (".0%", "+.1%", ".0%") if row["statistic"] == "load_cv" else (".3f", "+.3f", ".2f")
            halves, error = format(row["halves_differ"], near), format(row["error"], signed)
            allowed = "" if row["allowed"] is None else format(row["allowed"], least)
            synthetic = f"{row['synthetic']:.3f} ({row['lowest']:.3f} to {row['highest']:.3f})"
            verdict = {None: "", True: "met", False: "**missed**"}[row["met"]]
            cells = [row["statistic"].replace("_", " "), f"{row['fitted']:.3f}", f"{row['held_out']:.3f}", synthetic]
            cells += [f"{row['popularity_only']:.3f}", halves, error, allowed, verdict]
            out += [f"| {' | '.join(cells)} |"]
        shown = {}
        for kind in KINDS:
            same, total = compared.ranked(kind)
            between = "" if min(same) == max(same) else f" ({min(same)} to {max(same)})"
            shown[kind] = f"{np.mean(same):.3g}{between} of {total}"
        same, total = compared.ranked("synthetic")
        alike, halves_alike = float(np.mean(same)) / total, compared.ranked("fitted")[0][0] / total
        verdict = "met" if alike >= RANKED_ALIKE else "**missed**"
        cells = ["pairs of cache policies ranked alike", *shown.values(), f"{1 - halves_alike:.0%}", f"{alike:.0%}"]
        out += [f"| {' | '.join([*cells, f'≥ {RANKED_ALIKE:.0%}', verdict])} |", ""]
    return "\n".join(out)
