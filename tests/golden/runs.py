"""The runs whose numbers are kept: real traces on shipped models and platforms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from hwmodels import Platform
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.cache.lfu import Lfu
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.result import Result
from tests.helpers import counts, real_trace, run, shipped, system

GIB = 2**30


@dataclass(frozen=True)
class Golden:
    """One kept run."""

    model: str
    platform: str
    trace: str
    workload: Workload
    settings: dict[str, Any] = field(default_factory=dict)
    roles: dict[str, Callable[[], Any]] = field(default_factory=dict)
    home: str | None = None

    def run(self) -> Result:
        """Simulate it."""
        platform = shipped("platform", self.platform)
        if self.home is not None:
            platform["home"] = self.home
        return run(
            ModelSpec.from_mapping(shipped("model", self.model)),
            real_trace(self.trace),
            Platform.from_mapping(platform),
            system(**self.roles),
            self.workload,
            **{"timeline": False, "workspace_bytes": 512 * 2**20, **self.settings},
        )


SHORT = Workload(requests=3, max_decode_tokens=40)
RUNS = {
    "gpt_oss_20b_on_rtx_3060_lru": Golden("gpt_oss_20b", "rtx_3060", "gpt_oss_20b", SHORT, {"cache_bytes": 4 * GIB}),
    "gpt_oss_20b_on_rtx_3060_transition": Golden(
        "gpt_oss_20b",
        "rtx_3060",
        "gpt_oss_20b",
        SHORT,
        {"cache_bytes": 4 * GIB},
        {"prediction": TransitionPrediction},
    ),
    "gpt_oss_20b_on_rtx_3060_from_ssd": Golden(
        "gpt_oss_20b",
        "rtx_3060",
        "gpt_oss_20b",
        SHORT,
        {"cache_bytes": 4 * GIB, "host_cache_bytes": 6 * GIB},
        {"prediction": TransitionPrediction},
        home="ssd",
    ),
    "gpt_oss_20b_on_two_rtx_3090_batch_of_4": Golden(
        "gpt_oss_20b",
        "two_rtx_3090",
        "gpt_oss_20b",
        Workload(requests=8, batch_size=4, max_decode_tokens=25),
        {"cache_bytes": 4 * GIB},
        {"prediction": TransitionPrediction},
    ),
    "qwen3_30b_a3b_on_oneplus_15r_lru": Golden(
        "qwen3_30b_a3b",
        "oneplus_15r",
        "qwen3_30b_a3b_phone",
        Workload(requests=1, max_decode_tokens=80),
        {"cache_bytes": 4000 * 2**20},
    ),
    "gemma_4_26b_a4b_on_oneplus_15r_lfu": Golden(
        "gemma_4_26b_a4b",
        "oneplus_15r",
        "gemma_4_26b_a4b_phone",
        Workload(requests=1, max_decode_tokens=80),
        {"cache_bytes": 3000 * 2**20},
        {"cache": Lfu},
    ),
}


def numbers(result: Result) -> dict[str, int]:
    """The integers that are kept."""
    records = result.records
    values = {
        "steps": len(records),
        "tokens": sum(record.tokens for record in records),
        "duration_ps": result.duration_ps,
        "prefill_ps": sum(record.end_ps - record.start_ps for record in records if record.prefill),
        **counts(result),
        "load_bytes": sum(record.load_bytes for record in records),
        "prefetch_bytes": sum(record.prefetch_bytes for record in records),
        "useful_prefetches": sum(record.useful_prefetches for record in records),
        "evictions": sum(tier.evictions for tier in result.run.tiers),
        "peak_bytes": sum(tier.peak_bytes() for tier in result.run.tiers),
    }
    values.update({f"requested_bytes {lane.name}": lane.requested_bytes for lane in result.run.fabric.lanes})
    values.update({f"attributed_ps {name}": value for name, value in result.attribution_ps.items()})
    return values
