"""Arrivals: when requests come. Each function gives (arrival_s, client, think_s) of `count` requests, each [count].

Fewer requests of the same generator's state are the first of more.
"""

from __future__ import annotations

import numpy as np

from traces.workloads.recorded import window
from traces.workloads.requests import OPEN, WorkloadError

Arrivals = tuple[np.ndarray, np.ndarray, np.ndarray]


def at_once(count: int, rng: np.random.Generator) -> Arrivals:
    """All at the start."""
    return _open(np.zeros(count))


def poisson(count: int, rng: np.random.Generator, *, rate_per_s: float) -> Arrivals:
    """Independent of each other: exponential gaps of mean 1 / rate_per_s, the first from the start."""
    positive(rate_per_s=rate_per_s)
    return _open(np.cumsum(rng.exponential(1.0 / rate_per_s, count)))


def gamma(count: int, rng: np.random.Generator, *, rate_per_s: float, cv: float) -> Arrivals:
    """Bursts: gamma gaps of mean 1 / rate_per_s whose standard deviation is cv times that (1: Poisson).

    A gamma distribution of shape 1 / cv² and scale cv² / rate_per_s has these moments.
    """
    positive(rate_per_s=rate_per_s)
    spread(cv)
    return _open(np.cumsum(rng.gamma(1.0 / cv**2, cv**2 / rate_per_s, count)))


def recorded(count: int, rng: np.random.Generator, *, source: str, first: int = 0, speed: float = 1.0) -> Arrivals:
    """As recorded, from request `first` of a shipped source on, which comes at 0; `speed` 2 is twice as fast."""
    positive(speed=speed)
    arrival_s = window(source, "arrival_s", first, count)
    return _open((arrival_s - arrival_s[0]) / speed)


def closed_loop(
    count: int, rng: np.random.Generator, *, clients: int, think_s: float = 0.0, think: str = "fixed"
) -> Arrivals:
    """A client sends its next request a think time after its last one ended, so arrivals are known at run time only.

    Clients take requests in turn. think: `fixed`, or `exponential` with mean think_s. Only each client's first arrival
    is known: its think time after the start of the run.
    """
    if clients < 1:
        raise WorkloadError(f"'clients' must be at least 1, not {clients}.")
    if not (np.isfinite(think_s) and think_s >= 0):
        raise WorkloadError(f"'think_s' must be 0 or more seconds, not {think_s:g}.")
    if think not in ("fixed", "exponential"):
        raise WorkloadError(f"'think' must be fixed or exponential, not '{think}'.")
    waits_s = np.full(count, float(think_s)) if think == "fixed" else rng.exponential(think_s, count)
    number = np.arange(count, dtype=np.int64)
    return np.where(number < clients, waits_s, np.nan), number % clients, waits_s


def _open(arrival_s: np.ndarray) -> Arrivals:
    return arrival_s, np.full(len(arrival_s), OPEN, dtype=np.int64), np.full(len(arrival_s), np.nan)


def spread(cv: float) -> None:
    """Raise WorkloadError for a coefficient of variation whose square, or its inverse, is no number to draw from."""
    if not 1e-6 <= cv <= 1e6:
        raise WorkloadError(f"'cv' must be from 1e-06 to 1e+06, not {cv:g}.")


def positive(**values: float) -> None:
    """Raise WorkloadError, naming the parameter, unless all are above 0 and finite."""
    for name, value in values.items():
        if not (np.isfinite(value) and value > 0):
            raise WorkloadError(f"'{name}' must be above 0, not {value:g}.")
