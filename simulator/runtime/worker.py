"""A worker: the process that runs the tasks of every step on one GPU (or on a phone's CPU)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simpy.events import Event

from simulator.engine import ACTIVE, CANCELLED, Clock, Fabric, Lane, Stream, Transfer
from simulator.plan import Block, Group, Step
from simulator.policies.execution.base import ExecutionPolicy
from simulator.policies.pipeline.base import Op, Task
from simulator.policies.prefetch.base import PrefetchPolicy
from simulator.residency import Partition, PolicyError, Tier
from simulator.runtime.costs import DenseCosts, ExpertCosts, Parts
from simulator.runtime.exchange import Exchange
from simulator.runtime.loader import Loader
from simulator.runtime.path import Path
from simulator.runtime.recorder import Recorder

DENSE, EXPERTS, COMBINE, TAIL = Op.DENSE, Op.EXPERTS, Op.COMBINE, Op.TAIL


@dataclass(slots=True)
class StepRecord:
    """What one step did on one worker. Times in ps, sizes in bytes, counts of experts.

    late: needed while their prefetch was still in flight; useful: prefetched and then used; busy: the worker
    computed or managed its cache; managed: the latter alone; evicted: on this worker, for whatever reason.
    """

    number: int
    batch: int
    prefill: bool
    tokens: int
    requests: list[int]
    kv_tokens: list[int]
    start_ps: int
    end_ps: int = 0
    last: bool = False
    hits: int = 0
    late: int = 0
    loads: int = 0
    on_cpu: int = 0
    load_bytes: int = 0
    prefetches: int = 0
    prefetch_bytes: int = 0
    useful_prefetches: int = 0
    busy_ps: int = 0
    managed_ps: int = 0
    evicted_bytes: int = 0
    waited_ps: dict[str, int] = field(default_factory=dict)  # attribution: category -> ps


class Worker(Stream):
    """Runs its tasks of each step, in order, at its own local time.

    `groups_of(step)` and `guesses_of(step)` give the experts this worker owns; `tasks` its part of
    the pipeline's graph. `memory_name` names what bounds memory-bound work ("hbm" or "dram"). `management` is
    what its cache costs: ps per look-up of a layer and ps per evicted byte.
    """

    def __init__(
        self,
        clock: Clock,
        fabric: Fabric,
        rank: int,
        *,
        name: str,
        memory_name: str,
        steps: Iterable[Step],
        tasks: Sequence[Task],
        tier: Tier,
        loader: Loader,
        dense: DenseCosts,
        expert_costs: ExpertCosts,
        prefetch: PrefetchPolicy,
        execution: ExecutionPolicy,
        cpu: CpuExperts | None = None,
        exchange: Exchange | None = None,
        recorder: Recorder | None = None,
        management: tuple[int, float] = (0, 0.0),
    ) -> None:
        super().__init__(clock, fabric, rank)
        self.name = name
        self.steps = steps
        self.tier = tier
        self.loader = loader
        self.records: list[StepRecord] = []
        self.expert_loads = [0] * len(tier.slots)
        layers = len(tier.partitions)
        self.layer_counts = [[[0] * 4 for _ in range(layers)] for _ in range(2)]  # [prefill][layer]: hits ... on_cpu
        self.busy_ps = 0
        self.path = Path(("overhead", memory_name, "compute"))
        self._chain = [(task.op, task.layer, task.after, task.id) for task in tasks]
        self._dense = dense
        self._costs = expert_costs
        self._single = expert_costs.single(len(tier.slots) // layers)
        self._prefetch = prefetch
        self._execution = execution
        self._cpu = cpu
        self._exchange = exchange
        self.recording: Recorder | None = None  # the recorder, in steps that it records
        self._recorder = recorder
        self._management = management if any(management) else None
        self._evicted_bytes = 0  # of which the time has been spent
        self._fetched_ahead: list[list[Transfer]] = [[] for _ in range(layers)]
        self._experts_per_layer = len(tier.slots) // layers
        self._layer_bytes = tier.sizes[:: self._experts_per_layer]

    @property
    def uses_cpu(self) -> bool:
        """Whether missing experts may run on the host CPU."""
        return self._cpu is not None

    def process(self) -> Generator[Event, Any, None]:
        """The SimPy process."""
        t = 0
        block: Block | None = None
        table: list[tuple[Parts, ...]] = []
        for number, step in enumerate(self.steps):
            if step.block is not block:
                block = step.block
                mine = self._exchange.requests_of(self.rank, block.slots) if self._exchange is not None else None
                table = self._dense.table(block, mine)
            t = yield from self._step(number, step, table[step.row], t)

    def _step(self, number: int, step: Step, dense: tuple[Parts, ...], t: int) -> Generator[Event, Any, int]:
        path, exchange, tier = self.path, self._exchange, self.tier
        recorder = self.recording = self._recorder.begin(number, step, t) if self._recorder is not None else None
        path.begin(t)
        ends, parts = path.ends, path.parts
        record = self.record = StepRecord(
            number, step.batch, step.prefill, step.tokens, step.requests, step.kv_tokens, t, last=step.last
        )
        groups, guesses = step.groups, step.guesses
        if exchange is not None:
            groups, guesses = exchange.own(self.rank, step)
        tier.view.prefill = step.prefill
        nothing: Sequence[int] = ()
        busy, busy_before_ps, evicted_before_bytes = 0, self.busy_ps, tier.evicted_bytes
        for op, layer, after, task in self._chain:
            if after:
                assert exchange is not None
                t = yield from exchange.gather(self, (number, after), t)
            if op is EXPERTS:
                t = yield from self._experts(layer, groups[layer], guesses[layer] if guesses else nothing, t)
            elif op is DENSE or op is TAIL:
                duration, split = dense[layer]
                if duration:
                    t += duration
                    busy += duration
                    ends.append(t)
                    parts.append(split)
                    if recorder is not None:
                        label, routed = (f"dense {layer}", layer) if op is DENSE else ("tail", -1)
                        recorder.ran(self.name, label, (t - duration, t), op.name.lower(), routed)
            else:
                assert exchange is not None
                yield from exchange.send(self, number, task, step, layer, t, op is COMBINE)
        self.busy_ps += busy
        if exchange is not None:
            t = yield from exchange.meet(self, number, t)
        if step.last:
            for partition in {id(p): p for p in tier.partitions}.values():
                partition.cache.on_sequence_end(tier.view)
        record.end_ps = t
        record.busy_ps = self.busy_ps - busy_before_ps
        record.evicted_bytes = tier.evicted_bytes - evicted_before_bytes
        record.waited_ps = path.totals()
        self.records.append(record)
        if recorder is not None:
            recorder.end(self.name, record)
        return t

    def _experts(self, layer: int, group: Group, guesses: Sequence[int], t: int) -> Generator[Event, Any, int]:
        """Look up, load, prefetch, compute: the experts of one layer. Returns the local time after them."""
        fabric, tier, record, path, recorder = self.fabric, self.tier, self.record, self.path, self.recording
        others = self._others
        if others and self.must_sync(t):
            yield from self.sync(t)
        if fabric.next_ps <= t:
            fabric.advance(t)
        blobs, counts = group
        tokens = dict(zip(blobs, counts, strict=True)) if counts is not None else None
        partition, pins, view = tier.partitions[layer], tier.pins, tier.view
        view.group += 1
        view.layer = layer
        counters = self.layer_counts[record.prefill][layer]
        mark = len(path.ends)  # the path as it is when this layer submits its loads
        hits, late, misses = tier.look_up(blobs)
        fetched = self._fetched_ahead[layer]
        pinned = bool(misses or late or fetched)  # else nobody will ask for room while this layer runs
        if pinned:
            pins.update(blobs)
            if fetched:
                self._settle(layer, blobs, t)
        arriving: list[Transfer] = late
        waiting: Sequence[int] = ()  # loads without room yet
        on_cpu: list[Transfer] = []
        if misses:
            loads: Sequence[int] = misses
            elsewhere: Sequence[int] = ()
            if self._cpu is not None:
                loads, elsewhere = self._execution.split(misses, tokens or dict.fromkeys(blobs, 1))
                on_cpu = [self._cpu.submit(layer, blob, tokens[blob] if tokens else 1, t) for blob in elsewhere]
                record.on_cpu += len(on_cpu)
                counters[3] += len(on_cpu)
            if self._prefetch.promotes:
                for transfer in late:
                    if transfer.state == ACTIVE:  # what already flows is not displaced by its own layer
                        fabric.promote(transfer, t)
            here = [blob for blob in blobs if blob not in elsewhere] if elsewhere else blobs
            partition.cache.on_layer(tuple(here), tuple(loads), view)
            if loads:
                admitted = tier.admit(partition, loads)
                waiting = loads[admitted:]
                arriving = late + self._load(partition, loads[:admitted] if waiting else loads, t)
                record.loads += len(loads)
                record.load_bytes += len(loads) * self._layer_bytes[layer]
                counters[2] += len(loads)
        elif blobs:
            partition.cache.on_layer(tuple(blobs), (), view)
        if late:
            if self._prefetch.promotes:
                for transfer in late:
                    fabric.promote(transfer, t)
            record.late += len(late)
            counters[1] += len(late)
        if guesses:
            slots = tier.slots
            expected = [blob for blob in guesses if slots[blob] is None]
            if expected:
                if not pinned:
                    pinned = True
                    pins.update(blobs)
                self._fetch_ahead(expected, t)

        begin = t
        ends, parts = path.ends, path.parts
        if self._management is not None and blobs:
            t = self._manage(layer, t)
        managed = t
        if hits:
            found = len(hits)
            record.hits += found
            counters[0] += found
            if tokens is None:
                duration, split = self._single[layer][found]
            else:
                duration, split = self._costs.together(layer, [tokens[blob] for blob in hits])
            t += duration
            ends.append(t)
            parts.append(split)
        if recorder is not None:
            recorder.asked(self.name, (*arriving[len(late) :], *on_cpu), begin)
            recorder.asked_ahead(self.name, (transfer for row in self._fetched_ahead for transfer in row), begin)
            recorder.room(tier, begin)
            if hits:
                recorder.ran_resident(self.name, layer, (managed, t), hits, fetched)
        busy = t - begin
        if waiting:
            t = yield from self._stream(layer, hits, arriving, waiting, tokens, t)
        elif arriving:
            ready = t
            duration, split = self._single[layer][1]
            for transfer in arriving:
                if others:
                    landed = transfer.landed_ps
                    if landed is None:
                        if self.must_sync(t):
                            yield from self.sync(t)
                        if fabric.next_ps <= t:
                            fabric.advance(t)
                        landed = yield from self.landed(transfer)
                else:
                    while (landed := transfer.landed_ps) is None:
                        fabric.advance(fabric.next_ps)
                if landed > t:
                    t = landed
                    if transfer.submitted_ps < begin or transfer.cause is not None:
                        path.waited_for(transfer)
                    else:  # what the lane did since it asked for this load is off the critical path
                        del ends[mark:], parts[mark:]
                        ends.append(t)
                        parts.append(transfer.lane.category)  # type: ignore[union-attr]
                if tokens is not None:
                    duration, split = self._costs.together(layer, (tokens[transfer.blob],))
                t += duration
                busy += duration
                ends.append(t)
                parts.append(split)
            if recorder is not None:
                lasts = [self._lasts_ps(layer, transfer.blob, tokens) for transfer in arriving]
                recorder.ran_loaded(self.name, layer, arriving, lasts, ready)
        self.busy_ps += busy
        if on_cpu:
            t = yield from self._join_cpu(layer, on_cpu, tokens, t)
        if pinned:
            pins.difference_update(blobs)
            if self._fetched_ahead[layer]:  # fetched already for the next time this layer runs
                pins.update(transfer.blob for transfer in self._fetched_ahead[layer])
        return t

    def _manage(self, layer: int, t: int) -> int:
        """Spend what the look-up, and the evictions since the last one, cost this worker; loads flow meanwhile."""
        assert self._management is not None
        lookup_ps, ps_per_byte = self._management
        evicted_bytes = self.tier.evicted_bytes
        spent = lookup_ps + round(ps_per_byte * (evicted_bytes - self._evicted_bytes))
        self._evicted_bytes = evicted_bytes
        self.record.managed_ps += spent
        self.path.add(t + spent, "management")
        if self.recording is not None:
            self.recording.ran(self.name, f"cache {layer}", (t, t + spent), "management", layer)
        return t + spent

    def _load(self, partition: Partition, blobs: Sequence[int], t: int) -> list[Transfer]:
        transfers = self.loader.load(partition, blobs, t, True)
        loads = self.expert_loads
        for blob in blobs:
            loads[blob] += 1
        return transfers

    def _run(self, layer: int, blobs: Sequence[int], tokens: dict[int, int] | None, t: int) -> int:
        """Run experts that are here as one launch; returns when it ends."""
        if tokens is None:
            duration, split = self._single[layer][len(blobs)]
        else:
            duration, split = self._costs.together(layer, [tokens[blob] for blob in blobs])
        t += duration
        self.path.ends.append(t)
        self.path.parts.append(split)
        return t

    def _lasts_ps(self, layer: int, blob: int, tokens: dict[int, int] | None) -> int:
        """How long one expert runs by itself."""
        return (self._single[layer][1] if tokens is None else self._costs.together(layer, (tokens[blob],)))[0]

    def _join_cpu(
        self, layer: int, on_cpu: list[Transfer], tokens: dict[int, int] | None, t: int
    ) -> Generator[Event, Any, int]:
        """Wait for the experts on the host CPU, then for their activations' round trip."""
        assert self._cpu is not None
        for work in on_cpu:
            landed = yield from self.landed(work)
            if landed > t:
                t = landed
                self.path.waited_for(work)
        begin = t
        t += self._cpu.round_trip_ps(sum(tokens[work.blob] if tokens else 1 for work in on_cpu))
        self.path.add(t, self._cpu.link_category)
        if self.recording is not None:
            self.recording.ran(self.name, f"results {layer}", (begin, t), "results", layer, on_cpu)
        return t

    def _stream(
        self,
        layer: int,
        ready: Sequence[int],
        arriving: list[Transfer],
        waiting: Sequence[int],
        tokens: dict[int, int] | None,
        t: int,
    ) -> Generator[Event, Any, int]:
        """More experts than fit at once: those that have run give their room to those that wait."""
        tier, partition, fabric, recorder = self.tier, self.tier.partitions[layer], self.fabric, self.recording
        queue, left, done = list(arriving), list(waiting), list(ready)
        stuck = False
        while queue or left:
            if self.must_sync(t):
                yield from self.sync(t)
            if fabric.next_ps <= t:
                fabric.advance(t)
            tier.pins.difference_update(done)
            done = []
            if left:
                admitted = tier.admit(partition, left)
                loads = self._load(partition, left[:admitted], t)
                queue += loads
                left = left[admitted:]
                if recorder is not None:
                    recorder.asked(self.name, loads, t)
                    recorder.room(tier, t)
            if queue:
                transfer = queue.pop(0)
                landed = yield from self.landed(transfer)
                if landed > t:
                    t = landed
                    self.path.waited_for(transfer)
                tier.look_up((transfer.blob,))  # marks it resident
                begin = t
                t = self._run(layer, (transfer.blob,), tokens, t)
                self.busy_ps += t - begin
                if recorder is not None:
                    recorder.ran_loaded(self.name, layer, (transfer,), (t - begin,), begin)
                done.append(transfer.blob)
                stuck = False
                continue
            # The room is held by fetches ahead of their layer, or by the last chunk of cancelled ones.
            self._drop_fetched_ahead(t)
            held = next((tr for row in self._fetched_ahead for tr in row), None)
            if held is None and tier.draining:
                held = tier.draining[0][0]
            if held is not None:
                landed = yield from self.landed(held)
                if landed > t:
                    t = landed
                    self.path.waited_for(held)
            elif stuck:
                raise PolicyError(
                    f"policy/cache {type(partition.cache).__name__} named no victim although an expert of layer"
                    f" {layer} waits; expected room for it among {partition.used_bytes} used bytes."
                )
            stuck = held is None
        return t

    def _fetch_ahead(self, missing: Sequence[int], t: int) -> None:
        tier, slots = self.tier, self.tier.slots
        view = tier.view
        view.prefetching = True
        for blob in self._prefetch.choose(missing, self.loader.lane.queue_depth):
            if slots[blob] is None:  # a guess may name an expert twice
                partition = tier.partitions[blob // self._experts_per_layer]
                if tier.admit(partition, (blob,)):
                    self._start_ahead(partition, (blob,), t)
        view.prefetching = False

    def _start_ahead(self, partition: Partition, blobs: Sequence[int], t: int) -> None:
        transfers = self.loader.load(partition, blobs, t, False)
        partition.cache.on_insert(blobs, self.tier.view)
        self.tier.pins.update(blobs)
        record = self.record
        for transfer in transfers:
            self._fetched_ahead[transfer.blob // self._experts_per_layer].append(transfer)
            record.prefetch_bytes += transfer.size_bytes
        record.prefetches += len(transfers)

    def _settle(self, layer: int, blobs: Sequence[int], t: int) -> None:
        """The layer's router has spoken: unpin what was fetched in vain, and drop it if it is not here yet."""
        needed = set(blobs)
        flowing = []
        for transfer in self._fetched_ahead[layer]:
            if transfer.blob in needed:
                self.record.useful_prefetches += not transfer.used
                transfer.used = True
            elif not self._forsake(transfer, layer, t):
                flowing.append(transfer)
        self._fetched_ahead[layer] = flowing

    def _forsake(self, transfer: Transfer, layer: int, t: int) -> bool:
        """Unpin what is here, cancel what is not; False if its last chunk is still flowing."""
        if transfer.landed_ps is None:
            if self._prefetch.cancels:
                self.fabric.cancel(transfer, t)
            if transfer.state == CANCELLED or transfer.stop == 2:
                self.tier.withdraw(self.tier.partitions[layer], transfer)
            else:
                return False
        self.tier.pins.discard(transfer.blob)
        return True

    def _drop_fetched_ahead(self, t: int) -> None:
        for layer, transfers in enumerate(self._fetched_ahead):
            self._fetched_ahead[layer] = [tr for tr in transfers if not self._forsake(tr, layer, t)]


class CpuExperts:
    """The host CPU as a server of experts in place: each is a flow on host DRAM, capped by its compute time."""

    def __init__(
        self, fabric: Fabric, lane: Lane, costs: ExpertCosts, sizes: list[int], link: tuple[str, int, float]
    ) -> None:
        self._fabric = fabric
        self._lane = lane
        self._costs = costs
        self._sizes = sizes
        self.link_category, self._latency_ps, self._ps_per_token = link

    def submit(self, layer: int, blob: int, tokens: int, now_ps: int) -> Transfer:
        """Start an expert that serves `tokens` tokens; its transfer lands when it has run."""
        size = self._sizes[blob]
        busy_ps = self._costs.alone_ps(layer, tokens)
        cap = max(1, size * 1_000_000_000_000 // max(1, busy_ps))
        work = Transfer(blob, size, True, cap)
        self._fabric.submit(self._lane, work, now_ps)
        return work

    def round_trip_ps(self, tokens: int) -> int:
        """Activations to the host and results back."""
        return 2 * self._latency_ps + round(2 * tokens * self._ps_per_token)
