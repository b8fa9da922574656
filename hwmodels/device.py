"""Devices and links: data, with their rules. Every number of a preset is accounted for in `source`."""

from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from omegaconf import MISSING

from hwmodels.errors import PlatformError
from hwmodels.near_memory import check_near_memory
from hwmodels.operators import KINDS
from hwmodels.protocol import check_protocol, payload_share

if TYPE_CHECKING:
    from hwmodels.kernel_times import KernelTimes

DEVICE_KINDS = ("gpu", "cpu", "ndp", "dram", "ssd", "switch")
LINK_KINDS = ("pcie", "cxl", "nvlink", "bus", "network")
ENGINES = ("VLLM", "TRTLLM")
ORIGINS = ("measured", "fitted", "datasheet", "published", "assumed")
DTYPES = ("fp32", "fp16", "bf16", "fp8", "int8", "fp4", "int4")
_REQUIRED = {
    "gpu": ("peak_flop_per_s", "memory_capacity_bytes", "memory_read_bytes_per_s"),
    "cpu": ("peak_flop_per_s", "memory"),
    "ndp": ("peak_flop_per_s", "memory"),
    "dram": ("memory_capacity_bytes", "memory_read_bytes_per_s"),
    "ssd": ("memory_capacity_bytes", "memory_read_bytes_per_s"),
    "switch": (),
}


@dataclass(frozen=True)
class ReadRate:
    """One measured point of a drive: `active_requests` at once, each of `request_bytes`."""

    request_bytes: int = MISSING
    active_requests: int = MISSING
    bytes_per_s: float = MISSING


