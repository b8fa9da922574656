"""Assembling a run: platform -> lanes and media, memories -> tiers, roles -> workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from hwmodels.device import Device
from hwmodels.operators import ACTIVATION_BYTES
from simulator.batching.batcher import Batcher
from simulator.batching.pages import KvPages
from simulator.batching.prefixes import PrefixPages
from simulator.batching.room import check, kv_room
from simulator.batching.source import PlannedSteps, StepSource
from simulator.batching.staged import StagedBatcher
from simulator.batching.stretches import Stretches
from simulator.build_dispatch import (
    dispatched_costs,
    dispatched_source,
    dispatched_steps,
    make_dispatch,
    reserved_bytes,
)
from simulator.build_lanes import Wiring
from simulator.build_layout import (
    check_layout,
    collective_times,
    make_collectives,
    make_exchange,
    run_layout_ahead,
    staged,
    take_steps,
    task_graph,
)
from simulator.build_near import check_units, decode_unit, make_units
from simulator.build_slices import exchange_of, make_slices, slice_costs
from simulator.energy.carbon import read_intensity
from simulator.engine import Clock, Fabric, to_ps
from simulator.plan import Plan, Step
from simulator.policies import PolicyContext
from simulator.policies.base import component_seed, unheard_hook
from simulator.policies.cache.base import CachePolicy
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.pipeline.base import Task
from simulator.policies.pipeline.micro_batches import MicroBatches
from simulator.policies.precision.stored import AsStored
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prediction.none import NoPrediction
from simulator.policies.slots.base import SlotsPolicy
from simulator.residency import RESIDENT, Partition, Tier
from simulator.routing import PARTS, Routing
from simulator.runtime.adapt import Adapter
from simulator.runtime.costs import DenseCosts, DenseTable, ExpertCosts, HostedDense
from simulator.runtime.cpu import CpuExperts
from simulator.runtime.exchange import Exchange, owned
from simulator.runtime.loader import Loader, StagedLoader
from simulator.runtime.loop_order import make_loop_order
from simulator.runtime.near_attention import NearAttention
from simulator.runtime.processed import Processed
from simulator.runtime.ranks import Ranks
from simulator.runtime.recorder import Recorder
from simulator.runtime.shares import Shares
from simulator.runtime.slow_writes import SlowWrites, writes_slower
from simulator.runtime.worker import Worker
from simulator.scenario import Scenario, ScenarioError, check_fit
from simulator.streaming.assembly import assemble
from simulator.tasks import tasks_by_request, training_tasks
from simulator.tenants.dense import InstanceCosts
from simulator.tenants.forecasts import OwnForecasts
from simulator.tenants.gating import OwnExperts
from simulator.tenants.serve import serve_instances
from simulator.unrecorded import remarks
from traces import RequestTrace

HOST_SHARE = 0.75  # of host memory for experts when home is an SSD; the rest is the system's (assumed)
NOTHING_TO_LEARN = (
    "a policy learns from the requests that are not served, but all are: it ranks experts by number;"
    " lower workload.requests to leave it some"
)


@dataclass
class Memory:
    """The ledger of one memory, in bytes: what is fixed, what the context takes, what experts may take."""

    device: str
    capacity_bytes: int
    dense_bytes: int
    kv_bytes: int
    workspace_bytes: int
    cache_bytes: int


@dataclass
class Run:
    """A run, ready to start."""

    scenario: Scenario
    clock: Clock
    fabric: Fabric
    plan: Plan
    workers: list[Worker]
    tiers: list[Tier]
    memories: list[Memory]
    host: Tier | None
    layer_expert_bytes: list[int]
    remarks: list[str]
    recorder: Recorder | None
    ranks: Ranks
    initial: list[int] = field(default_factory=list)
    lane_ends: dict[str, tuple[str, str]] = field(default_factory=dict)  # of lanes that copy: from and to which device
    batcher: Batcher | None = None
    bounded: bool = True  # whether there is a physics bound, and perhaps a reference
    padded: bool = False  # experts run rows that no token was routed to, and may drop some that were


def build(scenario: Scenario, progress: Callable[[int], None] | None = None) -> Run:
    """Check that the parts go together and build the run.

    `progress(tokens)` is called as steps are issued, with the tokens of each. Raises ScenarioError,
    PlanError, PlatformError or ModelError, one sentence each, before any event.
    """
    return _Builder(scenario, progress).run()


class _Builder:
    def __init__(self, scenario: Scenario, progress: Callable[[int], None] | None) -> None:
        self.scenario = scenario
        self.progress = progress
        model, trace, settings = scenario.model, scenario.trace, scenario.settings
        self.remarks = check_fit(model, trace)
        self.scheduling, self.identity = serve_instances(scenario, self.remarks)
        self.pool = model if self.identity is None else replace(model, experts=self.identity.pool)  # as memory sees it
        layers = len(model.moe_layers)
        recorded = trace.meta.expert_bytes
        self.whole_bytes = list(recorded) if recorded is not None else [model.expert_bytes] * layers
        self.ranks = Ranks.of(scenario.layout, scenario.platform, self.pool.experts)
        self.scheduling = staged(self.scheduling, scenario, self.ranks)
        system = scenario.system
        self.precision, self.gating, self.attention = system.precision(), system.gating(), system.attention()
        self.pipeline = system.pipeline()
        self.hosted: set[int] = set()  # layers whose dense part is the host's; known once policies are bound
        self.shares = Shares(model, self.ranks, self.hosted, self.pool.experts)
        self.launched = self.shares.part  # with the experts that one launch can name
        if self.identity is not None and scenario.tenants.merged_steps:
            self.launched = replace(self.shares.part, experts=self.identity.pool)
        self.layer_bytes = [self.shares.slice_bytes(size) for size in self.whole_bytes]
        self.row_bytes = [
            size if bits is None else round(size * model.with_experts_bits(bits).expert_bytes / model.expert_bytes)
            for bits in self.precision.bits
            for size in self.layer_bytes
        ]
        self.sizes = [size for size in self.row_bytes for _ in range(self.pool.experts)]
        self.prediction, self.prefetch, self.execution = system.prediction(), system.prefetch(), system.execution()
        if self.prediction.by_step and self.identity is not None:
            others = [system.prediction() for _ in range(1, self.identity.instances)]
            self.prediction = OwnForecasts([self.prediction, *others], self.identity)
        rewrite = self.gating.rewrite if self.gating.rewrites else None
        carry = self._carried()
        guess = None if self.prediction.by_step else self.prediction.guess
        seed = component_seed(settings.seed, "plan")
        self.plan = Plan(trace, scenario.workload, seed, guess, rewrite, carry, self.identity, scenario.portion)
        # the same steps without guesses
        self.silent = Plan(trace, scenario.workload, seed, None, rewrite, (), self.identity, scenario.portion)
        self._tasks = tasks_by_request(self.silent)
        asked, there = scenario.workload.requests, len(self.silent.known)
        if asked is not None and asked > there:
            self.remarks.append(
                f"workload.requests asks for {asked}; from workload.first_request on {self.silent.source} has {there}"
            )
        if scenario.portion is None:  # else they are of the whole
            self.remarks += remarks(self.silent, self.scheduling.lockstep)
        if not self.scheduling.lockstep:
            check(self.silent, self.scheduling, settings)
        elif settings.prefix_cache:
            raise ScenarioError("settings.prefix_cache is true; expected policy/scheduling=continuous, or false.")
        self.remarks += check_layout(scenario, self.ranks)
        self.workers = [place.name for place in self.ranks.places]
        if scenario.platform.remark:
            self.remarks.append(f"platform {scenario.platform.name}: {scenario.platform.remark}")
        for worker in self.workers:
            kernels = scenario.platform.device(worker).kernels
            if kernels is not None and (remark := kernels.remark()):
                self.remarks.append(f"{worker} {remark}")
        self.routing = Routing()
        self.clock = Clock(stepwise=settings.stepwise)
        self.fabric = Fabric()
        chunks = self.prefetch.chunks
        chunk_bytes = -(-max(self.sizes) // chunks) if chunks else settings.chunk_bytes
        self.wiring = Wiring(scenario, self.ranks, self.fabric, chunk_bytes)
        self.recorder: Recorder | None = None

    def _carried(self) -> set[str]:
        """What policies want to see of the router. Raises ScenarioError if one needs what the trace does not hold, or
        has a hook that its flags say is not called."""
        system, meta = self.scenario.system, self.scenario.trace.meta
        policies = {
            "gating": self.gating,
            "precision": self.precision,
            "execution": self.execution,
            "prefetch": self.prefetch,
            "prediction": self.prediction,
            "cache": system.cache(),
            "pipeline": self.pipeline,
        }
        there = {"weights": meta.has_weights, "probabilities": meta.has_probabilities}
        carried = set()
        for role, policy in policies.items():
            if (found := unheard_hook(policy)) is not None:
                hook, flag = found
                raise ScenarioError(
                    f"policy/{role} {type(policy).__name__} has `{hook}` but `{flag}` is False; set `{flag} = True`."
                )
            for part in (*policy.needs, *policy.uses):
                if part not in PARTS:
                    raise ScenarioError(f"policy/{role} {type(policy).__name__} asks for '{part}'; expected {PARTS}.")
                if part in policy.needs and not there[part]:
                    raise ScenarioError(
                        f"policy/{role} {type(policy).__name__} needs the router's {part}, which the trace of"
                        f" {meta.model} does not hold; `moesim show TRACE` tells what a trace holds."
                    )
                if there[part] and (role != "prediction" or self.prediction.by_step):
                    carried.add(part)
        if self.gating.chooses or len(self.precision.bits) > 1:
            carried |= {part for part in ("weights",) if there[part]}
        return carried

    def context(self, name: str, capacity_bytes: int = 0, future: Any = None, child: int = 0) -> PolicyContext:
        forecasts = name == "prediction" and isinstance(self.prediction, OwnForecasts)
        own = name == "gating" or forecasts  # for an instance at a time
        model, meta = self.scenario.model if own else self.pool, self.scenario.trace.meta
        return PolicyContext(
            layers=len(model.moe_layers),
            experts=model.experts,
            top_k=meta.top_k,
            size_bytes=self.sizes,
            levels=len(self.precision.bits) if name in ("cache", "host_cache") else 1,
            stored_bits=model.bits("experts"),
            guess_distances=meta.guess_distances,
            capacity_bytes=capacity_bytes,
            rng=np.random.default_rng(component_seed(self.scenario.settings.seed, name, child)),
            training=partial(self._training, not own),
            training_tasks=lambda: training_tasks(self.silent),
            tasks=self._tasks,
            future=future or (lambda: iter(())),
        )

    def _training(self, pooled: bool) -> Iterator[RequestTrace]:
        """The requests that are not served; a run whose policies had nothing to learn from says so."""
        empty = True
        for request in self.silent.training(pooled):
            empty = False
            yield request
        if empty and NOTHING_TO_LEARN not in self.remarks:
            self.remarks.append(NOTHING_TO_LEARN)

    def run(self) -> Run:
        scenario = self.scenario
        system, model = scenario.system, scenario.model
        self.prediction.bind(self.context("prediction"))
        self.prefetch.bind(self.context("prefetch"))
        self.gating.bind(self.context("gating"))
        self.precision.bind(self.context("precision"))
        self.attention.bind(self.context("attention"))
        self.scheduling.bind(self.context("scheduling"))
        self.hosted.update(self.attention.on_host(model.layers))
        check_units(scenario, self.ranks, self.pipeline, self.attention, self.execution)
        if self.precision.nested and (self.execution.uses_cpu or self.execution.uses_units):
            raise ScenarioError(
                f"policy/precision {type(self.precision).__name__} reads a part of each weight on the worker, and"
                f" policy/execution {type(self.execution).__name__} may run experts elsewhere; expected"
                " policy/execution=fetch."
            )
        if isinstance(self.pipeline, MicroBatches):
            return assemble(self, self.pipeline)
        placement = system.placement()
        placement.bind(self.context("placement"))
        layers, count = len(model.moe_layers), self.ranks.parts
        experts = range(self.pool.experts)
        owners = np.array([[placement.owner(la, ex, count) for ex in experts] for la in range(layers)])
        if owners.min() < 0 or owners.max() >= count:
            raise ScenarioError(
                f"policy/placement names worker {int(owners.max())}; the platform has workers 0 to {count - 1}."
            )
        self.slices = make_slices(scenario, self.ranks, placement, self.pipeline, self.row_bytes)
        self.mine = owned(self.ranks, owners)
        if self.slices is not None:
            self.mine = [self.slices.held(rank) for rank in range(len(self.workers))]
        self._check_home()
        tasks = task_graph(self.pipeline, layers, self.ranks)
        decides = self.gating.chooses or not isinstance(self.precision, AsStored)
        self.dispatch = make_dispatch(self.pipeline, scenario, len(self.workers), decides, self.remarks)
        self.reserved_bytes = reserved_bytes(self.dispatch, self.silent, self.scheduling)
        memories = [self._memory(worker, rank) for rank, worker in enumerate(self.workers)]
        host = self._host_tier()
        if scenario.settings.carbon_g_per_kwh is not None:
            read_intensity(scenario.settings.carbon_g_per_kwh)
        if scenario.settings.timeline:
            served, batch_size = len(self.plan.indices), scenario.workload.batch_size
            self.recorder = Recorder(scenario.settings, served, batch_size, self.pool.experts, host, self.remarks)
            self.fabric.log = self.recorder.log
        source, batcher = self._steps(memories)
        self._source = dispatched_source(source, self.dispatch)
        several = len(self.workers) > 1
        parts = (scenario, self.ranks, owners, self.clock, self.fabric, self.wiring.lane, tasks)
        exchange = (
            make_exchange(
                *parts,
                exchange_of(self.slices, self.pipeline, Exchange if self.dispatch is None else self.dispatch.exchange),
            )
            if several
            else None
        )
        self.times = collective_times(scenario, self.ranks, self.shares)
        tiers, workers = [], []
        self.initial = initial = list(placement.initial())
        for rank, name in enumerate(self.workers):
            tier = self._tier(rank, name, memories[rank].cache_bytes)
            adapter = self._adapter(tier)
            here = [blob for blob in initial if self.mine[rank][blob]]
            self._fill(tier, here if adapter is None else [adapter.home[blob] for blob in here])
            tiers.append(tier)
            workers.append(self._worker(rank, name, tier, host, tasks, exchange, adapter))
        take_steps(workers, self.ranks, batcher, self._source, exchange)
        self._show_queue(tiers, batcher)
        if batcher is not None:
            self._run_ahead(workers, batcher, owners)
        return Run(
            scenario=scenario,
            clock=self.clock,
            fabric=self.fabric,
            plan=self.silent,
            workers=workers,
            tiers=tiers,
            memories=memories,
            host=host,
            layer_expert_bytes=self.whole_bytes,
            ranks=self.ranks,
            remarks=self.remarks,
            recorder=self.recorder,
            initial=[blob for tier in tiers for blob, slot in enumerate(tier.slots) if slot is RESIDENT],
            lane_ends=self.wiring.ends,
            batcher=batcher,
            padded=self.dispatch is not None and self.dispatch.uses_padding,
        )

    def _steps(self, memories: list[Memory]) -> tuple[StepSource, Batcher | None]:
        """Where workers take their steps from: the plan, or requests as they come."""
        if self.scheduling.lockstep:
            return PlannedSteps(self._counted() if self.progress is not None else iter(self.plan)), None
        rooms = [
            min(m.kv_bytes for m, p in zip(memories, self.ranks.places, strict=True) if p.group == group)
            for group in range(self.ranks.groups)
        ]
        kind = PrefixPages if self.scenario.settings.prefix_cache else KvPages
        pages = kind(self.scenario.settings.kv_page_tokens, self.shares.kv_bytes, rooms)
        parts = (self.plan, self.scheduling, pages, self.progress)
        batcher = Batcher(*parts) if self.ranks.stages == 1 else StagedBatcher(*parts, self.ranks.stages)
        return batcher, batcher

    def _show_queue(self, tiers: list[Tier], batcher: Batcher | None) -> None:
        """Let caches that want to see what waits see it. Raises ScenarioError where nothing waits."""
        for tier in tiers:
            if any(partition.cache.sees_queue for partition in tier.partitions):
                if batcher is None or len(tiers) > 1:
                    raise ScenarioError(
                        f"policy/cache {type(tier.partitions[0].cache).__name__} looks at what waits; expected a"
                        " policy/scheduling with a queue, such as continuous, and a platform of one worker."
                    )
                tier.view.queued = batcher.queued

    def _run_ahead(self, workers: list[Worker], batcher: Batcher, owners: np.ndarray) -> None:
        """Let workers take many steps at once, if they can have no company and nobody looks on."""
        scenario, worker = self.scenario, workers[0]
        device, settings = scenario.platform.device(worker.name), scenario.settings
        plain = type(self.execution) is FetchToGpu and type(self.prediction) is NoPrediction
        plain = plain and worker.adapter is None and not self.gating.rewrites and not self.hosted
        plain = plain and self.dispatch is None and not settings.stepwise and self.recorder is None
        plain = plain and not isinstance(worker.dense, NearAttention)
        plain = plain and (self.times is not None or self.ranks.each == 1)  # sums on the links are transfers
        free = not device.cache_lookup_s and not device.cache_evict_s_per_byte and worker.tier.staging is None
        if not (plain and free and self.scheduling.steady):
            return
        costs = ExpertCosts(self.launched, self.row_bytes, device)
        if len(workers) > 1:
            run_layout_ahead(scenario, self.ranks, self.shares, workers, batcher, owners, costs, self.times)
        else:
            dense, framework_ps = self._own_dense(device), to_ps(settings.framework_layer_s)
            worker.stretches = Stretches(worker, batcher, dense, costs, framework_ps, settings.step_records, self.times)

    # ---- memories

    def _check_home(self) -> None:
        platform, model = self.scenario.platform, self.pool
        home = platform.device(platform.home)
        bank = len(self.layer_bytes) * model.experts
        copies = range(1 if self.precision.nested else len(self.precision.bits))
        total = self.shares.slices * sum(
            self.sizes[bank * level + blob]
            for blob in range(bank)
            for level in (copies if self.precision.by_score else [self.precision.level(*divmod(blob, model.experts))])
        )
        if total > home.memory_capacity_bytes:
            hint = ""
            if home.kind == "dram" and any(d.kind == "ssd" for d in platform.devices.values()):
                hint = "; set platform.home to the ssd"
            raise ScenarioError(
                f"the experts of {model.name} take {_gib(total)}, but platform.home '{home.name}' of"
                f" {platform.name} holds {_gib(home.memory_capacity_bytes)}{hint}."
            )

    def _memory(self, worker: str, rank: int) -> Memory:
        scenario = self.scenario
        platform, model, settings = scenario.platform, scenario.model, scenario.settings
        memory = platform.memory_of(worker)
        place, groups = self.ranks.places[rank], self.ranks.groups
        dense = self.shares.dense_bytes(place.stage) * scenario.tenants.count
        workspace = settings.workspace_bytes * scenario.tenants.engines + self.reserved_bytes
        mine = self.mine[rank]
        kept = self._sizes(rank)[: len(mine) if self.precision.nested else None]
        own = sum(size for blob, size in enumerate(kept) if mine[blob % len(mine)])
        if self.scheduling.lockstep:
            kv = max(
                sum(self.shares.kv_bytes(length, place.stage) for length in lengths[place.group :: groups])
                for lengths in self.plan.context_limits()
            )
        else:
            free = memory.memory_capacity_bytes - dense - workspace
            kv = kv_room(self.silent, self.scheduling, settings, self.shares.kv_bytes, free, own)
        fixed = dense + kv + workspace
        room = memory.memory_capacity_bytes - fixed
        what = f"dense weights {_gib(dense)}, KV cache {_gib(kv)} and workspace {_gib(workspace)} of {model.name}"
        if room < 0:
            raise ScenarioError(
                f"{what} do not fit the {_gib(memory.memory_capacity_bytes)} of {memory.name} on {platform.name}."
            )
        cache = settings.cache_bytes if settings.cache_bytes is not None else min(room, own)
        if cache > room:
            raise ScenarioError(
                f"the expert cache (cache_gib) asks for {_gib(cache)}, but {what} leave {_gib(room)} of {memory.name}"
                f" on {platform.name}."
            )
        largest = max(self.layer_bytes)
        if cache < largest:
            raise ScenarioError(
                f"the expert cache (cache_gib) of {memory.name} has {cache} bytes; expected at least one expert of"
                f" {largest} bytes."
            )
        return Memory(memory.name, memory.memory_capacity_bytes, dense, kv, workspace, cache)

    def _tier(self, rank: int, name: str, budget_bytes: int) -> Tier:
        shares = self.precision.shares
        if shares is not None and (len(shares) != len(self.precision.bits) or not 0 < sum(shares) <= 1):
            raise ScenarioError(
                f"policy/precision shares {list(shares)} of the budget; expected one share for each of its"
                f" {len(self.precision.bits)} levels, together above 0 and at most 1."
            )
        slots = self.scenario.system.slots()
        slots.bind(self.context("slots"))
        staging = None
        if slots.staging_experts:
            staging = Partition(slots.staging_experts * max(self.row_bytes), self.scenario.system.cache())
            budget_bytes -= staging.capacity_bytes
        layers = len(self.layer_bytes)
        partitions: list[Partition] = []
        for level, share in enumerate(shares or [1.0]):
            sizes = self.row_bytes[level * layers : (level + 1) * layers]
            some = self._partitions(rank, slots, int(budget_bytes * share), sizes, len(partitions))
            partitions += some * layers if len(some) == 1 else some
        if shares is None:
            partitions *= len(self.precision.bits)
        return Tier(name, self._sizes(rank), partitions, layers, staging)

    def _sizes(self, rank: int) -> list[int]:
        """Bytes of each blob on a worker."""
        return self.sizes if self.slices is None else self.slices.sizes(rank)

    def _partitions(
        self, rank: int, slots: SlotsPolicy, budget_bytes: int, sizes: list[int], first: int
    ) -> list[Partition]:
        """A budget divided as `slots` says: one partition, or one for each layer."""
        budgets = slots.budgets(budget_bytes, sizes, self.scenario.trace.meta.top_k)
        layers = len(self.layer_bytes)
        if len(budgets) not in (1, layers):
            raise ScenarioError(f"policy/slots gives {len(budgets)} budgets; expected 1 or {layers}, one per layer.")
        if sum(budgets) > budget_bytes or budget_bytes < max(sizes):
            raise ScenarioError(
                f"policy/slots asks for {sum(budgets)} bytes, top-k experts for every layer; expected at most the"
                f" cache budget of {budget_bytes} bytes, and room in it for an expert of {max(sizes)} bytes."
            )
        if len(budgets) > 1 and self.ranks.stages > 1:
            raise ScenarioError(
                f"policy/slots {type(slots).__name__} divides the budget among all layers, of which a stage of"
                " layout.pp has some; expected policy/slots=global, or layout.pp=1."
            )
        own = self.mine[rank]
        partitions = []
        for index, capacity in enumerate(budgets):
            cache = self.scenario.system.cache()
            layer = index if len(budgets) > 1 else None

            def future(layer: int | None = layer) -> Iterator[list[int]]:
                if not self.scheduling.lockstep:
                    raise ScenarioError(
                        "a clairvoyant cache needs steps that are known before the run; expected"
                        " policy/scheduling=lockstep, or another policy/cache."
                    )
                for step in dispatched_steps(self.silent, self.dispatch):
                    for number, (blobs, _) in enumerate(step.groups):
                        here = layer is None or layer == number
                        yield [blob for blob in blobs if own[blob]] if here else []

            cache.bind(self.context("cache", capacity, future, child=rank * layers + first + index))
            partitions.append(Partition(capacity, cache))
        return partitions

    def _adapter(self, tier: Tier) -> Adapter | None:
        """What gating and precision do in every layer; None where they do nothing."""
        if not self.gating.chooses and isinstance(self.precision, AsStored):
            return None
        if len(self.workers) > 1:
            raise ScenarioError(
                "policy/gating and policy/precision that decide while the run goes on need a platform of one worker;"
                f" {self.scenario.platform.name} has {len(self.workers)}."
            )
        self.remarks.append(
            "gating or precision decides while the run goes on: the physics bound is that of the dense work alone, and"
            " there is no clairvoyant reference"
        )
        gating = self.gating
        if self.identity is not None and gating.chooses:
            gating = OwnExperts(gating, self.identity, self.routing)
        return Adapter(tier, self.routing, self.pool.experts, gating, self.precision)

    def _fill(self, tier: Tier, blobs: list[int]) -> None:
        experts = self.pool.experts
        for blob in blobs:
            partition = tier.partitions[blob // experts]
            if partition.used_bytes + tier.sizes[blob] <= partition.capacity_bytes:
                tier.occupy(partition, blob, RESIDENT)
                partition.cache.on_insert((blob,), tier.view)

    def _host_tier(self) -> Tier | None:
        platform, settings = self.scenario.platform, self.scenario.settings
        staged = [hops for w in self.workers if len(hops := platform.hops(platform.home, w)) == 2]
        if not staged:
            return None
        host = platform.device(staged[0][0][1])
        budget = settings.host_cache_bytes
        if budget is None:
            budget = int(HOST_SHARE * host.memory_capacity_bytes)
        if budget > host.memory_capacity_bytes or budget < max(self.layer_bytes):
            raise ScenarioError(
                f"the host cache (host_cache_gib) has {budget} bytes; expected from one expert of"
                f" {max(self.layer_bytes)} bytes up to the {host.memory_capacity_bytes} bytes of {host.name}."
            )
        budget //= self.ranks.each  # of which each of its GPUs has its slices there
        cache: CachePolicy = self.scenario.system.host_cache()
        cache.bind(self.context("host_cache", budget))
        return Tier(host.name, self.sizes, [Partition(budget, cache)] * len(self.row_bytes), len(self.layer_bytes))

    # ---- workers

    def _worker(
        self,
        rank: int,
        name: str,
        tier: Tier,
        host: Tier | None,
        tasks: list[Task],
        exchange: Exchange | None,
        adapter: Adapter | None,
    ) -> Worker:
        scenario, platform, lane = self.scenario, self.scenario.platform, self.wiring.lane
        device = platform.device(name)
        hops = platform.hops(platform.home, name)
        if not hops:
            raise ScenarioError(
                f"platform.home '{platform.home}' is the memory of worker '{name}' itself; expected a memory from"
                " which experts have to be loaded."
            )
        loader: Loader
        if len(hops) == 2 and host is not None:
            loader = StagedLoader(self.fabric, self.wiring.hop(*hops[1]), tier, self.wiring.hop(*hops[0]), host)
        else:
            loader = Loader(self.fabric, self.wiring.hop(*hops[-1]), tier)
        execution = scenario.system.execution() if rank else self.execution
        execution.bind(self.context("execution"))
        cpu = self._cpu_experts(name) if execution.uses_cpu else None
        own_tasks = [task for task in tasks if task.worker == rank]
        own = self._dense(device)
        dense, costs = dispatched_costs(own, self.launched, self.row_bytes, device, self.dispatch)
        return Worker(
            self.clock,
            self.fabric,
            rank,
            name=name,
            memory_name="dram" if device.kind == "cpu" else "hbm",
            source=self._source,
            tasks=own_tasks,
            tier=tier,
            loader=loader,
            dense=dense,
            expert_costs=costs,
            processed=Processed(self.shares, own_tasks),
            prefetch=self.prefetch,
            execution=execution,
            cpu=cpu,
            near=make_units(
                scenario,
                name,
                execution,
                self.launched,
                self.row_bytes,
                self.fabric,
                self.wiring.media,
                lane,
                self.initial,
            ),
            exchange=exchange,
            recorder=self.recorder,
            management=(to_ps(device.cache_lookup_s), device.cache_evict_s_per_byte * 1e12),
            framework_ps=to_ps(scenario.settings.framework_layer_s),
            adapter=adapter,
            routing=self.routing if len(self.workers) == 1 else None,
            forecaster=self._forecaster(),
            move_ps_per_byte=2e12 / platform.memory_of(name).memory_read_bytes_per_s,  # read once and written once
            swap_lanes=(self.wiring.swap(name), loader.lane) if self.scheduling.preempt == "swap" else None,
            collectives=make_collectives(
                scenario, self.ranks, self.shares, rank, self.times, self.wiring.lane, exchange
            ),
            loop_order=make_loop_order(self.pipeline, scenario, self.routing, len(self.workers)),
            slices=slice_costs(self.slices, rank, platform, self.pipeline, exchange),
        )

    def _forecaster(self) -> PredictionPolicy | None:
        """A prediction that is asked while the run goes on."""
        if not self.prediction.by_step:
            return None
        if len(self.workers) > 1:
            raise ScenarioError(
                f"policy/prediction {type(self.prediction).__name__} is asked in every step and needs a platform of one"
                f" worker; {self.scenario.platform.name} has {len(self.workers)}."
            )
        return self.prediction

    def _own_dense(self, device: Device) -> DenseCosts | InstanceCosts:
        model, tenants = self.shares.part, self.scenario.tenants
        if tenants.count == 1 and writes_slower(device):
            return SlowWrites(model, device)
        return DenseCosts.of(model, device) if tenants.count == 1 else InstanceCosts(model, device, tenants.fused_gate)

    def _dense(self, device: Device) -> DenseTable:
        """The dense part's costs on a worker; on the host CPU for the layers that `attention` puts there."""
        model, platform = self.scenario.model, self.scenario.platform
        unit = decode_unit(self.attention, platform, device.name)
        costs = self._own_dense(device) if unit is None else NearAttention(self.shares.part, device, unit)
        if not self.hosted:
            return costs
        if platform.cpu is None:
            raise ScenarioError(
                f"policy/attention runs layers on the host CPU; platform {platform.name} has none beside the worker."
            )
        rows = [layer in self.hosted for layer in model.moe_layers]
        return HostedDense(costs, self._own_dense(platform.device(platform.cpu)), rows)

    def _cpu_experts(self, worker: str) -> CpuExperts:
        platform, model = self.scenario.platform, self.pool
        if platform.cpu is None or platform.device(worker).kind == "cpu":
            raise ScenarioError(
                f"policy/execution=cpu_in_place needs a host CPU beside the worker; platform {platform.name} has none."
            )
        if platform.device(platform.home).kind != "dram":
            raise ScenarioError(
                "policy/execution=cpu_in_place runs experts where they lie and needs platform.home to be a dram;"
                f" it is '{platform.home}' on {platform.name}."
            )
        cpu: Device = platform.device(platform.cpu)
        row_bytes = [size * self.ranks.each for size in self.row_bytes]
        costs = ExpertCosts(self.shares.on_cpu, row_bytes, cpu)
        dram = platform.memory_of(platform.cpu).name
        self.wiring.media_between(dram, worker)  # host DRAM is a medium of every copy
        lane = self.wiring.host_cpu(costs.launch_ps())
        route = platform.route(dram, worker)
        rate = min(link.effective_bytes_per_s for link in route)
        ps_per_token = model.hidden * ACTIVATION_BYTES * 1e12 / rate
        link = (route[-1].kind, self.wiring.latency_ps(dram, worker), ps_per_token)
        return CpuExperts(self.fabric, lane, costs, self.sizes, model.experts, link)

    def _counted(self) -> Iterator[Step]:
        assert self.progress is not None
        for step in self.plan:
            yield step
            self.progress(step.tokens)


def _gib(size_bytes: int) -> str:
    return f"{size_bytes / 2**30:.2f} GiB"
