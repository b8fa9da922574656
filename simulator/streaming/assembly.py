"""Assembling a run in which layers stream through one GPU: lanes, memories and the worker."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from simulator.engine import Lane, to_ps
from simulator.policies.pipeline.micro_batches import MicroBatches
from simulator.policies.pipeline.stream_graph import Stream
from simulator.policies.precision.stored import AsStored
from simulator.residency import Partition, Tier
from simulator.runtime.recorder import Recorder
from simulator.scenario import ScenarioError
from simulator.streaming.costs import MicroBatchCosts
from simulator.streaming.memory import Rooms
from simulator.streaming.planner import Machine, Plan, search
from simulator.streaming.worker import StreamingWorker

if TYPE_CHECKING:
    from simulator.build import Run, _Builder

NAME = "policy/pipeline=micro_batches"


@dataclass(frozen=True)
class _Lengths:
    """Of the requests served, in tokens: the longest prompt that is processed (0: none), context at the end, batch, and
    what the requests of the largest batch hold at their ends."""

    prompt: int
    context: int
    decode: int
    batch: int
    held: list[list[int]]


def assemble(builder: _Builder, pipeline: MicroBatches) -> Run:
    """A run of `pipeline` on the scenario of a builder. Raises ScenarioError, one sentence each."""
    from simulator.build import Memory, Run

    scenario = builder.scenario
    model, platform, settings = scenario.model, scenario.platform, scenario.settings
    worker, host = _check(builder, pipeline)
    device = platform.device(worker)
    cpu = platform.device(platform.cpu) if pipeline.on_cpu and platform.cpu is not None else None
    try:
        costs = MicroBatchCosts(model, builder.layer_bytes, device, cpu)
    except ValueError as error:
        raise ScenarioError(str(error)) from None
    lengths = _lengths(builder)
    machine = Machine.of(costs, platform, worker, settings, builder.layer_bytes)
    micro_batch = pipeline.micro_batch
    if micro_batch is None:
        known = {"requests": lengths.batch, "context": lengths.context}
        try:
            best = search(machine, pipeline, lengths.prompt, max(1, lengths.decode), **known)
        except ValueError as error:
            raise ScenarioError(str(error)) from None
        micro_batch = best.micro_batch
        builder.remarks.append(
            f"{NAME} planned micro-batches of {micro_batch} of {lengths.batch} requests, for {best.tokens_per_s:.3g}"
            " tokens/s by its roofline (policy.pipeline.micro_batch)"
        )
    micro_batch = min(micro_batch, lengths.batch)
    plan = machine.resident(pipeline, micro_batch, lengths.prompt, lengths.context)
    rooms = _rooms(builder, pipeline, machine, plan, micro_batch)
    tier = _tier(worker, builder.sizes, rooms.expert_bytes_on_gpu(), len(builder.layer_bytes), builder)
    held = _held(builder, rooms, machine, lengths, host)
    lanes = _lanes(builder, pipeline, worker, host, costs)
    if settings.timeline:
        served, batch_size = len(builder.plan.indices), scenario.workload.batch_size
        builder.recorder = Recorder(settings, served, batch_size, model.experts, None, builder.remarks)
        builder.fabric.log = builder.recorder.log
    source, _ = builder._steps([])
    route = platform.route(host, worker)
    streaming = StreamingWorker(
        builder.clock,
        builder.fabric,
        name=worker,
        memory_name="hbm",
        lanes=lanes,
        source=source,
        pipeline=pipeline,
        micro_batch=micro_batch,
        costs=costs,
        rooms=rooms,
        tier=tier,
        framework_ps=to_ps(settings.framework_layer_s),
        kv_bytes_per_s=int(min(link.pageable_bytes_per_s for link in route)) if pipeline.pageable_kv else None,
        recorder=builder.recorder,
    )
    memory = Memory(
        worker,
        platform.memory_of(worker).memory_capacity_bytes,
        rooms.dense_bytes_on_gpu(),
        plan.kv_bytes,
        settings.workspace_bytes + plan.activation_bytes,
        rooms.expert_bytes_on_gpu(),
    )
    return Run(
        scenario=scenario,
        clock=builder.clock,
        fabric=builder.fabric,
        plan=builder.silent,
        workers=[streaming],  # type: ignore[list-item]  # as a Worker to all that reads a finished run
        tiers=[tier],
        memories=[memory],
        host=_tier(host, builder.sizes, held, len(builder.layer_bytes), builder),
        layer_expert_bytes=builder.layer_bytes,
        remarks=builder.remarks,
        recorder=builder.recorder,
        ranks=builder.ranks,
        bounded=False,
    )


def _check(builder: _Builder, pipeline: MicroBatches) -> tuple[str, str]:
    """The worker and the host memory. Raises ScenarioError for what does not go together with streamed layers."""
    platform = builder.scenario.platform
    if len(builder.workers) > 1:
        raise ScenarioError(f"{NAME} needs a platform of one worker; {platform.name} has {len(builder.workers)}.")
    if len(builder.ranks.gpus) > 1:
        raise ScenarioError(f"{NAME} runs on one GPU; the layout has {len(builder.ranks.gpus)}.")
    if not builder.scheduling.lockstep:
        raise ScenarioError(f"{NAME} runs batches to their end; expected policy/scheduling=lockstep.")
    if builder.gating.chooses or not isinstance(builder.precision, AsStored) or builder.hosted:
        raise ScenarioError(
            f"{NAME} streams whole layers as they are stored; expected policy/gating that does not choose while the run"
            " goes on, policy/precision=stored and policy/attention=worker."
        )
    worker = builder.workers[0]
    if platform.device(worker).kind != "gpu" or (pipeline.on_cpu and platform.cpu is None):
        raise ScenarioError(f"{NAME} needs a GPU, and a host CPU beside the worker; platform {platform.name} has none.")
    home = platform.device(platform.home)
    if home.kind != "dram" or len(platform.hops(platform.home, worker)) != 1:
        raise ScenarioError(
            f"{NAME} needs platform.home to be the host's dram; it is '{home.name}' on {platform.name}."
        )
    return worker, home.name


def _lengths(builder: _Builder) -> _Lengths:
    plan, workload = builder.silent, builder.scenario.workload
    prompts = [
        request.prompt_rows if request.routed_prompt_tokens else request.prompt_tokens
        for request in plan.served
        if request.routed_prompt_tokens or workload.synthetic_prefill
    ]
    held = plan.context_limits()
    return _Lengths(
        prompt=max(prompts, default=0),
        context=max(max(batch) for batch in held),
        decode=max(request.decode_tokens for request in plan.served),
        batch=max(len(batch) for batch in held),
        held=held,
    )


def _rooms(builder: _Builder, pipeline: MicroBatches, machine: Machine, plan: Plan, micro_batch: int) -> Rooms:
    share = plan.resident
    if share < 0:
        raise ScenarioError(
            f"micro-batches of {micro_batch} (policy.pipeline.micro_batch) take {_gib(plan.activation_bytes)} of"
            f" activations and {_gib(plan.kv_bytes)} of KV cache, and two layers {_gib(plan.buffer_bytes)}; expected"
            f" them to fit the {_gib(machine.room_bytes)} of {builder.workers[0]} on {builder.scenario.platform.name}."
        )
    if pipeline.resident_weights is not None:
        if pipeline.resident_weights > share:
            raise ScenarioError(
                f"policy.pipeline.resident_weights is {pipeline.resident_weights}; expected at most {share:.4f}, for"
                f" which {builder.workers[0]} has room."
            )
        share = pipeline.resident_weights
    return Rooms(machine.dense, machine.experts, machine.fixed, share)


def _held(builder: _Builder, rooms: Rooms, machine: Machine, lengths: _Lengths, host: str) -> int:
    """Bytes that the host holds: all weights, the KV cache of the largest batch, page-locked buffers."""
    capacity = builder.scenario.platform.device(host).memory_capacity_bytes
    kv = max(sum(builder.scenario.model.kv_bytes(length) for length in batch) for batch in lengths.held)
    weights = machine.fixed + sum(rooms.dense) + sum(rooms.experts)
    if weights + kv > capacity:
        raise ScenarioError(
            f"{_gib(weights)} of weights and {_gib(kv)} of KV cache of a batch of {lengths.batch} requests"
            f" (workload.batch_size) do not fit the {_gib(capacity)} of {host}."
        )
    return weights + kv


def _tier(name: str, sizes: list[int], used_bytes: int, layers: int, builder: _Builder) -> Tier:
    """A memory of which so much is taken from the start."""
    partition = Partition(used_bytes, builder.scenario.system.cache())
    partition.reserve(used_bytes)
    return Tier(name, sizes, [partition] * layers, layers)


def _lanes(
    builder: _Builder, pipeline: MicroBatches, worker: str, host: str, costs: MicroBatchCosts
) -> list[Lane | None]:
    """By stream; the GPU itself has none."""
    lanes: list[Lane | None] = [None] * len(Stream)
    lanes[Stream.TO_GPU] = builder.wiring.hop(host, worker)
    lanes[Stream.TO_HOST] = builder.wiring.hop(worker, host)
    dram = builder.wiring.media[host]
    if pipeline.on_cpu:
        lanes[Stream.CPU] = builder.fabric.add_lane(
            Lane(f"{builder.scenario.platform.cpu} attention", [dram], 0, category="cpu")
        )
    if pipeline.staged:
        lanes[Stream.STAGING] = builder.fabric.add_lane(Lane(f"{host} staging", [dram], 0, category="staging"))
    return lanes


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
