"""Lanes over the media of a platform, each made when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable

from simulator.engine import Fabric, Lane, Medium, to_ps
from simulator.runtime.ranks import Ranks
from simulator.scenario import Scenario, ScenarioError


class Wiring:
    """What joins the devices of a run: `media` by name, and lanes, whose `ends` are (from, to) by name.

    Transfers that are not urgent move in `chunk_bytes`. A medium that GPUs which do the same share has the part of one.
    """

    def __init__(self, scenario: Scenario, ranks: Ranks, fabric: Fabric, chunk_bytes: int) -> None:
        self.fabric = fabric
        self.media: dict[str, Medium] = {}
        self.ends: dict[str, tuple[str, str]] = {}
        self._scenario, self._platform, self._ranks, self._chunk_bytes = scenario, scenario.platform, ranks, chunk_bytes

    def media_between(self, src: str, dst: str) -> list[Medium]:
        """The media that a copy crosses."""
        found = []
        for name, rate in self._platform.media(src, dst, self._scenario.settings.pinned):
            if name not in self.media:
                device = self._platform.devices.get(name)
                table: Callable[[int, int], float] | None = None
                if device is not None and device.read_bytes_per_s_table:
                    table = self._ranks.read_bandwidth(device)
                weight = self._ranks.weights.get(name, 1)
                self.media[name] = self.fabric.add_medium(Medium(name, rate / weight, table))
            found.append(self.media[name])
        return found

    def latency_ps(self, src: str, dst: str) -> int:
        """What a copy waits before its bytes flow: the links, and a drive it reads from."""
        links = sum(link.latency_s for link in self._platform.route(src, dst))
        source = self._platform.device(src)
        return to_ps(links + (source.memory_latency_s if source.kind == "ssd" else 0.0))

    def lane(self, name: str, src: str, dst: str, category: str, width: int = 1) -> Lane:
        """The lane of this name; its time is attributed to `category`."""
        for lane in self.fabric.lanes:
            if lane.name == name:
                return lane
        self.ends[name] = (src, dst)
        media, latency_ps = self.media_between(src, dst), self.latency_ps(src, dst)
        return self.fabric.add_lane(Lane(name, media, latency_ps, self._chunk_bytes, width, category))

    def hop(self, src: str, dst: str) -> Lane:
        """The lane of one hop of a load: I/O threads of a drive, or a copy engine."""
        if self._platform.device(src).kind == "ssd":
            return self.lane(f"{src}->{dst}", src, dst, "ssd", self._scenario.settings.io_threads)
        kinds = [link.kind for link in self._platform.route(src, dst)]
        return self.lane(f"{src}->{dst}", src, dst, kinds[-1])

    def swap(self, worker: str) -> Lane:
        """The lane that carries KV cache from a worker to host memory. Raises ScenarioError if there is none."""
        platform = self._platform
        own = platform.memory_of(worker).name
        hosts = [name for name, device in platform.devices.items() if device.kind == "dram" and name != own]
        if not hosts:
            raise ScenarioError(
                f"policy.scheduling.preempt is swap, but platform {platform.name} has no host memory beside that of"
                f" {worker}; expected recompute."
            )
        kind = platform.route(worker, hosts[0])[-1].kind
        return self.lane(f"{worker}->{hosts[0]}", worker, hosts[0], kind)

    def host_cpu(self, launch_ps: int) -> Lane:
        """The lane of experts that the host CPU runs where they lie; copies to workers read the same memory."""
        platform = self._platform
        assert platform.cpu is not None
        name = f"{platform.cpu} experts"
        lane = next((lane for lane in self.fabric.lanes if lane.name == name), None)
        if lane is None:
            dram = platform.memory_of(platform.cpu).name
            lane = self.fabric.add_lane(Lane(name, [self.media[dram]], launch_ps, category="cpu"))
        return lane
