"""A platform: devices, the links between them, and which of them run the model."""

import heapq
import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from omegaconf import MISSING

from hwmodels.datasheet import find_datasheet
from hwmodels.device import Device, Link, ReadRate, check_device, check_link
from hwmodels.efficiency import efficiency
from hwmodels.errors import PlatformError
from hwmodels.near_memory import check_near_its_memory, memory_bytes_per_s, near_units, with_peak
from hwmodels.repeated import repeated_devices, repeated_links
from hwmodels.strict import strict

if TYPE_CHECKING:
    import networkx as nx


@dataclass(frozen=True)
class _Fields:
    """The keys of a platform file."""

    name: str = MISSING
    devices: dict[str, Any] = MISSING
    workers: list[str] = MISSING
    home: str = MISSING
    links: list[Any] = field(default_factory=list)
    cpu: str = ""
    units: list[str] = field(default_factory=list)
    description: str = ""
    remark: str = ""


@dataclass(frozen=True)
class Platform:
    """Devices by name, links, and roles.

    workers     processors which run the model: GPUs, or the CPU of a phone
    home        memory (dram or ssd) where all expert weights lie at the start
    cpu         socket which may execute experts in place beside the workers, or None
    units       processors (ndp, cpu) which may run experts where a memory is, by name in a policy's split
    remark      what to know before trusting it, said with every result; empty if there is nothing

    >>> memory = {"memory_capacity_bytes": "64 GiB", "memory_read_bytes_per_s": "80 GB/s", "source": "made up"}
    >>> link = {"kind": "pcie", "a": "dram", "bandwidth_bytes_per_s": "32 GB/s", "source": "made up"}
    >>> devices = {
    ...     "gpu0": {"kind": "gpu", "peak_flop_per_s": {"bf16": "70 TFLOP/s"}, **memory},
    ...     "dram": {"kind": "dram", **memory},
    ...     "ssd": {"kind": "ssd", **memory},
    ... }
    >>> links = [{"name": "pcie0", "b": "gpu0", **link}, {"name": "nvme", "b": "ssd", **link}]
    >>> box = Platform.from_mapping(
    ...     {"name": "box", "workers": ["gpu0"], "home": "ssd", "devices": devices, "links": links}
    ... )
    >>> [link.name for link in box.route("ssd", "gpu0")]
    ['nvme', 'pcie0']
    >>> box.hops("ssd", "gpu0")
    [('ssd', 'dram'), ('dram', 'gpu0')]
    """

    name: str
    devices: dict[str, Device]
    links: tuple[Link, ...]
    workers: tuple[str, ...]
    home: str
    cpu: str | None
    description: str = ""
    units: tuple[str, ...] = ()
    remark: str = ""

    @classmethod
    def from_mapping(cls, mapping: Any, where: str = "platform") -> "Platform":
        """Reads a platform (a dict or an OmegaConf config, e.g. a file of experiments/conf/platform).

        Raises PlatformError: one sentence which names `where`, the field and what was expected.
        """
        fields = strict(_Fields, mapping, where, PlatformError)
        devices = _named_devices(repeated_devices(fields.devices, where), where)
        links = [strict(Link, link, where, PlatformError, at) for at, link in repeated_links(fields.links, where)]
        _check_links(links, devices, where)
        _check_roles(fields, devices, where)
        platform = cls(
            name=fields.name,
            devices={name: _with_memory(device, devices) for name, device in devices.items()},
            links=tuple(links),
            workers=tuple(fields.workers),
            home=fields.home,
            cpu=_host_cpu(fields, devices, where),
            description=fields.description,
            units=near_units(fields.units, devices, fields.workers, fields.home, where),
            remark=fields.remark,
        )
        for worker in platform.workers:
            try:
                platform.route(platform.home, worker)
            except PlatformError:
                ends = f"the worker '{worker}' with the home '{platform.home}'"
                raise PlatformError(f"{where}: field 'links' must connect {ends}.") from None
        return platform

    def _repr_html_(self) -> str:
        from hwmodels.drawing import platform_html

        return platform_html(self)

    @cached_property
    def graph(self) -> "nx.MultiGraph[str]":
        """Devices as nodes (attribute `device`), links as edges (key: name, attribute `link`)."""
        import networkx as nx

        graph: nx.MultiGraph[str] = nx.MultiGraph()
        for name, device in self.devices.items():
            graph.add_node(name, device=device)
        for link in self.links:
            graph.add_edge(link.a, link.b, key=link.name, link=link)
        return graph

    def device(self, name: str) -> Device:
        """The device of this name. Raises PlatformError if there is none."""
        if name not in self.devices:
            raise PlatformError(f"platform '{self.name}' has no device '{name}'; it has {', '.join(self.devices)}.")
        return self.devices[name]

    def memory_of(self, worker: str) -> Device:
        """The memory a processor computes from: its own, or for a cpu the one it names."""
        device = self.device(worker)
        return self.device(device.memory) if device.memory else device

    def route(self, src: str, dst: str) -> tuple[Link, ...]:
        """Links from one device's memory to another's: least latency, then fewest hops, then names.

        Empty if both are the same memory. Raises PlatformError if they are not connected.
        """
        start, end = self.memory_of(src).name, self.memory_of(dst).name
        if start == end:
            return ()
        if (start, end) not in self._routes:
            self._routes[start, end] = self._route(start, end)
        return self._routes[start, end]

    @cached_property
    def _links_of(self) -> dict[str, list[Link]]:
        """Device -> its links, in their order."""
        found: dict[str, list[Link]] = {name: [] for name in self.devices}
        for link in self.links:
            found[link.a].append(link)
            found[link.b].append(link)
        return found

    @cached_property
    def _routes(self) -> dict[tuple[str, str], tuple[Link, ...]]:
        return {}

    def _route(self, start: str, end: str) -> tuple[Link, ...]:
        """Dijkstra's algorithm; importing a library of graphs would take longer than a short run."""
        ahead: list[tuple[float, int, tuple[str, ...], str, tuple[Link, ...]]] = [(0.0, 0, (), start, ())]
        seen: set[str] = set()
        while ahead:
            latency_s, hops, names, place, route = heapq.heappop(ahead)
            if place == end:
                return route
            if place in seen:
                continue
            seen.add(place)
            for link in self._links_of.get(place, ()):
                onward = link.b if link.a == place else link.a
                if onward not in seen:
                    key = latency_s + link.latency_s, hops + 1, (*names, link.name)
                    heapq.heappush(ahead, (*key, onward, (*route, link)))
        raise PlatformError(f"platform '{self.name}' has no route from '{start}' to '{end}'.")

    def stops(self, src: str, dst: str) -> tuple[str, ...]:
        """Names of the devices along `route`, both ends included."""
        names = [self.memory_of(src).name]
        for link in self.route(src, dst):
            names.append(link.b if link.a == names[-1] else link.a)
        return tuple(names)

    def hops(self, src: str, worker: str) -> list[tuple[str, str]]:
        """The route split where bytes rest in DRAM: [("ssd", "dram"), ("dram", "gpu0")]; empty if at home."""
        stops = self.stops(src, worker)
        if len(stops) == 1:
            return []
        rests = [s for s in stops[1:-1] if self.devices[s].kind == "dram"]
        return list(itertools.pairwise([stops[0], *rests, stops[-1]]))

    def media(self, src: str, dst: str, pinned: bool = True) -> list[tuple[str, float]]:
        """Everything a copy occupies, with its achievable bytes per second, in order of travel.

        Links appear per direction ("pcie0:down" from `a` to `b`, else "pcie0:up"), memories of kind dram and
        ssd under their own name, with one capacity that reads and writes share; one that is slower to write appears a
        second time where the copy ends ("dram:write"). A GPU's own memory is much faster than its link and is left out.
        """
        stops = self.stops(src, dst)
        if len(stops) == 1:
            return []
        media = self._memory_medium(stops[0])
        for link, start, end in zip(self.route(src, dst), stops[:-1], stops[1:], strict=True):
            rate = link.effective_bytes_per_s if pinned else link.pageable_bytes_per_s
            media.append((f"{link.name}:{'down' if link.a == start else 'up'}", rate))
            media += self._memory_medium(end)
        last = self.devices[stops[-1]]
        if last.kind == "dram" and last.memory_write_bytes_per_s < last.memory_read_bytes_per_s:
            rate = last.memory_write_bytes_per_s * efficiency(last, "copy").memory
            media.append((f"{last.name}:write", rate))
        return media

    def copy_s(self, src: str, dst: str, size_bytes: int, active_requests: int = 1, pinned: bool = True) -> float:
        """Seconds of one copy that shares nothing: hop by hop the latencies of links and drive, then its bytes at the
        rate of the slowest medium. From a drive, the rate that `active_requests` of this size get together.

        Raises PlatformError if there is no route.
        """
        total = 0.0
        for start, end in self.hops(src, dst):
            source = self.memory_of(start)
            rates = dict(self.media(start, end, pinned))
            if source.read_bytes_per_s_table:
                rates[source.name] = source.read_bandwidth(active_requests, size_bytes)
            latency_s = sum(link.latency_s for link in self.route(start, end))
            total += latency_s + (source.memory_latency_s if source.kind == "ssd" else 0.0)
            total += size_bytes / min(rates.values())
        return total

    def _memory_medium(self, name: str) -> list[tuple[str, float]]:
        device = self.devices[name]
        if device.kind not in ("dram", "ssd"):
            return []
        return [(name, memory_bytes_per_s(device) * efficiency(device, "copy").memory)]


