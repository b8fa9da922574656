"""Assembling what several GPUs of a run share: the task graph, messages, sums."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hwmodels.operators import ACTIVATION_BYTES
from simulator.batching.batcher import Batcher
from simulator.batching.in_turn import InTurn
from simulator.batching.layout_stretches import LayoutStretches, WorkerStretches
from simulator.batching.source import StepSource
from simulator.batching.staged import StagedBatcher
from simulator.engine import Clock, Fabric, Lane, to_ps
from simulator.policies.pipeline.base import PipelinePolicy, Task
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.scheduling.base import SchedulingPolicy
from simulator.runtime.collectives import CATEGORY, MESSAGES, Collectives, CollectiveTimes
from simulator.runtime.costs import DenseCosts, ExpertCosts
from simulator.runtime.exchange import Exchange
from simulator.runtime.layout_tasks import layout_tasks
from simulator.runtime.ranks import Ranks
from simulator.runtime.shares import Shares
from simulator.runtime.stages import Stages
from simulator.runtime.worker import Worker
from simulator.scenario import Scenario, ScenarioError

LaneMaker = Callable[[str, str, str, str], Lane]  # name, from, to, category


def check_layout(scenario: Scenario, ranks: Ranks) -> list[str]:
    """Refuse what a layout does not go with. Returns remarks. Raises ScenarioError."""
    layout, platform = ranks.layout, scenario.platform
    if layout is None:
        if scenario.settings.collectives is not None:
            raise ScenarioError(
                f"settings.collectives is {scenario.settings.collectives}, but there is no layout; expected one, such"
                " as layout.tp, or null."
            )
        return []
    if layout.pp > len(scenario.model.moe_layers):
        raise ScenarioError(
            f"layout.pp is {layout.pp}; expected at most the {len(scenario.model.moe_layers)} routed layers of"
            f" {scenario.model.name}."
        )
    if layout.moe_tp > ranks.each and platform.device(platform.home).kind == "ssd":
        raise ScenarioError(
            f"layout.moe_tp is {layout.moe_tp} and slices of an expert are loaded by several simulated GPUs; from the"
            f" ssd '{platform.home}' expected layout.moe_tp=1, or one that divides layout.tp."
        )
    remarks = [ranks.remark] if ranks.remark else []
    if ranks.each > 1:
        remarks.append(
            f"one GPU of {ranks.each} that do the same is simulated: tables show its steps, transfers and memory, the"
            f" summary the bytes of all {ranks.each}"
        )
    return remarks


def staged(policy: SchedulingPolicy, scenario: Scenario, ranks: Ranks) -> SchedulingPolicy:
    """Where requests come and go: a queue for each stage, so that all may be busy. Raises ScenarioError."""
    if policy.lockstep or ranks.stages == 1:
        return policy
    for field, value, expected in (
        ("policy.scheduling.preempt", policy.preempt, "recompute"),
        ("tenants.count", scenario.tenants.count, 1),
    ):
        if value != expected:
            raise ScenarioError(f"{field} is {value}; with layout.pp={ranks.stages} expected {expected}.")
    return InTurn(policy, ranks.stages, lambda request: request.order % ranks.stages)


def take_steps(
    workers: list[Worker], ranks: Ranks, batcher: Batcher | None, source: StepSource, exchange: Exchange | None
) -> None:
    """Let the stages of a pipeline be in different steps, if that is how they are batched."""
    if isinstance(batcher, StagedBatcher):
        assert exchange is not None
        exchange.staged = True
        stages = Stages(workers[0].clock, source, batcher, len(workers), ranks.per_stage)
        for worker in workers:
            worker.stages = stages


def task_graph(policy: PipelinePolicy, layers: int, ranks: Ranks) -> list[Task]:
    """The graph of a step: that of the policy, or with a layout its own. Raises ScenarioError if both are asked for."""
    if ranks.layout is None:
        return policy.tasks(layers, len(ranks.places))
    if type(policy) is not PlainPipeline:
        raise ScenarioError(f"policy/pipeline {type(policy).__name__} has no layouts; expected plain, or no layout.")
    return layout_tasks(layers, ranks)


def make_exchange(
    scenario: Scenario,
    ranks: Ranks,
    owners: np.ndarray,
    clock: Clock,
    fabric: Fabric,
    lane: LaneMaker,
    tasks: list[Task],
    make: Callable[..., Exchange] = Exchange,
) -> Exchange:
    """How workers meet, made by `make`. Lanes between all pairs of a stage, and from each stage to the next."""
    width, lanes = ranks.per_stage, {}
    for a, src in enumerate(ranks.places):
        for b, dst in enumerate(ranks.places):
            if src.stage == dst.stage and a != b:
                lanes[a, b] = lane(f"{src.name}->{dst.name}", src.name, dst.name, MESSAGES)
            elif a == b and ranks.each > 1:
                lanes[a, b] = lane(f"{src.name}->{src.gpus[1]}", src.name, src.gpus[1], MESSAGES)
            elif b == a + width:
                lanes[a, b] = lane(f"{src.name}->{dst.name}", src.name, dst.name, "pipeline")
    workers = {task.id: task.worker for task in tasks}
    hidden_bytes = scenario.model.hidden * ACTIVATION_BYTES
    return make(clock, fabric, ranks, owners, lanes, hidden_bytes, workers)


def collective_times(scenario: Scenario, ranks: Ranks, shares: Shares) -> CollectiveTimes | None:
    """Fitted durations of the sums of a layout; None where they are transfers on the links, or there is no layout."""
    layout, how = ranks.layout, scenario.settings.collectives
    device = scenario.platform.device(ranks.places[0].name)
    if layout is None or how == "links" or (how is None and not device.datasheet):
        return None
    return CollectiveTimes(layout, scenario.model, DenseCosts.of(shares.part, device).stretches, device)


def make_collectives(
    scenario: Scenario,
    ranks: Ranks,
    shares: Shares,
    index: int,
    times: CollectiveTimes | None,
    lane: LaneMaker,
    exchange: Exchange | None,
) -> Collectives | None:
    """Those of one worker; None without a layout. On the links its GPUs send to the next one of their attention group
    each: one transfer stands for them, over the slowest of these ways."""
    layout, platform = ranks.layout, scenario.platform
    if layout is None:
        return None
    way = None
    if times is None and layout.tp > 1:
        ways = [(src, dst) for src, dst, _ in ranks.ring(index)]

        def slowness(ends: tuple[str, str]) -> tuple[float, float]:
            rate = min(rate / ranks.weights.get(name, 1) for name, rate in platform.media(*ends))
            return -rate, sum(link.latency_s for link in platform.route(*ends))

        src, dst = max(ways, key=slowness)
        way = lane(f"ring {src}->{dst}", src, dst, CATEGORY)
    device = platform.device(ranks.places[index].name)
    stretches = DenseCosts.of(shares.part, device).stretches
    exchanged = scenario.settings.collectives == "calibrated"
    launch_ps = to_ps(device.launch_overhead_s)
    return Collectives(layout, scenario.model, stretches, times, way, launch_ps, exchange, exchanged)


def run_layout_ahead(
    scenario: Scenario,
    ranks: Ranks,
    shares: Shares,
    workers: Sequence[Worker],
    batcher: Batcher,
    owners: np.ndarray,
    experts: ExpertCosts,
    times: CollectiveTimes | None,
) -> None:
    """Let the workers of a layout take many steps at once where all that they send each other has a fitted duration,
    they are alike, and one model is served."""
    settings, platform = scenario.settings, scenario.platform
    fitted = ranks.groups == 1 or settings.collectives == "calibrated"
    if times is None or not fitted or ranks.stages > 1 or scenario.tenants.count > 1:
        return
    devices = [replace(platform.device(worker.name), name="", source="") for worker in workers]
    if any(device != devices[0] for device in devices):
        return
    dense = DenseCosts.of(shares.part, platform.device(workers[0].name))
    framework_ps, hidden_bytes = to_ps(settings.framework_layer_s), scenario.model.hidden * ACTIVATION_BYTES
    parts = (ranks, owners, dense, experts, times, framework_ps, hidden_bytes, settings.step_records)
    together = LayoutStretches(workers, batcher, *parts)
    for rank, worker in enumerate(workers):
        worker.stretches = WorkerStretches(together, rank)
