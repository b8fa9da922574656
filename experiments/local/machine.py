"""Measuring this machine, and writing what came of it as a platform file."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from hwmodels.microbench import MIB, Bench, ColdWeights, Row, last_cache_bytes
from hwmodels.microbench_files import DEPTHS, REQUEST_BYTES, Reader, file_cases
from hwmodels.microbench_fit import Constants, fit
from hwmodels.microbench_kernels import Backend, Sizes, processor_cases
from hwmodels.units import format_quantity

TURNS = 4  # repetitions on the processor, which are short, for one of the file reads


@dataclass(frozen=True)
class Extent:
    """How much is measured. `file_bytes`: size of the file that is read if there is no other."""

    sizes: Sizes = field(default_factory=Sizes)
    request_bytes: Sequence[int] = REQUEST_BYTES
    depths: Sequence[int] = DEPTHS
    file_pass_bytes: int = 24 * MIB
    file_bytes: int = 512 * MIB


QUICK = Extent(
    Sizes(
        pool_bytes=16 * MIB,
        pass_bytes=MIB,
        small_calls=4,
        squares=(128, 256),
        experts=((128, 64), (256, 128)),
        tokens=16,
        contexts=(16, 64),
        norms=(128, 256),
    ),
    request_bytes=(128 * 1024, MIB),
    depths=(1, 2),
    file_pass_bytes=MIB,
    file_bytes=8 * MIB,
)

QUICK_REMARK = "measured with --quick: tiny sizes, to see that it works; its figures are poor"


class Machine:
    """The benches of this machine; products run on `threads` threads, and the file at `path` is read."""

    def __init__(self, library: Backend, threads: int, path: Path, extent: Extent) -> None:
        pool = ColdWeights(extent.sizes.pool_bytes or min(max(4 * last_cache_bytes(), 128 * MIB), 1024 * MIB))
        self.library, self.threads, self.path, self.extent = library, threads, path, extent
        self.processor = Bench(processor_cases(library, extent.sizes, pool, sorted({1, threads})))
        self.files = Bench(file_cases(path, extent.request_bytes, extent.depths, extent.file_pass_bytes))
        with Reader(path, 1) as reader:
            self.method = reader.method

    def measure(self) -> None:
        """One repetition of the file reads, and TURNS on the processor around it."""
        for turn in range(TURNS):
            if turn == TURNS // 2:
                self.files.round()
            self.processor.round()

    def rows(self) -> list[Row]:
        """Everything measured so far."""
        return [*self.processor.rows(), *self.files.rows()]

    def mapping(self) -> dict[str, Any]:
        """The platform file, as `Platform.from_mapping` reads it."""
        rows, drive_bytes = self.rows(), shutil.disk_usage(self.path).total
        remark = QUICK_REMARK if self.extent is QUICK else ""
        return platform_mapping(fit(rows), self._sources(rows), _memory_bytes(), drive_bytes, remark)

    def _sources(self, rows: Sequence[Row]) -> dict[str, str]:
        turns, reads = len(self.processor.seconds), len(self.files.seconds)
        how = (
            f"{self.library.name}, fp32, {_threads(self.threads)} of {os.cpu_count()}; medians of {turns} repetitions"
            " that took turns with all others, spread = distance of the quartiles / median"
        )
        by_kind = ", ".join(f"{kind} {_spread(rows, kind)}" for kind in ("gemm", "grouped_gemm", "attention"))
        return {
            "cpu": (
                f"measured on this machine ({processor_name()}; {how}). Peak: the fastest product of several tokens."
                " Efficiencies: products, feed-forward blocks, attention and norms of several sizes, weights in no"
                f" cache; spread: {by_kind}, elementwise {_spread(rows, 'elementwise')}. Launch: a product of 16 by"
                f" 16 (spread {_spread(rows, 'launch')}). What is left out has the defaults of hwmodels.efficiency"
            ),
            "dram": (
                f"measured on this machine: read rate, the fastest of products and sums over numbers in no cache on"
                f" {_threads(self.threads)} at most (spread of the sums {_spread(rows, 'read_memory')}); copies by"
                f" one thread (spread {_spread(rows, 'copy_memory')}). Capacity: the system's; latency not measured"
            ),
            "ssd": (
                f"measured on this machine: whole requests at random places of one file, by as many threads as requests"
                f" are active, page cache kept out by {self.method}; medians of {reads} repetitions, spread"
                f" {_spread(rows, 'read_file')}. The table holds the latency; the sequential rate is its highest point."
                " What caches are below the file system is not known. Writing was not measured and taken to be as fast"
            ),
            "drive": "not measured by itself: as fast as the fastest read",
        }


def platform_mapping(
    constants: Constants, sources: dict[str, str], memory_bytes: int, drive_bytes: int, remark: str = ""
) -> dict[str, Any]:
    """A platform of a cpu that computes from dram, with the experts on an ssd.

    sources: of the cpu, dram, ssd and of the drive's link; remark: what to know before trusting it.
    """
    fastest = max(point.bytes_per_s for point in constants.read_rates)
    return {
        "name": "this_machine",
        "description": "The machine that moesim calibrate local ran on; computes on the CPU, experts on its drive.",
        **({"remark": remark} if remark else {}),
        "workers": ["cpu"],
        "home": "ssd",
        "devices": {
            "cpu": {
                "kind": "cpu",
                "memory": "dram",
                "peak_flop_per_s": {"fp32": format_quantity(constants.peak_flop_per_s, "flop_per_s")},
                "launch_overhead_s": format_quantity(constants.launch_overhead_s, "s"),
                "compute_efficiency": _rounded(constants.compute_efficiency),
                "memory_efficiency": _rounded(constants.memory_efficiency),
                "origin": {"others": "measured"},
                "source": sources["cpu"],
            },
            "dram": {
                "kind": "dram",
                "memory_capacity_bytes": memory_bytes,
                "memory_read_bytes_per_s": format_quantity(constants.memory_read_bytes_per_s, "bytes_per_s"),
                "memory_efficiency": _rounded({"copy": constants.copy_efficiency}),
                "origin": {"others": "measured"},
                "source": sources["dram"],
            },
            "ssd": {
                "kind": "ssd",
                "memory_capacity_bytes": drive_bytes,
                "memory_read_bytes_per_s": format_quantity(fastest, "bytes_per_s"),
                "memory_efficiency": {"copy": 1.0},
                "origin": {"others": "measured"},
                "source": sources["ssd"],
                "read_bytes_per_s_table": [
                    {
                        "active_requests": point.active_requests,
                        "request_bytes": format_quantity(point.request_bytes, "bytes"),
                        "bytes_per_s": format_quantity(point.bytes_per_s, "bytes_per_s"),
                    }
                    for point in constants.read_rates
                ],
            },
        },
        "links": [
            {
                "name": "drive",
                "kind": "bus",
                "a": "dram",
                "b": "ssd",
                "bandwidth_bytes_per_s": format_quantity(fastest, "bytes_per_s"),
                "origin": {"others": "datasheet"},  # a limit: the drive's own rates are what was measured
                "source": sources["drive"],
            }
        ],
    }


def as_yaml(mapping: dict[str, Any]) -> str:
    """The text of a platform file."""
    return yaml.safe_dump(mapping, sort_keys=False, allow_unicode=True, width=118)


def usable_threads() -> int:
    """Processors for products: those this process may use but one, which is left to the reads."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, allowed - 1)


def processor_name(information: Path = Path("/proc/cpuinfo")) -> str:
    """What the processor calls itself."""
    if information.is_file():
        for line in information.read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown processor"


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _threads(count: int) -> str:
    return f"{count} thread" + "s" * (count != 1)


def _rounded(fractions: dict[str, float]) -> dict[str, float]:
    return {kind: float(f"{value:.4g}") for kind, value in fractions.items()}


def _spread(rows: Iterable[Row], benchmark: str) -> str:
    """Least to greatest spread of a benchmark's rows."""
    spreads = [row.spread for row in rows if row.benchmark == benchmark and not row.cached]
    low, high = (f"{100 * value:.0f}" for value in (min(spreads), max(spreads)))
    return f"{low} %" if low == high else f"{low} to {high} %"