def _named_devices(devices: Mapping[str, Any], where: str) -> dict[str, Device]:
    named = {}
    for key, fields in devices.items():
        device = strict(Device, fields, where, PlatformError, f"devices.{key}")
        if device.name not in ("", key):
            raise PlatformError(f"{where}: field 'devices.{key}.name' must be '{key}' or left out.")
        at = f"devices.{key}.read_bytes_per_s_table"
        table = [
            strict(ReadRate, point, where, PlatformError, f"{at}[{index}]")
            for index, point in enumerate(device.read_bytes_per_s_table)
        ]
        device = with_peak(replace(device, name=key, read_bytes_per_s_table=table), f"{where}: field 'devices.{key}")
        named[key] = _with_datasheet(device, fields, where)
        check_device(named[key], where)
    for name, device in named.items():
        if device.kind == "cpu" and (device.memory not in named or named[device.memory].kind != "dram"):
            raise PlatformError(f"{where}: field 'devices.{name}.memory' must name a dram, got '{device.memory}'.")
        check_near_its_memory(device, named, where)
    return named


def _with_datasheet(device: Device, given: Mapping[str, Any], where: str) -> Device:
    """Fills in what the file leaves to the datasheet."""
    if not device.datasheet:
        return device
    sheet = find_datasheet(device.datasheet, f"{where}: field 'devices.{device.name}.datasheet'")
    keys = ("peak_flop_per_s", "memory_capacity_bytes", "memory_read_bytes_per_s")
    return replace(device, **{key: getattr(sheet, key) for key in keys if key not in given})


