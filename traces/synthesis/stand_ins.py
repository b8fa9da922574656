"""Fits the parameters of the profiles to the figures that they list, and writes them into the files.

    python -m traces.synthesis.stand_ins [NAME ...]
    python -m traces.synthesis.stand_ins --gates [NAME ...]     fits the weights alone
    python -m traces.synthesis.stand_ins --table      prints what the files say, as Markdown

Least squares over the rows of `evidence` that name a statistic and are not marked `used: false`; each row's residual is
in units of its `tolerance`. As there may be fewer figures than parameters, every parameter is also held to a default,
weakly. What a row's statistic comes to is written beside it as `reached`.
"""

from __future__ import annotations

import dataclasses
import re
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import yaml
from scipy.optimize import least_squares

from traces.statistics.belady import BeladyDepths, FirstUses
from traces.statistics.lru import LruDepths
from traces.synthesis.generate import generate_all
from traces.synthesis.model import RoutingModel
from traces.synthesis.moments import moments, transition_tables, use_counts
from traces.synthesis.profile import FOLDER, Parameters, Profile, draw_model, load_profile, profile_names
from traces.synthesis.sharpness import STATISTICS, fit_sharpness, gate_statistic

DEFAULTS = Parameters(load_spread=0.4, request_spread=0.3, coupling=1.0, stickiness=0.3, memory=0.3)
LARGEST = Parameters(load_spread=3.0, request_spread=2.0, coupling=4.0, stickiness=0.95, memory=0.9)
WEAK = 0.1  # weight of the defaults
REQUESTS, TOKENS = 16, 4096  # drawn for every evaluation, in requests of the profile's length


def statistic(row: dict[str, Any], requests: list[np.ndarray], experts: int) -> float:
    """What `row` names, of drawn requests [tokens, L, k] each, or of the first `of` choices of each token.

    load_cv               standard deviation over mean of a layer's loads, mean of layers
    request_load_cv       the same of every request alone, mean of requests
    consecutive_overlap   share of a token's experts that the token before chose too
    next_layer_recall     see `moments`; the table is of the same requests
    lru_hit               hit rate of an LRU cache per layer of `slots` or `fraction`; `batch` requests in step, an
                          expert wanted by several counts once
    lru_over_belady       the same over that of the clairvoyant cache
    active_share          share of a layer's experts that a request uses, or with `batch` a step of so many in step
    first_choice_kept     share of tokens whose first choice is that of the token before
    """
    name, requests = row["statistic"], [request[:, :, : row.get("of")] for request in requests]
    counts = np.array([use_counts(request, experts) for request in requests])
    if name == "load_cv":
        total = counts.sum(axis=0)
        return float((total.std(axis=1) / total.mean(axis=1)).mean())
    if name == "request_load_cv":
        return float((counts.std(axis=2) / counts.mean(axis=2)).mean())
    if name == "first_choice_kept":
        return float(np.mean([(request[1:, :, 0] == request[:-1, :, 0]).mean() for request in requests]))
    if name == "active_share":
        if "batch" in row:
            return float((_in_step(requests, row["batch"]) >= 0).sum(axis=2).mean() / experts)
        return float((counts > 0).mean())
    if name in ("consecutive_overlap", "next_layer_recall"):
        if name == "consecutive_overlap":
            return float(moments(requests, experts).near.mean())
        tables = transition_tables(np.concatenate(requests), experts)[None]
        return float(moments(requests, experts, tables).recall[1:].mean())
    slots = int(row.get("slots") or row["fraction"] * experts)
    accesses = _in_step(requests, int(row.get("batch", 1)))
    hits = _lru_hits(accesses, slots, experts)
    return hits if name == "lru_hit" else hits / _belady_hits(accesses, slots, experts)


def _in_step(requests: list[np.ndarray], batch: int) -> np.ndarray:
    """Accesses [steps, L, batch * k], -1 where another request of the step asked already."""
    if batch == 1:
        return np.concatenate(requests)
    groups = []
    for start in range(0, len(requests) - batch + 1, batch):
        some = requests[start : start + batch]
        steps = min(len(request) for request in some)
        groups.append(np.concatenate([request[:steps] for request in some], axis=2))
    joined = np.concatenate(groups).astype(np.int16)
    for slot in range(1, joined.shape[2]):
        joined[:, :, slot][(joined[:, :, :slot] == joined[:, :, slot : slot + 1]).any(axis=2)] = -1
    return joined


def _lru_hits(accesses: np.ndarray, slots: int, experts: int) -> float:
    depths = LruDepths(accesses.shape[1], experts)
    depths.add(accesses)
    return float(depths.counts[:, :slots].sum() / depths.accesses.sum())


def _belady_hits(accesses: np.ndarray, slots: int, experts: int) -> float:
    layers = accesses.shape[1]
    uses = FirstUses(layers, experts)
    uses.add(accesses)
    depths = BeladyDepths(layers, experts, uses.after())
    depths.add(accesses)
    return float(depths.counts()[:, :slots].sum() / (accesses >= 0).sum())


