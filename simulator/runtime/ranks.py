"""Which GPUs of a layout are simulated, and for which others each of them stands.

GPU j of a stage belongs to attention group j // tp, and holds slices of the experts of part j // moe_tp. GPUs of one
group and one part do the same thing at the same time, gcd(tp, moe_tp) of them. One *worker* is simulated for them: its
sizes are those of one GPU, and of a medium that k of them share it gets the k-th part.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from math import gcd

from hwmodels import Device, Platform
from simulator.layout import Layout
from simulator.layout_choice import LayoutChoice

NOT_ALIKE = "layout: GPUs that do the same are not attached alike, so that each of them is simulated"


@dataclass(frozen=True)
class Place:
    """What one simulated worker is: stage, attention group, part of the experts; `gpus` that do so, itself first."""

    stage: int
    group: int
    part: int
    gpus: tuple[str, ...]

    @property
    def name(self) -> str:
        """The GPU that is simulated."""
        return self.gpus[0]


@dataclass(frozen=True)
class Ranks:
    """The simulated workers in order, by stage; `each` stands for so many GPUs.

    groups: of requests; parts: of experts; weights: medium -> how many of a worker's GPUs use it at once; remark: what
    to know about it, or empty.
    """

    layout: Layout | None
    places: tuple[Place, ...]
    groups: int
    parts: int
    each: int = 1
    weights: dict[str, int] = field(default_factory=dict)
    remark: str = ""

    @classmethod
    def of(cls, choice: LayoutChoice, platform: Platform, experts: int) -> Ranks:
        """The workers of a layout on a platform. Raises ModelError for a layout that cannot be."""
        layout = choice.resolve(len(platform.workers), experts)
        if layout is None:
            alone = tuple(Place(0, rank, rank, (name,)) for rank, name in enumerate(platform.workers))
            return cls(None, alone, len(alone), len(alone))
        each = gcd(layout.tp, layout.moe_tp) if choice.mirrored else 1
        places = _places(layout, platform.workers, each)
        weights = _weights(layout, platform, places)
        if weights is None:
            return cls(
                layout, _places(layout, platform.workers, 1), layout.attention_dp, layout.moe_ep, remark=NOT_ALIKE
            )
        return cls(layout, places, layout.attention_dp, layout.moe_ep, each, weights if each > 1 else {})

    @property
    def stages(self) -> int:
        """Of a pipeline."""
        return self.layout.pp if self.layout is not None else 1

    @property
    def per_stage(self) -> int:
        """Workers of a stage."""
        return len(self.places) // self.stages

    @property
    def gpus(self) -> list[str]:
        """All GPUs that the figures are of."""
        return [name for place in self.places for name in place.gpus]

    def facts(self, tokens_per_s: float | None) -> dict[str, str | float | None]:
        """For a summary: the layout in words, GPUs that the figures are of, how many of them each simulated worker
        stands for, and what one GPU has of the throughput; nothing without a layout."""
        if self.layout is None:
            return {}
        per_gpu = tokens_per_s / len(self.gpus) if tokens_per_s is not None else None
        return {
            "layout": str(self.layout),
            "gpus": len(self.gpus),
            "gpus_per_worker": self.each,
            "tokens_per_s_per_gpu": per_gpu,
        }

    def worker_of(self, gpu: str) -> int | None:
        """The index of the worker that stands for a GPU."""
        return next((index for index, place in enumerate(self.places) if gpu in place.gpus), None)

    def stage_of(self, layer: int, layers: int) -> int:
        """The stage of a routed layer: equal shares, in order."""
        return layer * self.stages // layers

    def read_bandwidth(self, drive: Device) -> Callable[[int, int], float]:
        """Bytes/s that a worker's GPU gets from a drive with so many requests of a size under way, when all GPUs for
        which it stands have as many."""
        each = self.each
        return lambda active, size_bytes: drive.read_bandwidth(active * each, size_bytes) / each

    def ring(self, index: int) -> list[tuple[str, str, int]]:
        """From each GPU of a worker to the next one of its attention group: (from, to, worker that stands for it)."""
        assert self.layout is not None
        place = self.places[index]
        group = [p for p in self.places if (p.stage, p.group) == (place.stage, place.group)]
        names = [(name, self.places.index(p)) for p in group for name in p.gpus]
        after = {name: names[(position + 1) % len(names)] for position, (name, _) in enumerate(names)}
        return [(name, *after[name]) for name in place.gpus]


def _places(layout: Layout, workers: tuple[str, ...], each: int) -> tuple[Place, ...]:
    return tuple(
        Place(
            stage,
            first // layout.tp,
            first // layout.moe_tp,
            tuple(workers[stage * layout.gpus + first :][:each]),
        )
        for stage in range(layout.pp)
        for first in range(0, layout.gpus, each)
    )


def _weights(layout: Layout, platform: Platform, places: tuple[Place, ...]) -> dict[str, int] | None:
    """Medium -> how many GPUs of a worker use it; None if the GPUs of a worker are not attached alike."""
    weights: dict[str, int] = {}
    for place in places:
        devices = [replace(platform.device(gpu), name="", source="") for gpu in place.gpus]
        routes = [_home_media(platform, gpu) for gpu in place.gpus]
        used = Counter(name for route in routes for name in {name for name, _ in route})
        seen = [[(rate, used[name]) for name, rate in route] for route in routes]
        if any(device != devices[0] for device in devices) or any(route != seen[0] for route in seen):
            return None
        for name, count in used.items():
            if weights.setdefault(name, count) != count:
                return None
    if layout.tp > 1:
        ranks = Ranks(layout, places, layout.attention_dp, layout.moe_ep)
        for index in range(len(places)):
            peers = Counter(name for a, b, _ in ranks.ring(index) for name, _ in platform.media(a, b))
            for name, count in peers.items():
                weights.setdefault(name, count)
    return weights


def _home_media(platform: Platform, gpu: str) -> list[tuple[str, float]]:
    """What copies between the experts' home and a GPU occupy, both ways."""
    hops = platform.hops(platform.home, gpu)
    return [medium for a, b in hops for way in ((a, b), (b, a)) for medium in platform.media(*way)]
