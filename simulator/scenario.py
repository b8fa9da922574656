"""What a run is a function of: (model, trace, workload, platform, system, seed)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hwmodels import Platform
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.attention.base import AttentionPolicy
from simulator.policies.attention.worker import OnWorker
from simulator.policies.cache.base import CachePolicy
from simulator.policies.execution.base import ExecutionPolicy
from simulator.policies.gating.base import GatingPolicy
from simulator.policies.gating.routed import AsRouted
from simulator.policies.pipeline.base import PipelinePolicy
from simulator.policies.placement.base import PlacementPolicy
from simulator.policies.precision.base import PrecisionPolicy
from simulator.policies.precision.stored import AsStored
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prefetch.base import PrefetchPolicy
from simulator.policies.scheduling.base import SchedulingPolicy
from simulator.policies.scheduling.lockstep import Lockstep
from simulator.policies.slots.base import SlotsPolicy
from simulator.pools.portion import Portion
from simulator.pools.spec import Pools
from simulator.tenants.spec import Tenants
from traces import Trace


class ScenarioError(ValueError):
    """Parts that do not go together; the message is one sentence."""


@dataclass(frozen=True)
class System:
    """The choice made in every role. Factories, as a run builds its own objects (one cache per partition)."""

    cache: Callable[[], CachePolicy]
    host_cache: Callable[[], CachePolicy]
    slots: Callable[[], SlotsPolicy]
    placement: Callable[[], PlacementPolicy]
    prediction: Callable[[], PredictionPolicy]
    prefetch: Callable[[], PrefetchPolicy]
    execution: Callable[[], ExecutionPolicy]
    pipeline: Callable[[], PipelinePolicy]
    gating: Callable[[], GatingPolicy] = AsRouted
    precision: Callable[[], PrecisionPolicy] = AsStored
    attention: Callable[[], AttentionPolicy] = OnWorker
    scheduling: Callable[[], SchedulingPolicy] = Lockstep
    name: str = "custom"

    def _repr_html_(self) -> str:
        from simulator.drawing import system_html

        return system_html(self)


@dataclass(frozen=True)
class Settings:
    """Sizes and switches of a run.

    cache_bytes: expert budget of each worker (None: what its memory leaves after dense weights,
    KV cache and workspace); host_cache_bytes: expert budget of host memory when home is an SSD
    (None: three quarters of it); workspace_bytes: activations and runtime, per worker; chunk_bytes:
    grain at which copies can be displaced or cancelled; io_threads: SSD reads at once; framework_layer_s: what
    the software around the kernels adds to every routed layer of a step; pinned: whether host
    memory is page-locked (else copies are staged, see Link.pageable_efficiency); seed: of
    every random draw; stepwise: an event for every operation (slow, same result); timeline: keep
    compute and transfers for a Chrome trace; timeline_requests: of how many requests, spread evenly over
    the run (None: of all); timeline_slices: about how many slices in all, so that the file stays some
    tens of MB (None: no limit); reference: compute the clairvoyant reference too; kv_page_tokens: grain of the
    KV cache where requests come and go; kv_cache_bytes: its size on each worker there (None: what memory leaves);
    step_records: keep a record of every step; if not, steps that are simulated together are kept as sums; collectives:
    how the GPUs of a layout sum and exchange activations: links (transfers, which share links with loads), calibrated
    (fitted models), or None (sums calibrated where the GPU names a datasheet, messages to experts as transfers);
    prefix_cache: keep the KV cache of prefixes that the request list names, for the requests that share them;
    carbon_g_per_kwh: of the grid, a number or a CSV with columns time_of_day_s and g_per_kwh (None: not asked for).
    """

    cache_bytes: int | None = None
    host_cache_bytes: int | None = None
    workspace_bytes: int = 512 * 2**20
    chunk_bytes: int = 2**20
    io_threads: int = 4
    framework_layer_s: float = 0.0
    pinned: bool = True
    seed: int = 0
    stepwise: bool = False
    timeline: bool = False
    timeline_requests: int | None = 4
    timeline_slices: int | None = 100_000
    reference: bool = True
    kv_page_tokens: int = 16
    kv_cache_bytes: int | None = None
    step_records: bool = True
    collectives: str | None = None
    prefix_cache: bool = False
    carbon_g_per_kwh: str | None = None

    def __post_init__(self) -> None:
        if self.collectives not in (None, "links", "calibrated"):
            raise ScenarioError(
                f"settings.collectives is '{self.collectives}'; expected links, calibrated, or null for the default."
            )
        for name in ("timeline_requests", "timeline_slices"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ScenarioError(f"settings.{name} is {value}; expected at least 1, or null for no limit.")


@dataclass(frozen=True)
class Scenario:
    """Everything a run depends on. `portion`: what it serves of the workload, where it is a replica of a pool."""

    model: ModelSpec
    trace: Trace
    platform: Platform
    system: System
    workload: Workload = field(default_factory=Workload)
    settings: Settings = field(default_factory=Settings)
    layout: LayoutChoice = field(default_factory=LayoutChoice)
    tenants: Tenants = field(default_factory=Tenants)
    pools: Pools | None = None
    portion: Portion | None = None


def check_fit(model: ModelSpec, trace: Trace) -> list[str]:
    """Refuse a trace that does not fit the model; return remarks about what differs but is accepted.

    Raises ScenarioError naming the first misfit.
    """
    meta = trace.meta
    where = f"the trace (of {meta.model}) does not fit the model {model.name}"
    if meta.num_experts != model.experts:
        raise ScenarioError(f"{where}: it has {meta.num_experts} experts per layer, the model {model.experts}.")
    if len(meta.layers) != len(model.moe_layers):
        raise ScenarioError(f"{where}: it has {len(meta.layers)} routed layers, the model {len(model.moe_layers)}.")
    remarks = []
    if meta.top_k != model.top_k:
        if meta.native_top_k != model.native_top_k or meta.top_k > model.top_k:
            raise ScenarioError(
                f"{where}: it has top-{meta.top_k} (native top-{meta.native_top_k}), the model top-{model.top_k}."
            )
        remarks.append(f"reduced top-k: the trace was recorded with {meta.top_k} of {meta.native_top_k} experts")
    if meta.source.startswith("synthetic"):
        remarks.append(f"synthetic trace: {meta.source.partition(': ')[2]}")
    if meta.expert_bytes is not None:
        mean = sum(meta.expert_bytes) / len(meta.expert_bytes)
        remarks.append(
            f"expert sizes as recorded in the trace: {mean:.0f} bytes on average"
            f" (the model file says {model.expert_bytes})"
        )
    return remarks