def _requests(profile: Profile, model: RoutingModel) -> list[np.ndarray]:
    """Always of the same random numbers."""
    number = max(REQUESTS, TOKENS // profile.tokens)
    lengths = np.full(number, max(1, min(profile.tokens, TOKENS // number)))
    return generate_all(model, lengths, np.arange(number) % len(model.kind), np.random.default_rng(profile.seed))


def evaluate(profile: Profile, rows: Sequence[dict[str, Any]]) -> list[float]:
    """The statistics of `rows` for the profile, always of the same random numbers."""
    model = draw_model(profile)
    requests = _requests(profile, model)
    return [
        float(gate_statistic(row, model, requests, profile.seed).mean())
        if row["statistic"] in STATISTICS
        else statistic(row, requests, profile.experts)
        for row in rows
    ]


def fit_gate(profile: Profile) -> Profile:
    """`profile` with the sharpness that its first figure on weights asks for, if there is one."""
    rows = [row for row in profile.evidence if row.get("statistic") in STATISTICS and row.get("used", True)]
    if not rows or profile.gate is None:
        return profile
    model = draw_model(profile)
    found = fit_sharpness(rows[0], model, _requests(profile, model), profile.seed)
    gate = {**profile.gate, "sharpness": found if len(found) > 1 else found[0]}
    return dataclasses.replace(profile, gate=gate)


def fit_profile(profile: Profile) -> Profile:
    """`profile` with the parameters that its evidence asks for."""
    if profile.base is not None:
        return profile
    rows = [row for row in profile.evidence if "statistic" in row and row.get("used", True)]
    rows = [row for row in rows if row["statistic"] not in STATISTICS]
    names = [field.name for field in dataclasses.fields(Parameters)]
    default, largest = (np.array(dataclasses.astuple(values)) for values in (DEFAULTS, LARGEST))

    def of(point: np.ndarray) -> Profile:
        values = {name: round(float(value), 4) for name, value in zip(names, point * largest, strict=True)}
        return dataclasses.replace(profile, parameters=Parameters(**values))

    def residuals(point: np.ndarray) -> np.ndarray:
        found = evaluate(of(point), rows)
        off = [(have - row["value"]) / row["tolerance"] for have, row in zip(found, rows, strict=True)]
        return np.array([*off, *(WEAK * (point - default / largest) * 10)])

    best = least_squares(residuals, default / largest, bounds=(0.0, 1.0), diff_step=0.05, max_nfev=8)
    return of(best.x)


def table() -> str:
    """Every profile's evidence beside what the stand-in shows, as Markdown."""
    out = ["| stand-in | figure | published | stand-in shows | confidence | source |", "|---|---|---:|---:|---|---|"]
    for name in profile_names():
        profile = load_profile(name)
        if profile.base is not None:
            out.append(f"| `{name}` | no evidence of its own: `{profile.base}` rescaled |  |  |  |  |")
        for row in profile.evidence:
            detail = ", ".join(f"{key} {row[key]}" for key in ("slots", "fraction", "batch") if key in row)
            what = row.get("what") or row["statistic"].replace("_", " ") + (f" ({detail})" if detail else "")
            shown = [str(row.get(key, "")) for key in ("value", "reached", "confidence", "source")]
            shown[1] += " (check, not fitted)" if "reached" in row and not row.get("used", True) else ""
            out.append(f"| `{name}` | {what} | {' | '.join(shown)} |")
    return "\n".join(out)


def main(names: Sequence[str]) -> None:
    """Fit the named profiles, or all, in place."""
    if list(names) == ["--table"]:
        print(table())
        return
    gates_only = "--gates" in names
    for name in [name for name in names if name != "--gates"] or profile_names():
        path, profile = FOLDER / f"{name}.yaml", load_profile(name)
        fitted = fit_gate(profile if gates_only else fit_profile(profile))
        rows = [dict(row) for row in fitted.evidence]
        measurable = [row for row in rows if "statistic" in row]
        for row, found in zip(measurable, evaluate(fitted, measurable), strict=True):
            row["reached"] = round(found, 3)
        head = re.split(r"^(?:parameters|gate|evidence):", path.read_text(encoding="utf-8"), maxsplit=1, flags=re.M)[0]
        tail: dict[str, Any] = {} if fitted.base else {"parameters": dataclasses.asdict(fitted.parameters)}
        tail |= {"gate": fitted.gate} if fitted.gate else {}
        tail |= {"evidence": rows} if rows else {}
        text = yaml.safe_dump(tail, sort_keys=False, allow_unicode=True, width=120)
        path.write_text(head + text, encoding="utf-8")
        print(name, *(f"{row['statistic']} {row['value']} -> {row['reached']}" for row in measurable), sep="\n  ")


if __name__ == "__main__":
    main(sys.argv[1:])