@dataclass(frozen=True)
class Device:
    """A processor, a memory or a switch. Zero means: does not apply to this kind.

    peak_flop_per_s     dense operations per second by dtype (two per multiply-add)
    memory_*            the device's own memory; a cpu or ndp takes what it leaves out from the device in `memory`
    internal_bytes_per_s  of a memory: what all that compute from it get together, where that is more than its
                        `memory_read_bytes_per_s` (0: the same)
    regions             of a memory: parts that one processor at a time may read, the worker or units (0: no such parts)
    tier_bytes_per_s    of an ndp: rates of its path to equal parts of its memory, in the order in which they are filled
    macs, clock_hz      of an ndp, in place of peak_flop_per_s: multiply-adds per cycle, in 16 bits
    reuse_flop_per_byte of an ndp: operations on each byte that it reads, at most; its buffers are small (0: no limit)
    access_granularity_bytes  of an ndp: what it reads is rounded up to a multiple of this
    area_mm2            of an ndp: silicon that it adds; not used, shown
    data_pins, pin_rate_hz  of a gpu or dram: wires over which its memory gives what it gives inside, and transfers per
                        second on each, of one bit; not used, `moesim propose` holds the bandwidth against them
    cost_usd            what it costs; not used, shown
    launch_overhead_s   spent before each operation that no kernel model times
    cache_lookup_s      spent by a worker on the look-up of each layer in its expert cache
    cache_evict_s_per_byte  spent by a worker to give back the memory of evicted experts, per byte
    compute_efficiency, memory_efficiency
                        achievable fraction of peak by kind of operation, also "copy" for memory;
                        what is left out comes from hwmodels.efficiency
    datasheet           of a gpu: a preset of hwmodels/devices, or a file of one's own; gives the peaks, capacity and
                        bandwidth that are left out here
    kernel_scale        times of a kernel model (gemm, moe, attention_context, ...) are multiplied by this: a what-if
    draw                which draw of the fitted parameters' bootstrap to use; 0: the fitted ones themselves
    engine              of a gpu with a datasheet: VLLM or TRTLLM, whose fitted kernel models time GEMMs, experts and
                        attention (hwmodels.kernel_times); empty: fixed fractions of peak
    read_bytes_per_s_table  of an ssd: ReadRate points on a full grid, see `read_bandwidth`
    memory_technology, process  of hwmodels/energy.yaml: what moving a bit and an operation cost (hwmodels.energy)
    memory_read_pj_per_bit, memory_write_pj_per_bit, flop_pj
                        the same as numbers, the last one by dtype; zero: as the technology says
    source              where each number is from
    origin              field -> one of ORIGINS, "others" for the rest; what is not said counts as assumed
    """

    kind: str = MISSING
    source: str = MISSING
    name: str = ""
    peak_flop_per_s: dict[str, float] = field(default_factory=dict)
    memory: str = ""
    memory_capacity_bytes: int = 0
    memory_read_bytes_per_s: float = 0.0
    memory_write_bytes_per_s: float = 0.0
    memory_latency_s: float = 0.0
    memory_write_latency_s: float = 0.0
    internal_bytes_per_s: float = 0.0
    regions: int = 0
    tier_bytes_per_s: list[float] = field(default_factory=list)
    macs: int = 0
    clock_hz: float = 0.0
    reuse_flop_per_byte: float = 0.0
    access_granularity_bytes: int = 0
    area_mm2: float = 0.0
    data_pins: int = 0
    pin_rate_hz: float = 0.0
    cost_usd: float = 0.0
    launch_overhead_s: float = 0.0
    cache_lookup_s: float = 0.0
    cache_evict_s_per_byte: float = 0.0
    compute_efficiency: dict[str, float] = field(default_factory=dict)
    memory_efficiency: dict[str, float] = field(default_factory=dict)
    datasheet: str = ""
    engine: str = ""
    kernel_scale: dict[str, float] = field(default_factory=dict)
    draw: int = 0
    origin: dict[str, str] = field(default_factory=dict)
    read_bytes_per_s_table: list[Any] = field(default_factory=list)
    idle_power_w: float = 0.0
    tdp_w: float = 0.0
    memory_technology: str = ""
    process: str = ""
    memory_read_pj_per_bit: float = 0.0
    memory_write_pj_per_bit: float = 0.0
    flop_pj: dict[str, float] = field(default_factory=dict)

    @cached_property
    def kernels(self) -> "KernelTimes | None":
        """The kernel models of its engine on it; None without an engine."""
        from hwmodels.kernel_times import KernelTimes

        return KernelTimes(self) if self.engine else None

    def read_bandwidth(self, active_requests: float, request_bytes: float) -> float:
        """Bytes per second that this many concurrent requests of this size get together.

        Bilinear in log2 of both, clamped to the table's edges; without a table the sequential rate.
        """
        if not self.read_bytes_per_s_table:
            return self.memory_read_bytes_per_s
        grid = {(p.active_requests, p.request_bytes): p.bytes_per_s for p in self.read_bytes_per_s_table}
        actives = sorted({active for active, _ in grid})
        sizes = sorted({size for _, size in grid})
        x = np.log2(max(request_bytes, 1.0))
        rows = [np.interp(x, np.log2(sizes), [grid[a, s] for s in sizes]) for a in actives]
        return float(np.interp(np.log2(max(active_requests, 1.0)), np.log2(actives), rows))


@dataclass(frozen=True)
class Link:
    """A duplex link; `a` is the host's end. a to b is direction "down", b to a "up", each with the full
    bandwidth. `efficiency` is the fraction that large copies from pinned memory achieve, `pageable_efficiency` that of
    copies from pageable memory, which the driver stages (0: the same); `technology` of hwmodels/energy.yaml, or
    `pj_per_bit`, says what a bit costs that crosses it; `origin` as of a Device. `protocol` (pcie, cxl.io or cxl.mem),
    `flit_bytes` and `packet_bytes` say what headers take (hwmodels.protocol); `efficiency` comes on top."""

    name: str = MISSING
    kind: str = MISSING
    a: str = MISSING
    b: str = MISSING
    bandwidth_bytes_per_s: float = MISSING
    source: str = MISSING
    latency_s: float = 0.0
    efficiency: float = 1.0
    pageable_efficiency: float = 0.0
    technology: str = ""
    pj_per_bit: float = 0.0
    origin: dict[str, str] = field(default_factory=dict)
    protocol: str = ""
    flit_bytes: int = 0
    packet_bytes: int = 0

    @property
    def effective_bytes_per_s(self) -> float:
        """What large copies achieve in each direction."""
        return self.bandwidth_bytes_per_s * self.efficiency * self._payload

    @property
    def _payload(self) -> float:
        return payload_share(self.protocol, self.flit_bytes, self.packet_bytes)

    @property
    def pageable_bytes_per_s(self) -> float:
        """The same from or to host memory that is not page-locked."""
        return self.bandwidth_bytes_per_s * (self.pageable_efficiency or self.efficiency) * self._payload


