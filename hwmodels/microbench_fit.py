"""From measured rows to the constants of a platform: pure functions, so that they can be checked on made-up rows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from hwmodels.device import ReadRate
from hwmodels.errors import PlatformError
from hwmodels.microbench import Row
from hwmodels.operators import KINDS


@dataclass(frozen=True)
class Constants:
    """What a platform file says of a processor, its memory and its drive. Rates per second.

    compute_efficiency, memory_efficiency   by kind of operation; kinds that were not measured are not there
    copy_efficiency     bytes copied in memory per byte that could be read
    """

    peak_flop_per_s: float
    memory_read_bytes_per_s: float
    launch_overhead_s: float
    compute_efficiency: dict[str, float]
    memory_efficiency: dict[str, float]
    copy_efficiency: float
    read_rates: tuple[ReadRate, ...]


def fit(rows: Sequence[Row]) -> Constants:
    """The constants of the roofline `launch + max(flops / (peak · e_c), bytes / (bandwidth · e_m))`.

    Peaks are the fastest rates of any benchmark at its median, bandwidth only of those whose bytes were in no cache;
    the launch is the time of a tiny product. An efficiency is the least-squares fit of relative errors over the
    rows of its kind: one token for memory, several for arithmetic. Raises PlatformError if a benchmark is missing.
    """
    cold = [row for row in rows if not row.cached]
    kernels = [row for row in cold if row.benchmark in KINDS]
    launch = _of(rows, "launch")[0].median_s
    # vectors of an elementwise operation are short, and in a cache
    streams = [row for row in kernels if row.tokens == 1 and row.benchmark != "elementwise"]
    bandwidth = max(row.bytes_per_s for row in (*_of(rows, "read_memory"), *streams))
    many = [row for row in kernels if row.tokens > 1]
    if not many:
        raise PlatformError("there is no measured row of a product of several tokens; the peak needs one.")
    peak = max(row.flop_per_s for row in many)
    return Constants(
        peak_flop_per_s=peak,
        memory_read_bytes_per_s=bandwidth,
        launch_overhead_s=launch,
        compute_efficiency=_efficiencies(many, launch, lambda row: row.flops / peak),
        memory_efficiency=_efficiencies(
            [row for row in kernels if row.tokens == 1], launch, lambda row: row.size_bytes / bandwidth
        ),
        copy_efficiency=min(1.0, _of(rows, "copy_memory")[0].bytes_per_s / bandwidth),
        read_rates=tuple(
            ReadRate(round(row.size_bytes), row.at_once, row.bytes_per_s) for row in _of(rows, "read_file")
        ),
    )


def fit_copies(rows: Sequence[Row]) -> tuple[float, float]:
    """(latency in s, bytes per second) of copies of several sizes: the fit of seconds = latency + bytes / rate with
    the least relative errors. Raises PlatformError for fewer than two sizes.
    """
    if len({row.size_bytes for row in rows}) < 2:
        raise PlatformError("latency and rate of copies need measured rows of at least two sizes.")
    seconds = np.array([row.median_s for row in rows])
    sizes = np.array([row.size_bytes for row in rows])
    design = np.stack([1 / seconds, sizes / seconds], axis=1)
    scale = np.linalg.norm(design, axis=0)  # seconds and seconds per byte differ by many powers of ten
    solved, *_ = np.linalg.lstsq(design / scale, np.ones(len(rows)), rcond=None)
    latency, per_byte = (float(value) for value in solved / scale)
    if latency < 0:
        latency, per_byte = 0.0, _slope(sizes / seconds, np.ones(len(rows)))
    return latency, 1 / per_byte


def _of(rows: Sequence[Row], benchmark: str) -> list[Row]:
    found = [row for row in rows if row.benchmark == benchmark]
    if not found:
        raise PlatformError(f"there is no measured row of benchmark '{benchmark}'.")
    return found


def _efficiencies(rows: Sequence[Row], launch: float, ideal_s: Callable[[Row], float]) -> dict[str, float]:
    """Kind -> share of the peak; `ideal_s` of a row is its time at the peak, without launch."""
    fractions = {}
    for kind in KINDS:
        mine = [row for row in rows if row.benchmark == kind]
        if mine:
            seconds = np.array([row.median_s for row in mine])
            slower = _slope(np.array([ideal_s(row) for row in mine]) / seconds, 1 - launch / seconds)
            fractions[kind] = min(1.0, 1 / slower) if slower > 0 else 1.0
    return fractions


def _slope(x: np.ndarray, y: np.ndarray) -> float:
    """The a with the least squares of a · x - y."""
    return float(x @ y / (x @ x))
