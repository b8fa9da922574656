"""Lengths: how many tokens prompts and answers have.

Each function gives int64 [count] for one of the two columns. `own` [count] are the lengths of the requests of the
trace that are followed. Fewer requests of the same generator's state are the first of more.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traces.workloads.arrivals import positive, spread
from traces.workloads.recorded import window
from traces.workloads.requests import MOST_TOKENS, WorkloadError
from traces.workloads.tables import read_columns


def trace(column: str, own: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """As the request of the trace has it."""
    return own


def fixed(column: str, own: np.ndarray, rng: np.random.Generator, *, tokens: int) -> np.ndarray:
    """All the same."""
    if not 0 <= tokens <= MOST_TOKENS:
        raise WorkloadError(f"'tokens' must be from 0 to {MOST_TOKENS:,}, not {tokens}.")
    return np.full(len(own), tokens, dtype=np.int64)


def uniform(column: str, own: np.ndarray, rng: np.random.Generator, *, low: int, high: int) -> np.ndarray:
    """Every length from low to high alike."""
    _ordered(low, high)
    return rng.integers(low, high, size=len(own), endpoint=True)


def normal(
    column: str, own: np.ndarray, rng: np.random.Generator, *, mean: float, sd: float, low: int = 1, high: int = 10**6
) -> np.ndarray:
    """Normal with this mean and standard deviation, rounded, then kept from low to high."""
    positive(mean=mean, sd=sd)
    _ordered(low, high)
    return np.clip(np.rint(rng.normal(mean, sd, len(own))), low, high).astype(np.int64)


def lognormal(
    column: str, own: np.ndarray, rng: np.random.Generator, *, mean: float, cv: float, low: int = 1, high: int = 10**6
) -> np.ndarray:
    """Log-normal with this mean and coefficient of variation, rounded, then kept from low to high.

    Its logarithm has the variance s² = ln(1 + cv²) and the mean ln(mean) - s² / 2.
    """
    positive(mean=mean)
    spread(cv)
    _ordered(low, high)
    variance = np.log1p(cv**2)
    drawn = rng.lognormal(np.log(mean) - variance / 2, np.sqrt(variance), len(own))
    return np.clip(np.rint(drawn), low, high).astype(np.int64)


def recorded(column: str, own: np.ndarray, rng: np.random.Generator, *, source: str, first: int = 0) -> np.ndarray:
    """As recorded, from request `first` of a shipped source on; with the same arrivals, the same requests."""
    return window(source, column, first, len(own))


def file(column: str, own: np.ndarray, rng: np.random.Generator, *, path: str, first: int = 0) -> np.ndarray:
    """The column prompt_tokens or decode_tokens of a CSV or Parquet file, from row `first` on."""
    columns = read_columns(Path(path).expanduser())
    if column not in columns:
        raise WorkloadError(f"{path}: column '{column}' is missing.")
    values = columns[column]
    if not np.issubdtype(values.dtype, np.integer) or (len(values) and values.min() < 0):
        raise WorkloadError(f"{path}: column '{column}' must hold whole numbers, 0 or more, in every row.")
    if not 0 <= first <= len(values) - len(own):
        raise WorkloadError(f"{path}: {len(own)} requests from row {first} on must be there, but it has {len(values)}.")
    return values[first : first + len(own)].astype(np.int64)


def _ordered(low: int, high: int) -> None:
    if not 0 <= low <= high <= MOST_TOKENS:
        raise WorkloadError(f"'low' and 'high' must rise and be from 0 to {MOST_TOKENS:,}, not {low} and {high}.")
