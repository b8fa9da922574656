"""Assembling experts of which several workers hold unequal slices, if the placement role asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from hwmodels import Platform
from hwmodels.operators import ACTIVATION_BYTES
from hwmodels.roofline import peak_flop_per_s
from simulator.model import ModelSpec
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.pipeline.base import PipelinePolicy
from simulator.policies.pipeline.expert_streaming import ExpertStreaming
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.placement.base import PlacementPolicy
from simulator.runtime.circulating import CirculatingCosts, CirculatingExchange
from simulator.runtime.exchange import Exchange
from simulator.runtime.ranks import Ranks
from simulator.runtime.slices import SliceCosts, SlicedExchange, Slices
from simulator.scenario import Scenario, ScenarioError


def make_slices(
    scenario: Scenario, ranks: Ranks, placement: PlacementPolicy, pipeline: PipelinePolicy, row_bytes: Sequence[int]
) -> Slices | None:
    """What the placement cuts; None if it deals whole experts, or there is one worker. Raises ScenarioError for what
    does not go with slices, and for shares that do not make up an expert."""
    streams = isinstance(pipeline, ExpertStreaming)
    if not (placement.slices or streams) or (len(ranks.places) == 1 and ranks.layout is None):
        return None
    system, model, platform = scenario.system, scenario.model, scenario.platform
    workers = len(ranks.places)
    name = f"policy/pipeline {type(pipeline).__name__}" if streams else f"policy/placement {type(placement).__name__}"
    needed = {
        "no layout": ranks.layout is None,
        "policy/pipeline=plain": streams or type(pipeline) is PlainPipeline,
        "policy/placement of whole experts": not (streams and placement.slices),
        "policy/execution=fetch": type(system.execution()) is FetchToGpu,
        "policy/precision=stored": len(system.precision().bits) == 1,
        "one instance": scenario.tenants.count == 1,
        "workers without kernel models (no `engine` in the platform)": not any(
            platform.device(p.name).engine for p in ranks.places
        ),
    }
    for expected, there in needed.items():
        if not there:
            raise ScenarioError(f"{name} cuts experts into slices; expected {expected}.")
    moves = move_over_run(model, platform, [place.name for place in ranks.places])
    width = model.expert_intermediate
    ends = []
    for layer in range(len(model.moe_layers)):
        even = np.full((model.experts, workers), 1 / workers)
        shares = even if streams else np.asarray(placement.shares(layer, workers, moves))
        if shares.shape != (model.experts, workers) or shares.min() < 0 or abs(shares.sum(axis=1) - 1).max() > 1e-6:
            raise ScenarioError(
                f"{name} divides the experts of layer {layer} over {workers} workers; expected shares"
                f" [{model.experts} experts, {workers}] of at least 0 that sum to 1 for each expert."
            )
        ends.append(np.rint(np.cumsum(shares, axis=1) * width).astype(np.int64))
    return Slices(np.diff(np.array(ends), axis=2, prepend=0), model, row_bytes)


def move_over_run(model: ModelSpec, platform: Platform, workers: Sequence[str]) -> float:
    """How long a token's hidden vector takes over the slowest link between workers, over how long an expert takes for a
    token at a worker's peak."""
    rates = [link.effective_bytes_per_s for worker in workers[1:] for link in platform.route(workers[0], worker)]
    work = model.expert_work(np.array([1.0]))
    run_s = float(work.flops[0]) / peak_flop_per_s(platform.device(workers[0]), work.dtype)
    return model.hidden * ACTIVATION_BYTES / min(rates) / run_s


def slice_costs(
    slices: Slices | None, rank: int, platform: Platform, pipeline: PipelinePolicy, exchange: Exchange | None
) -> SliceCosts | CirculatingCosts | None:
    """Those of one worker."""
    if slices is None:
        return None
    workers = platform.workers
    device = platform.device(workers[rank])
    if not isinstance(exchange, CirculatingExchange):
        return SliceCosts(slices, rank, device)
    assert isinstance(pipeline, ExpertStreaming)
    hops = [platform.route(worker, after) for worker, after in zip(workers, workers[1:] + workers[:1], strict=True)]
    rate = min(link.effective_bytes_per_s for hop in hops for link in hop)
    latency_s = max(sum(link.latency_s for link in hop) for hop in hops)
    return CirculatingCosts(slices, device, pipeline, exchange, (rate, latency_s))


def exchange_of(
    slices: Slices | None, pipeline: PipelinePolicy, otherwise: Callable[..., Exchange]
) -> Callable[..., Exchange]:
    """What makes the exchange of workers."""
    if slices is None:
        return otherwise
    return CirculatingExchange if isinstance(pipeline, ExpertStreaming) else partial(SlicedExchange, slices)