def check_device(device: Device, where: str) -> None:
    """Raises PlatformError if a number is impossible or one that this kind needs is missing."""
    at = f"{where}: field 'devices.{device.name}"
    _one_of(device.kind, DEVICE_KINDS, f"{at}.kind'")
    _not_blank(device.source, f"{at}.source'")
    for key in _REQUIRED[device.kind]:
        if not getattr(device, key):
            missing = "" if key == "memory" else " and not zero"
            raise PlatformError(f"{at}.{key}' is required for a device of kind {device.kind}{missing}.")
    if device.memory and device.kind not in ("cpu", "ndp"):
        raise PlatformError(f"{at}.memory' is only for a cpu or ndp; a {device.kind} has its own.")
    check_near_memory(device, at)
    if device.memory_write_latency_s and device.kind != "gpu":
        raise PlatformError(f"{at}.memory_write_latency_s' is only for a gpu, not a {device.kind}.")
    if (device.data_pins or device.pin_rate_hz) and device.kind not in ("gpu", "dram"):
        raise PlatformError(f"{at}.data_pins' and 'pin_rate_hz' are only for a gpu or dram, not a {device.kind}.")
    if bool(device.data_pins) != bool(device.pin_rate_hz):
        raise PlatformError(f"{at}.data_pins' goes with pin_rate_hz; expected both or neither.")
    if device.read_bytes_per_s_table and device.kind != "ssd":
        raise PlatformError(f"{at}.read_bytes_per_s_table' is only for an ssd, not a {device.kind}.")
    if (device.datasheet or device.engine) and device.kind != "gpu":
        raise PlatformError(f"{at}.datasheet' and 'engine' are only for a gpu, not a {device.kind}.")
    if device.engine:
        _one_of(device.engine, ENGINES, f"{at}.engine'")
        if not device.datasheet:
            raise PlatformError(f"{at}.engine' needs a datasheet: its kernel models ask for SMs and caches.")
        for key in ("compute_efficiency", "memory_efficiency"):
            for kind in sorted({"gemm", "grouped_gemm", "attention"} & set(getattr(device, key))):
                raise PlatformError(f"{at}.{key}.{kind}' does nothing beside an engine; leave one of the two out.")
    for key in (
        "memory_capacity_bytes",
        "memory_read_bytes_per_s",
        "memory_write_bytes_per_s",
        "memory_latency_s",
        "memory_write_latency_s",
        "internal_bytes_per_s",
        "regions",
        "macs",
        "clock_hz",
        "reuse_flop_per_byte",
        "access_granularity_bytes",
        "area_mm2",
        "data_pins",
        "pin_rate_hz",
        "cost_usd",
        "launch_overhead_s",
        "cache_lookup_s",
        "cache_evict_s_per_byte",
        "idle_power_w",
        "tdp_w",
    ):
        if getattr(device, key) < 0:
            raise PlatformError(f"{at}.{key}' must not be negative, got {getattr(device, key)}.")
    if device.tdp_w and device.idle_power_w > device.tdp_w:
        raise PlatformError(f"{at}.idle_power_w' must not be above tdp_w ({device.tdp_w}).")
    for dtype, peak in device.peak_flop_per_s.items():
        _one_of(dtype, DTYPES, f"{at}.peak_flop_per_s'")
        if peak <= 0:
            raise PlatformError(f"{at}.peak_flop_per_s.{dtype}' must be above zero, got {peak}.")
    for key in ("compute_efficiency", "memory_efficiency"):
        for kind, factor in getattr(device, key).items():
            _one_of(kind, (*KINDS, "copy") if key == "memory_efficiency" else KINDS, f"{at}.{key}'")
            _fraction(factor, f"{at}.{key}.{kind}'")
    for dtype in device.flop_pj:
        _one_of(dtype, DTYPES, f"{at}.flop_pj'")
    _check_energy(device, at)
    if device.draw < 0:
        raise PlatformError(f"{at}.draw' must not be negative, got {device.draw}.")
    for name, factor in device.kernel_scale.items():
        _one_of(name, _kernel_names(), f"{at}.kernel_scale'")
        if not device.engine or factor <= 0:
            raise PlatformError(f"{at}.kernel_scale.{name}' must be above zero, on a gpu with an engine; got {factor}.")
    _check_origin(device, at)
    _check_table(device.read_bytes_per_s_table, f"{at}.read_bytes_per_s_table'")


