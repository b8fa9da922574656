"""Fitting the constants of engines to measured rows: few numbers for an engine, three for each of its releases.

Residuals are logarithms of predicted over measured, TPOT in units of 0.1 and TTFT of 0.3, under a soft-L1 loss, so that
rows which differ by what no column shows (a cap on running requests, compilation) count little. Rows that agree in
every input and result count once; a configuration counts by the root of its rows. Constants are drawn towards what was
expected of them, and a release's factors towards 1, by squared penalties (a ridge), whose weight was chosen by leaving
out one model, or one GPU, of the fitted rows at a time.

Whether a release's rows guess tokens ahead no column says. It is taken to, of models that bring a layer for it, where
that lowers the loss of its rows by a third and more.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from experiments.serving.engines import Engine, has_draft_head
from experiments.serving.predict import steady
from experiments.serving.rows import Row
from experiments.serving.split import configuration

Array = npt.NDArray[np.float64]


class Range(NamedTuple):
    """First guess, bounds and scale of a constant; by how much (standard deviation) it may leave the first guess."""

    start: float
    low: float
    high: float
    scale: float
    spread: float


VALUES = {
    "decode": Range(1.0, 0.5, 1.6, 0.3, 0.1),
    "prompt": Range(1.0, 0.5, 3.0, 0.5, 0.3),
    "step_s": Range(5e-4, 0.0, 2e-2, 1e-3, 5e-4),
    "sequence_s": Range(1e-5, 0.0, 5e-4, 3e-5, 3e-5),
    "request_s": Range(2e-2, 0.0, 0.5, 3e-2, 2e-2),
    "launch_s": Range(3e-5, 0.0, 4e-4, 3e-5, 5e-5),
    "waits": Range(1.0, 0.0, 4.0, 1.0, 1.0),
    "burst": Range(0.1, 0.0, 1.0, 0.1, 0.1),
}
UNITS = (0.3, 0.1)  # of the logarithms of TTFT and TPOT
RELEASE_SPREAD = 0.3
PRIOR = 4.0  # weight of what was expected, in rows that miss by a unit
EVALUATIONS = 30
ACCEPTED = (1.0, 1.5, 2.0, 2.5, 3.0)
"""Tokens a step may yield; with DRAFTS guesses it is 4 at most."""
ROUNDS = 2  # of choosing what is accepted, and fitting again
BETTER = 2 / 3  # of the loss without guesses that must remain at most, if there are to be any


@dataclass(frozen=True)
class Measured:
    """A row and its measured seconds."""

    row: Row
    ttft_s: float
    tpot_s: float


def fit_engine(measured: Sequence[Measured]) -> Engine:
    """Constants from rows of one engine; those of disaggregated rows after the others, which they build on."""
    together = [m for m in dict.fromkeys(measured) if m.row.mode == "agg"]
    typical = float(np.exp(np.mean(np.log([max(m.row.requests / m.row.layout.attention_dp, 1.0) for m in together]))))
    values, versions = _fit_values(together, {})
    for _ in range(ROUNDS):
        accepted = _accepted(together, Engine(values, versions))
        if accepted == {name: factors["accepted"] for name, factors in versions.items()}:
            break
        values, versions = _fit_values(together, accepted)
    engine = Engine(values, versions, {"sequences": typical, "ttft": 1.0})
    disagg = [m for m in dict.fromkeys(measured) if m.row.mode == "disagg"]
    return Engine(values, versions, _fit_disagg(disagg, engine)) if disagg else engine


def _accepted(measured: Sequence[Measured], engine: Engine) -> dict[str, float]:
    """Release -> tokens that a step yields: 1, unless guessing ahead explains its rows much better than a factor."""
    found = {}
    for release, factors in engine.versions.items():
        rows = [m for m in measured if m.row.version == release and has_draft_head(m.row.model)]
        losses = {}
        for accepted in ACCEPTED if rows else ACCEPTED[:1]:
            tried = Engine(engine.values, {release: {**factors, "accepted": accepted}})
            missed = np.array([np.log(steady(m.row, tried, {})[1] / m.tpot_s) for m in rows]) / UNITS[1]
            shift = float(np.median(missed)) if rows else 0.0
            strayed = PRIOR * UNITS[1] * shift / RELEASE_SPREAD
            losses[accepted] = float(np.sum(_soft(missed - shift) ** 2)) + strayed**2
        best = min(losses, key=lambda a: losses[a])
        found[release] = best if losses[best] <= BETTER * losses[1.0] else 1.0
    return found


def _fit_values(
    measured: Sequence[Measured], accepted: Mapping[str, float]
) -> tuple[dict[str, float], dict[str, dict[str, float]]]:
    truth = np.log([(m.ttft_s, m.tpot_s) for m in measured])
    releases = sorted({m.row.version for m in measured} - {""})
    guesses = {name: {"accepted": accepted.get(name, 1.0)} for name in releases}
    place = np.array([releases.index(m.row.version) if m.row.version else len(releases) for m in measured])
    weight = _weights(measured)
    first, scale, spread = (
        np.array([getattr(v, key) for v in VALUES.values()]) for key in ("start", "scale", "spread")
    )

    def engine(x: Array) -> Engine:
        return Engine(dict(zip(VALUES, (x[: len(VALUES)] * scale).tolist(), strict=True)), guesses)

    known: dict[bytes, Array] = {}  # differences by a release's factor need no new answers

    def residuals(x: Array) -> Array:
        key = x[: len(VALUES)].tobytes()
        if key not in known:
            known[key] = np.log([steady(m.row, engine(x), {}) for m in measured])
        answers = known[key]
        factors = np.vstack([x[len(VALUES) :].reshape(-1, 2), np.zeros(2)])
        missed = (answers + factors[place] - truth) / UNITS * weight[:, None]
        strayed = (x[: len(VALUES)] * scale - first) / spread
        return np.r_[_soft(missed.ravel()), PRIOR * strayed, PRIOR * x[len(VALUES) :] / RELEASE_SPREAD]

    free = np.zeros(2 * len(releases))
    start, low, high = (
        np.r_[np.array([getattr(item, name) for item in VALUES.values()]) / scale, free + edge]
        for name, edge in (("start", 0.0), ("low", -2.0), ("high", 2.0))
    )
    margin = 1e-6 * (high - low)
    found = least_squares(
        residuals, np.clip(start, low + margin, high - margin), bounds=(low, high), max_nfev=EVALUATIONS
    )
    factors = np.exp(found.x[len(VALUES) :].reshape(-1, 2))
    versions = {
        name: {"ttft": float(t), "tpot": float(p), **guesses[name]}
        for name, (t, p) in zip(releases, factors, strict=True)
    }
    return dict(engine(found.x).values), versions


def _fit_disagg(measured: Sequence[Measured], engine: Engine) -> dict[str, float]:
    truth = np.log([(m.ttft_s, m.tpot_s) for m in measured])
    weight = _weights(measured)

    def constants(x: Array) -> dict[str, float]:
        return {"sequences": float(np.exp(x[0])), "ttft": float(np.exp(x[1]))}

    def residuals(x: Array) -> Array:
        tried = Engine(engine.values, {}, constants(x))
        answers = np.log([steady(m.row, tried, {}) for m in measured])
        return np.r_[np.ravel((answers - truth) / UNITS * weight[:, None]), PRIOR * (x - start)]

    start = np.log([engine.disagg["sequences"], 2.0])
    found = least_squares(residuals, start, loss="soft_l1", max_nfev=EVALUATIONS)
    return constants(found.x)


def _soft(missed: Array) -> Array:
    """What a least-squares fit takes in place of residuals, so that their loss is soft-L1."""
    return np.asarray(np.sign(missed) * np.sqrt(2 * (np.sqrt(1 + missed**2) - 1)))


def _weights(measured: Sequence[Measured]) -> Array:
    """One over the root of the rows of each row's configuration, 1 in the mean."""
    names = [configuration(m.row) for m in measured]
    rows = {name: names.count(name) for name in set(names)}
    weight = np.array([rows[name] ** -0.5 for name in names])
    return np.asarray(weight / weight.mean())