def _with_memory(device: Device, devices: Mapping[str, Device]) -> Device:
    """Fills in what follows: a cpu's memory from its dram, the write rate from the read rate."""
    memory = devices[device.memory] if device.memory else device
    shared = memory_bytes_per_s(memory) if device.kind == "ndp" else memory.memory_read_bytes_per_s
    read = device.memory_read_bytes_per_s or shared
    return replace(
        device,
        memory_capacity_bytes=device.memory_capacity_bytes or memory.memory_capacity_bytes,
        memory_read_bytes_per_s=read,
        memory_write_bytes_per_s=device.memory_write_bytes_per_s or memory.memory_write_bytes_per_s or read,
        memory_latency_s=device.memory_latency_s or memory.memory_latency_s,
    )


def _check_links(links: list[Link], devices: Mapping[str, Device], where: str) -> None:
    seen = set(devices)
    for link in links:
        check_link(link, where)
        if link.name in seen:
            raise PlatformError(f"{where}: field 'links.name' must be unique, '{link.name}' is taken.")
        seen.add(link.name)
        for end in ("a", "b"):
            if getattr(link, end) not in devices:
                at = f"field 'links.{link.name}.{end}'"
                raise PlatformError(f"{where}: {at} must name a device, got '{getattr(link, end)}'.")
        if link.a == link.b:
            raise PlatformError(f"{where}: field 'links.{link.name}.b' must be another device than '{link.a}'.")


def _check_roles(fields: _Fields, devices: Mapping[str, Device], where: str) -> None:
    if not fields.name.strip():
        raise PlatformError(f"{where}: field 'name' must not be empty.")
    if not fields.workers:
        raise PlatformError(f"{where}: field 'workers' must name at least one gpu or cpu.")
    if len(set(fields.workers)) != len(fields.workers):
        raise PlatformError(f"{where}: field 'workers' must not name a device twice.")
    for role, names, kinds in (
        ("workers", fields.workers, ("gpu", "cpu")),
        ("home", [fields.home], ("dram", "ssd")),
        ("cpu", [fields.cpu] if fields.cpu else [], ("cpu",)),
    ):
        for name in names:
            if name not in devices or devices[name].kind not in kinds:
                raise PlatformError(
                    f"{where}: field '{role}' must name a device of kind {' or '.join(kinds)}, got '{name}'."
                )


def _host_cpu(fields: _Fields, devices: Mapping[str, Device], where: str) -> str | None:
    if fields.cpu:
        return fields.cpu
    idle = [n for n, d in devices.items() if d.kind == "cpu" and n not in fields.workers]
    if len(idle) > 1:
        raise PlatformError(f"{where}: field 'cpu' must say which of {', '.join(idle)} may run experts.")
    return idle[0] if idle else None