def _check_table(table: list[ReadRate], at: str) -> None:
    if any(p.request_bytes <= 0 or p.active_requests <= 0 or p.bytes_per_s <= 0 for p in table):
        raise PlatformError(f"{at} must hold only numbers above zero.")
    points = {(p.active_requests, p.request_bytes) for p in table}
    grid = {(a, s) for a, _ in points for _, s in points}
    if len(points) != len(table) or points != grid:
        raise PlatformError(f"{at} must give each pair of active_requests and request_bytes exactly once.")


def check_link(link: Link, where: str) -> None:
    """Raises PlatformError if a field of the link is impossible."""
    at = f"{where}: field 'links.{link.name}"
    _not_blank(link.name, f"{where}: field 'links.name'")
    _not_blank(link.source, f"{at}.source'")
    _one_of(link.kind, LINK_KINDS, f"{at}.kind'")
    if link.bandwidth_bytes_per_s <= 0:
        raise PlatformError(f"{at}.bandwidth_bytes_per_s' must be above zero, got {link.bandwidth_bytes_per_s}.")
    if link.latency_s < 0:
        raise PlatformError(f"{at}.latency_s' must not be negative, got {link.latency_s}.")
    _fraction(link.efficiency, f"{at}.efficiency'")
    if link.pageable_efficiency:
        _fraction(link.pageable_efficiency, f"{at}.pageable_efficiency'")
    _check_energy(link, at)
    check_protocol(link.protocol, link.flit_bytes, link.packet_bytes, at)
    _check_origin(link, at)


def _check_energy(thing: Device | Link, at: str) -> None:
    from hwmodels.energy import check_energy

    check_energy(thing, at)


def _kernel_names() -> tuple[str, ...]:
    from hwmodels.kernels import kernels

    return tuple(kernels())


def _check_origin(thing: Device | Link, at: str) -> None:
    names = ("others", *(item.name for item in fields(thing)))
    for name, origin in thing.origin.items():
        if name not in names:
            raise PlatformError(f"{at}.origin' must name fields, or 'others' for the rest; got '{name}'.")
        _one_of(origin, ORIGINS, f"{at}.origin.{name}'")


def _one_of(value: str, allowed: tuple[str, ...], at: str) -> None:
    if value not in allowed:
        raise PlatformError(f"{at} must be one of {', '.join(allowed)}, got '{value}'.")


def _not_blank(value: str, at: str) -> None:
    if not value.strip():
        raise PlatformError(f"{at} must not be empty.")


def _fraction(value: float, at: str) -> None:
    if not 0 < value <= 1:
        raise PlatformError(f"{at} must be above 0 and at most 1, got {value}.")
