"""Small random scenarios: every policy, one or two GPUs, experts in DRAM or on an SSD, any rates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from hypothesis import strategies as st

from simulator.plan import Workload
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.fifo import Fifo
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.popularity import Popularity
from simulator.policies.cache.random_eviction import RandomEviction
from simulator.policies.cache.s3fifo import S3Fifo
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.placement.cold import ColdStart
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.lookahead import LookaheadPrediction
from simulator.policies.prediction.none import NoPrediction
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.prediction.popularity import PopularityPrediction
from simulator.policies.prediction.recall import RecallPrediction
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.policies.prefetch.none import NoPrefetch
from simulator.policies.slots.uniform import UniformSlots
from simulator.policies.slots.whole import GlobalSlots
from simulator.result import Result
from tests.helpers import EXPERT_BYTES, random_trace, run, system, tiny_model, tiny_phone, tiny_platform

CACHES = (Lru, Lfu, partial(Lfu, history=True), Fifo, S3Fifo, Popularity, RandomEviction, Belady)
STUBBORN = (
    partial(FetchAhead, cancel=False),
    partial(FetchAhead, promote=False),
    partial(FetchAhead, promote=False, cancel=False),
)
FLASH = ((1, 4096, 1e8), (1, 16384, 2e8), (4, 4096, 3e8), (4, 16384, 5e8))


@dataclass(frozen=True)
class Case:
    """A scenario as plain values, so that a failing example can be read. No workers: a phone."""

    shape: tuple[int, int, int]  # layers, experts, top_k
    trace: dict[str, Any]
    workers: int
    platform: dict[str, Any]
    roles: dict[str, Any]
    workload: Workload
    settings: dict[str, Any]

    def run(self, **settings: Any) -> Result:
        """A fresh run of it."""
        layers, experts, top_k = self.shape
        return run(
            tiny_model(layers, experts, top_k),
            random_trace(layers=layers, experts=experts, top_k=top_k, **self.trace),
            tiny_platform(self.workers, **self.platform) if self.workers else tiny_phone(**self.platform),
            system(**self.roles),
            self.workload,
            **{**self.settings, **settings},
        )


@st.composite
def cases(
    draw: Any,
    workers: tuple[int, ...] = (0, 1, 1, 2, 3),
    homes: tuple[str, ...] = ("dram", "dram", "ssd"),
    mixed_sizes: bool = True,
) -> Case:
    """Any scenario; `groups` larger than the cache, late prefetches and cancelled ones included."""

    def pick(*options: Any) -> Any:
        return draw(st.sampled_from(options))

    layers, experts, top_k = pick(1, 2, 3), pick(4, 6), pick(1, 2, 3)
    requests, count = pick(1, 2, 4), pick(*workers)
    home = pick(*homes) if count else "ssd"
    oracles = [partial(OraclePrediction, distance) for distance in range(1, layers + 1)]
    guessers = (NoPrediction, TransitionPrediction, PopularityPrediction, LookaheadPrediction)
    sizes = (EXPERT_BYTES,) * layers
    if mixed_sizes and pick(False, False, True):
        sizes = tuple(pick(EXPERT_BYTES, EXPERT_BYTES // 2, EXPERT_BYTES // 3) for _ in range(layers))
    slots = pick(GlobalSlots, GlobalSlots, UniformSlots)
    room = pick(1, 2, 3, 4, 6, 8, layers * experts)
    settings = {
        "cache_bytes": (max(room, layers * top_k) if slots is UniformSlots else room) * EXPERT_BYTES,
        "chunk_bytes": pick(1024, 4096, 5000, 1 << 20),
        "io_threads": pick(1, 2, 4),
        "seed": draw(st.integers(0, 100)),
    }
    if count and home == "ssd":
        settings["host_cache_bytes"] = pick(1, 3, layers * experts) * EXPERT_BYTES
    platform = {"launch_s": pick(0, 1e-6), "ssd_latency_s": pick(0, 2e-6, 8e-5), "ssd_table": pick((), FLASH)}
    if count:
        platform |= {
            "link_bytes_per_s": pick(1e8, 1e9, 1e10, 3e12),
            "link_latency_s": pick(0, 1e-6, 1e-5),
            "gpu_bytes_per_s": pick(1e9, 1e10, 1e12),
            "dram_bytes_per_s": pick(5e8, 4e9, 1e11),
            "home": home,
            "peer_latency_s": pick(0, 1e-6),
            "peer_bytes_per_s": pick(1e8, 1e12),
        }
    return Case(
        shape=(layers, experts, top_k),
        trace={
            "seed": draw(st.integers(0, 10**6)),
            "requests": requests + 1,  # one for policies that learn
            "tokens": pick(4, 6),
            "prompt": pick(0, 0, 3),
            "expert_bytes": sizes,
        },
        workers=count,
        platform=platform,
        roles={
            "cache": pick(*CACHES),
            "host_cache": pick(Lru, Fifo, Lfu),
            "slots": slots,
            "placement": pick(ColdStart, PopularFirst),
            "prediction": pick(*guessers, RecallPrediction, partial(RecallPrediction, 0.5), *oracles, *oracles),
            "prefetch": pick(FetchAhead, partial(FetchAhead, 2), *STUBBORN, NoPrefetch),
            "execution": pick(FetchToGpu, partial(CpuInPlace, pick(1, 2, 32))) if home == "dram" else FetchToGpu,
        },
        workload=Workload(requests=requests, batch_size=pick(1, requests)),
        settings=settings,
    )
