"""A worker: the process that runs the tasks of every step on one GPU (or on a phone's CPU)."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from simpy.events import Event

from simulator.engine import CANCELLED, Clock, Fabric, Lane, Stream, Transfer
from simulator.plan import Group, Step
from simulator.policies.execution.base import ExecutionPolicy
from simulator.policies.pipeline.base import Op, Task
from simulator.policies.prefetch.base import PrefetchPolicy
from simulator.residency import Tier
from simulator.runtime.costs import DenseCosts, ExpertCosts
from simulator.runtime.exchange import Exchange
from simulator.runtime.loader import Loader
from simulator.runtime.path import Path


@dataclass(slots=True)
class StepRecord:
    """What one step did on one worker. Times in ps, sizes in bytes, counts of experts.

    late: needed while their prefetch was still in flight; useful: prefetched and then used.
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
    waited_ps: dict[str, int] = field(default_factory=dict)  # attribution: category -> ps


class Worker(Stream):
    """Runs its tasks of each step, in order, at its own local time.

    `groups_of(step)` and `guesses_of(step)` give the experts this worker owns; `tasks` its part of
    the pipeline's graph. `memory_name` names what bounds memory-bound work ("hbm" or "dram").
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
        timeline: list[tuple[str, str, int, int]] | None = None,
    ) -> None:
        super().__init__(clock, fabric, rank)
        self.name = name
        self.steps = steps
        self.tier = tier
        self.loader = loader
        self.records: list[StepRecord] = []
        self.expert_loads = [0] * len(tier.slots)
        self.expert_hits = [0] * len(tier.slots)
        layers = len(tier.partitions)
        self.layer_hits = [[0] * layers, [0] * layers]  # [decode, prefill][layer]
        self.layer_late = [[0] * layers, [0] * layers]
        self.layer_loads = [[0] * layers, [0] * layers]
        self.layer_on_cpu = [[0] * layers, [0] * layers]
        self.busy_ps = 0
        self.path = Path()
        self._bound = ("overhead", memory_name, "compute")
        self._chain = [(task.op, task.layer, task.after, task.id) for task in tasks]
        self._dense = dense
        self._costs = expert_costs
        self._single = expert_costs.single()
        self._prefetch = prefetch
        self._execution = execution
        self._cpu = cpu
        self._exchange = exchange
        self._timeline = timeline
        self._fetched_ahead: list[list[Transfer]] = [[] for _ in range(layers)]
        self._experts_per_layer = len(tier.slots) // layers
        self._one_partition = all(p is tier.partitions[0] for p in tier.partitions)

    @property
    def uses_cpu(self) -> bool:
        """Whether missing experts may run on the host CPU."""
        return self._cpu is not None

    def process(self) -> Generator[Event, Any, None]:
        """The SimPy process."""
        t = 0
        block, table = None, []
        mine = self._exchange.requests_of(self.rank) if self._exchange is not None else None
        for number, step in enumerate(self.steps):
            if step.block is not block:
                block = step.block
                indices = mine(len(step.requests)) if mine is not None else None
                table = self._dense.table(block, indices)
            t = yield from self._step(number, step, table[step.row], t)

    def _step(self, number: int, step: Step, dense: list[list[int]], t: int) -> Generator[Event, Any, int]:
        path, exchange = self.path, self._exchange
        path.begin(t)
        ends, categories = path.ends, path.categories
        record = self.record = StepRecord(
            number, step.batch, step.prefill, step.tokens, step.requests, step.kv_tokens, t, last=step.last
        )
        groups, guesses = step.groups, step.guesses
        if exchange is not None:
            groups, guesses = exchange.own(self.rank, step)
        tier = self.tier
        tier.view.prefill = step.prefill
        overhead_name, memory_name, compute_name = self._bound
        timeline = self._timeline
        for op, layer, after, task in self._chain:
            if after:
                assert exchange is not None
                t = yield from exchange.gather(self, (number, after), t)
            begin = t
            if op is Op.EXPERTS:
                t = yield from self._experts(
                    layer, groups[layer], guesses[layer] if guesses is not None else (), step.prefill, t
                )
            elif op is Op.DENSE or op is Op.TAIL:
                overhead, memory, compute = dense[layer]
                if overhead:
                    t += overhead
                    ends.append(t)
                    categories.append(overhead_name)
                if memory:
                    t += memory
                    ends.append(t)
                    categories.append(memory_name)
                if compute:
                    t += compute
                    ends.append(t)
                    categories.append(compute_name)
                self.busy_ps += t - begin
            else:
                assert exchange is not None
                yield from exchange.send(self, number, task, step, layer, t, op is Op.COMBINE)
            if timeline is not None and t > begin:
                timeline.append((self.name, f"{op.name.lower()} {layer}", begin, t))
        if exchange is not None:
            t = yield from exchange.meet(self, number, t)
        if step.last:
            view = tier.view
            for partition in {id(p): p for p in tier.partitions}.values():
                partition.cache.on_sequence_end(view)
        record.end_ps = t
        record.waited_ps = path.totals()
        self.records.append(record)
        return t

    def _experts(
        self, layer: int, group: Group, guesses: Sequence[int], prefill: bool, t: int
    ) -> Generator[Event, Any, int]:
        """Look up, load, prefetch, compute: the experts of one layer. Returns the local time after them."""
        clock, fabric, tier = self.clock, self.fabric, self.tier
        if clock.stepwise or not clock.quiet(t):
            yield from self.sync(t)
        if fabric.next_ps <= t:
            fabric.advance(t)
        blobs, counts = group
        partition = tier.partitions[layer]
        pins, view, record = tier.pins, tier.view, self.record
        view.group += 1
        view.layer = layer
        hits, late, misses = tier.look_up(blobs)
        pins.update(blobs)
        if self._fetched_ahead[layer]:
            self._settle(layer, blobs, t)
        arriving: list[Transfer] = []
        waiting: Sequence[int] = ()  # loads without room yet
        on_cpu: Sequence[int] = ()
        tokens = dict(zip(blobs, counts, strict=True)) if counts is not None else None
        loads: Sequence[int] = misses
        if misses:
            if self._execution.uses_cpu:
                loads, on_cpu = self._execution.split(misses, tokens or dict.fromkeys(blobs, 1))
            kept: Sequence[int] = blobs
            if on_cpu:
                elsewhere = set(on_cpu)
                kept = [blob for blob in blobs if blob not in elsewhere]
            partition.cache.on_layer(kept, loads, view)
            for transfer in late:  # what already flows shall not be displaced by its own layer
                if transfer.state == 1:
                    fabric.promote(transfer, t)
            if loads:
                admitted = tier.admit(partition, loads)
                waiting = loads[admitted:]
                for blob in loads[:admitted]:
                    arriving.append(self._load(partition, blob, t))
        elif blobs:
            partition.cache.on_layer(blobs, (), view)
        for transfer in late:
            fabric.promote(transfer, t)
        on_host = (
            [self._cpu.submit(layer, blob, (tokens or {}).get(blob, 1), t) for blob in on_cpu]
            if (on_cpu and self._cpu is not None)
            else ()
        )
        if guesses:
            self._fetch_ahead(guesses, t)
        phase = 1 if prefill else 0
        self.layer_hits[phase][layer] += len(hits)
        record.hits += len(hits)
        for blob in hits:
            self.expert_hits[blob] += 1
        if late:
            self.layer_late[phase][layer] += len(late)
            record.late += len(late)
            arriving[:0] = late
        if misses:
            self.layer_loads[phase][layer] += len(loads)
            self.layer_on_cpu[phase][layer] += len(on_cpu)
            record.loads += len(loads)
            record.on_cpu += len(on_cpu)

        if hits:
            t = self._compute(layer, hits, tokens, t)
        if waiting:
            t = yield from self._stream(layer, hits, arriving, waiting, tokens, t)
        else:
            for transfer in arriving:
                landed = transfer.landed_ps
                if landed is None:
                    if clock.stepwise or not clock.quiet(t):
                        yield from self.sync(t)
                    if fabric.next_ps <= t:
                        fabric.advance(t)
                    landed = transfer.landed_ps
                    if landed is None:
                        landed = yield from self.landed(transfer)
                        if landed > t:
                            t = landed
                            self.path.waited_for(transfer)
                elif landed > t:  # landed while somebody else was waited for
                    t = landed
                    self.path.waited_for(transfer)
                t = self._compute(layer, (transfer.blob,), tokens, t)
        for work in on_host:
            landed = work.landed_ps if work.landed_ps is not None else (yield from self.landed(work))
            if landed > t:
                t = landed
                self.path.waited_for(work)
        if on_host and self._cpu is not None:
            t += self._cpu.round_trip_ps(sum((tokens or {}).get(blob, 1) for blob in on_cpu))
            self.path.add(t, self._cpu.link_category)
        pins.difference_update(blobs)
        return t

    def _load(self, partition: Any, blob: int, t: int) -> Transfer:
        self.expert_loads[blob] += 1
        self.record.load_bytes += self.tier.sizes[blob]
        return self.loader.load(partition, blob, t, True)

    def _stream(
        self,
        layer: int,
        ready: list[int],
        arriving: list[Transfer],
        waiting: Sequence[int],
        tokens: dict[int, int] | None,
        t: int,
    ) -> Generator[Event, Any, int]:
        """More experts than fit at once: those that have run give their room to those that wait."""
        tier, partition = self.tier, self.tier.partitions[layer]
        queue, left = list(arriving), list(waiting)
        done = list(ready)
        while queue or left:
            tier.pins.difference_update(done)
            done = []
            if left:
                if self.must_sync(t):
                    yield from self.sync(t)
                if self.fabric.next_ps <= t:
                    self.fabric.advance(t)
                admitted = tier.admit(partition, left)
                queue += [self._load(partition, blob, t) for blob in left[:admitted]]
                left = left[admitted:]
            if not queue:  # room is held by fetches ahead of their layer: let one land, then drop it
                self._drop_fetched_ahead(t)
                held = next((tr for row in self._fetched_ahead for tr in row), None)
                if held is None and not tier.draining:
                    continue
                last = held or tier.draining[0][0]
                t = max(t, (yield from self.landed(last)))
                continue
            transfer = queue.pop(0)
            landed = transfer.landed_ps if transfer.landed_ps is not None else (yield from self.landed(transfer))
            if landed > t:
                t = landed
                self.path.waited_for(transfer)
            if self.fabric.next_ps <= t and not self.must_sync(t):
                self.fabric.advance(t)
            tier.look_up((transfer.blob,))  # marks it resident
            t = self._compute(layer, (transfer.blob,), tokens, t)
            done.append(transfer.blob)
        return t

    def _compute(self, layer: int, blobs: Sequence[int], tokens: dict[int, int] | None, t: int) -> int:
        """Run experts that are here, as one launch."""
        begin = t
        path = self.path
        ends, categories = path.ends, path.categories
        t += self._costs.launch_ps
        ends.append(t)
        categories.append("overhead")
        if tokens is None:
            cost_ps, bound = self._single[layer]
            t += cost_ps * len(blobs)
            ends.append(t)
            categories.append(self._bound[bound])
        else:
            busy = [0, 0, 0]
            for blob in blobs:
                cost_ps, bound = self._costs.of(layer, tokens[blob])
                busy[bound] += cost_ps
            for bound in (1, 2):
                if busy[bound]:
                    t += busy[bound]
                    ends.append(t)
                    categories.append(self._bound[bound])
        self.busy_ps += t - begin
        return t

    def _fetch_ahead(self, guesses: Sequence[int], t: int) -> None:
        tier, slots = self.tier, self.tier.slots
        missing = [blob for blob in guesses if slots[blob] is None]
        if not missing:
            return
        chosen = self._prefetch.choose(missing, self.loader.lane.queue_depth)
        if not chosen:
            return
        view = tier.view
        view.prefetching = True
        if self._one_partition:
            partition = tier.partitions[0]
            chosen = chosen[: tier.admit(partition, chosen)]
            for blob in chosen:
                self._start_ahead(partition, blob, t)
        else:
            for blob in chosen:
                partition = tier.partitions[blob // self._experts_per_layer]
                if tier.admit(partition, (blob,)):
                    self._start_ahead(partition, blob, t)
        view.prefetching = False

    def _start_ahead(self, partition: Any, blob: int, t: int) -> None:
        transfer = self.loader.load(partition, blob, t, False)
        partition.cache.on_insert((blob,), self.tier.view)
        self.tier.pins.add(blob)
        self._fetched_ahead[blob // self._experts_per_layer].append(transfer)
        self.record.prefetches += 1
        self.record.prefetch_bytes += transfer.size_bytes

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
        busy_ps, _ = self._costs.of(layer, tokens)
        cap = max(1, size * 1_000_000_000_000 // max(1, busy_ps))
        work = Transfer(blob, size, True, cap)
        self._fabric.submit(self._lane, work, now_ps)
        return work

    def round_trip_ps(self, tokens: int) -> int:
        """Activations to the host and results back."""
        return 2 * self._latency_ps + round(2 * tokens * self._ps_per_token)
