"""How good it could get on the same trace and machine.

*Physics*: all work at peak rates without launches, and every expert that is used and was not
resident at the start crosses the link once at its raw bandwidth; the larger of the two. *Clairvoyant
reference*: the calibrated costs, Belady's misses for the same budget, and a prefetcher that knows
the future and keeps the link busy from the first instant, in order of need, without lack of room.
For experts of one size no system that fetches every expert it runs can beat it: Belady's misses are
the fewest for every prefix of the trace. For mixed sizes it is a reference, not a bound. Where gating or
precision decide while the run goes on, or rows are padded to a capacity, only the dense work is sure: the physics
bound is that alone, and there is no reference.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

from hwmodels.roofline import peak_flop_per_s
from simulator.build import Run
from simulator.engine import PS_PER_S, seconds
from simulator.plan import Block
from simulator.policies import PolicyContext
from simulator.policies.cache.belady import Belady
from simulator.replay import access
from simulator.residency import RESIDENT, Partition, Tier
from simulator.runtime.costs import DenseCosts, ExpertCosts, Parts
from simulator.runtime.near_attention import NearAttention


@dataclass(frozen=True)
class Bounds:
    """Seconds. `*_duration_s` of the whole run, `*_tpot_s` per decode step after warm-up; None: not defined."""

    physics_duration_s: float | None
    physics_tpot_s: float | None
    reference_duration_s: float | None
    reference_tpot_s: float | None
    reference_hit_rate: float | None


def bounds(run: Run, warmup_batches: int) -> Bounds:
    """Physics bound, and the clairvoyant reference where it is defined.

    The reference needs one worker that fetches what it runs over one hop, and a budget that holds the
    experts of any one layer of a step. Where requests come and go, steps depend on time, and there is neither;
    nor where layers stream (simulator/streaming), as all weights do so and not experts alone.
    """
    if run.batcher is not None or not run.bounded:
        return Bounds(None, None, None, None, None)
    worker = run.workers[0]
    changed = worker.adapter is not None or run.padded  # what runs is not what the plan says, or not of one size
    helped = worker.uses_cpu or isinstance(worker.dense, NearAttention)
    alone = len(run.ranks.gpus) == 1 and run.host is None and not helped and not changed
    budget = sum({id(p): p.capacity_bytes for p in run.tiers[0].partitions}.values())
    largest = max(
        len(blobs) * size
        for step in run.plan
        for (blobs, _), size in zip(step.groups, run.layer_expert_bytes, strict=True)
    )
    with_reference = run.scenario.settings.reference and alone and largest <= budget
    physics = _Pass(run, ideal=True, belady=False, warmup_batches=warmup_batches)
    link_s = _link_floor_s(run) if not worker.uses_cpu and not changed else 0.0
    helpers = len(run.ranks.gpus) * (1.0 + (_helpers_share(run) if helped else 0.0))
    reference = _Pass(run, ideal=False, belady=True, warmup_batches=warmup_batches) if with_reference else None
    return Bounds(
        physics_duration_s=max(seconds(physics.end_ps) / helpers, link_s),
        physics_tpot_s=_mean_s(physics, helpers),
        reference_duration_s=seconds(reference.end_ps) if reference else None,
        reference_tpot_s=_mean_s(reference, 1.0) if reference else None,
        reference_hit_rate=reference.hits / max(1, reference.accesses) if reference else None,
    )


class _Pass:
    """One walk over the plan: compute alone (ideal), or compute against Belady's loads."""

    def __init__(self, run: Run, ideal: bool, belady: bool, warmup_batches: int) -> None:
        scenario, platform = run.scenario, run.scenario.platform
        device = platform.device(platform.workers[0])
        dense = DenseCosts.of(scenario.model, device, ideal)
        experts = ExpertCosts(scenario.model, run.layer_expert_bytes, device, ideal)
        alone_ps = functools.cache(experts.alone_ps)
        least_ps = functools.cache(experts.least_ps)
        tier = _belady_tier(run) if belady else None
        changed = run.workers[0].adapter is not None or run.padded
        lane = run.workers[0].loader.lane
        rates = [lane.best_rate_at(size) for size in run.layer_expert_bytes]
        alone = [size * PS_PER_S // rate for size, rate in zip(run.layer_expert_bytes, rates, strict=True)]
        t = flow_ps = served_ps = 0
        self.decode_ps = self.decode_steps = self.hits = self.accesses = 0
        block: Block | None = None
        table: list[tuple[Parts, ...]] = []
        for step in run.plan:
            begin = t
            if step.block is not block:
                block = step.block
                table = dense.table(block)
            row = table[step.row]
            for layer, (blobs, counts) in enumerate(step.groups):
                t += row[layer][0]
                if blobs and not changed:
                    served = counts or (1,) * len(blobs)
                    t += least_ps(layer, tuple(served))
                    last = min(served)
                if tier is not None:
                    tier.view.group += 1
                    hits, misses = access(tier, tier.partitions[layer], blobs)
                    self.hits += len(hits)
                    self.accesses += len(blobs)
                    if misses:
                        # not before the bytes have flowed, nor before the lane's slots have served every load
                        flow_ps += alone[layer] * len(misses)
                        served_ps += (lane.latency_ps + alone[layer]) * len(misses)
                        landed_ps = max(lane.latency_ps + flow_ps, served_ps // lane.width)
                        t = max(t, landed_ps + experts.launch_ps(layer) + alone_ps(layer, last))
            t += row[-1][0]
            if not step.prefill and step.batch >= warmup_batches:
                self.decode_ps += t - begin
                self.decode_steps += 1
        self.end_ps = t


def _mean_s(walk: _Pass, helpers: float) -> float | None:
    return seconds(walk.decode_ps) / walk.decode_steps / helpers if walk.decode_steps else None


def _belady_tier(run: Run) -> Tier:
    """A cache of the run's whole budget with Belady's policy and the run's initial contents."""
    sizes = run.tiers[0].sizes
    budget = sum({id(p): p.capacity_bytes for p in run.tiers[0].partitions}.values())
    layers = len(run.layer_expert_bytes)
    cache = Belady()
    cache.bind(
        PolicyContext(
            layers=layers,
            experts=len(sizes) // layers,
            top_k=run.scenario.trace.meta.top_k,
            size_bytes=sizes,
            capacity_bytes=budget,
            future=run.plan.groups,
        )
    )
    partition = Partition(budget, cache)
    tier = Tier("reference", sizes, [partition] * layers)
    for blob in run.initial:
        tier.occupy(partition, blob, RESIDENT)
    cache.on_insert(run.initial, tier.view)
    return tier


def _link_floor_s(run: Run) -> float:
    """Seconds to move every expert used, and not resident at the start, once over the raw links."""
    platform = run.scenario.platform
    used = {blob for step in run.plan for blobs, _ in step.groups for blob in blobs}
    size = sum(run.layer_expert_bytes[blob // run.scenario.model.experts] for blob in used.difference(run.initial))
    rate = 0.0
    for worker in platform.workers:
        links = [link.bandwidth_bytes_per_s for link in platform.route(platform.home, worker)]
        home = platform.device(platform.home)
        rate += min([*links, home.memory_read_bytes_per_s])
    return size / rate


def _helpers_share(run: Run) -> float:
    """What a host CPU that runs experts, and units near memory, add to a worker, as a fraction of it: bandwidth, of
    units the larger fraction of bandwidth and arithmetic."""
    platform = run.scenario.platform
    worker, share = platform.device(platform.workers[0]), 0.0
    if platform.cpu is not None:
        share = platform.memory_of(platform.cpu).memory_read_bytes_per_s / worker.memory_read_bytes_per_s
    dtype = run.scenario.model.dtype
    within = (worker.name, platform.home)
    for unit in (unit for unit in map(platform.device, platform.units) if unit.memory in within):
        peaks = peak_flop_per_s(unit, dtype) / peak_flop_per_s(worker, dtype)
        share += max(unit.memory_read_bytes_per_s / worker.memory_read_bytes_per_s, peaks)
    return share
