"""Measuring a machine: cases that are timed, and rows that hold what they took. The fits are in microbench_fit.

Machines are noisy, so every figure is the median of repetitions, and the repetitions of all cases take turns: what
disturbs the machine for a second disturbs one repetition of each case and not all of one.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
MIB = 2**20
USUAL_CACHE_BYTES = 32 * MIB  # where the system does not tell the size of its last cache


@dataclass(frozen=True)
class Row:
    """What one case took.

    benchmark   a kind of operation (hwmodels.operators.KINDS), or launch, read_memory, copy_memory, read_file,
                copy_to_device, copy_from_device
    size_bytes  moved by one call, counted as the roofline counts them
    flops       operations of one call
    tokens      of one call: one is bound by memory, many by arithmetic
    at_once     threads, or requests in flight
    cached      the weights stay in the processor's caches; for a copy: memory is pageable
    seconds     of one call, by repetition; of calls that run at once, their time divided by their number

    >>> row = Row("read_file", size_bytes=1000, seconds=(1.0, 2.0, 5.0))
    >>> row.median_s, row.bytes_per_s, row.spread  # quartiles at 1.5 and 3.5
    (2.0, 500.0, 1.0)
    """

    benchmark: str
    size_bytes: float
    seconds: tuple[float, ...]
    flops: float = 0.0
    tokens: int = 1
    at_once: int = 1
    cached: bool = False

    @property
    def median_s(self) -> float:
        """The figure."""
        return float(np.median(self.seconds))

    @property
    def spread(self) -> float:
        """Distance of the quartiles as a share of the median; 0 for one repetition."""
        low, high = np.percentile(self.seconds, (25, 75))
        return float(high - low) / self.median_s

    @property
    def bytes_per_s(self) -> float:
        """Rate at the median."""
        return self.size_bytes / self.median_s

    @property
    def flop_per_s(self) -> float:
        """Rate at the median."""
        return self.flops / self.median_s


@dataclass(frozen=True)
class Case:
    """Something to time: `run()` does it once and returns the seconds of one call. Other fields as in Row."""

    benchmark: str
    size_bytes: float
    run: Callable[[], float]
    flops: float = 0.0
    tokens: int = 1
    at_once: int = 1
    cached: bool = False


@dataclass
class Bench:
    """Cases and what they took so far."""

    cases: Sequence[Case]
    seconds: list[list[float]] = field(default_factory=list)  # [round][case]

    def round(self) -> None:
        """Time every case once, in turn; every other round the other way round."""
        order = range(len(self.cases))
        took = [0.0] * len(self.cases)
        for index in reversed(order) if len(self.seconds) % 2 else order:
            took[index] = self.cases[index].run()
        self.seconds.append(took)

    def rows(self) -> list[Row]:
        """A row for each case. Raises ValueError before the first round."""
        if not self.seconds:
            raise ValueError("nothing has been measured yet; expected at least one round.")
        return [
            Row(case.benchmark, case.size_bytes, taken, case.flops, case.tokens, case.at_once, case.cached)
            for case, taken in zip(self.cases, zip(*self.seconds, strict=True), strict=True)
        ]


def buffer(size_bytes: int) -> mmap.mmap:
    """Memory that starts at a page, as direct I/O wants it, on huge pages where there are, and is there already."""
    memory = mmap.mmap(-1, size_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    np.frombuffer(memory, np.uint8)[:] = 0
    return memory


def last_cache_bytes(folder: Path = Path("/sys/devices/system/cpu/cpu0/cache")) -> int:
    """Size of the processor's last cache as Linux tells it, else USUAL_CACHE_BYTES."""
    return max((size for size in map(_cache_bytes, folder.glob("index*/size")) if size), default=USUAL_CACHE_BYTES)


def _cache_bytes(path: Path) -> int:
    text = path.read_text().strip()
    units = {"K": 2**10, "M": 2**20, "G": 2**30}
    digits, unit = (text[:-1], units[text[-1]]) if text[-1:] in units else (text, 1)
    return int(digits) * unit if digits.isdigit() else 0


class ColdWeights:
    """Numbers that are in no cache: pieces of a pool several times as large, dealt out in a circle."""

    def __init__(self, size_bytes: int, seed: int = 0) -> None:
        self._floats = np.frombuffer(buffer(size_bytes), np.float32)
        block = np.random.default_rng(seed).standard_normal(min(len(self._floats), MIB), dtype=np.float32)
        for start in range(0, len(self._floats), len(block)):
            part = self._floats[start : start + len(block)]
            part[:] = block[: len(part)] * np.float32(0.02)
        self._next = 0

    def take(self, count: int) -> Floats:
        """The next `count` numbers [count]. Raises ValueError if the pool has fewer."""
        if count > len(self._floats):
            raise ValueError(f"the pool of weights has {len(self._floats)} numbers; {count} were asked for.")
        if self._next + count > len(self._floats):
            self._next = 0
        piece = self._floats[self._next : self._next + count]
        self._next += count
        return piece

    def pieces(self, count: int, pass_bytes: int) -> list[Floats]:
        """As many pieces of `count` numbers as `pass_bytes` hold, at least one."""
        return [self.take(count) for _ in range(max(1, pass_bytes // (4 * count)))]
