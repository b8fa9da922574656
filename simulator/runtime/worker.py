"""A worker: the process that runs the tasks of every step on one GPU (or on a phone's CPU)."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from simpy.events import Event

from simulator.batching.source import StepSource
from simulator.engine import ACTIVE, Clock, Fabric, Lane, Stream, Transfer
from simulator.layer_work import LayerWork
from simulator.plan import Block, Group, Step
from simulator.policies.execution.base import ExecutionPolicy, check_split
from simulator.policies.execution.fetch import FetchToGpu
from simulator.policies.pipeline.base import Op, Task
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prefetch.base import PrefetchPolicy
from simulator.residency import Partition, PolicyError, Tier
from simulator.routing import Routing
from simulator.runtime.adapt import Adapter
from simulator.runtime.ahead import FetchedAhead
from simulator.runtime.collectives import Collectives
from simulator.runtime.costs import DenseTable, ExpertCosts, Parts
from simulator.runtime.cpu import CpuExperts
from simulator.runtime.exchange import Exchange
from simulator.runtime.loader import Loader
from simulator.runtime.loop_order import LoopOrder
from simulator.runtime.near import NearUnits
from simulator.runtime.path import Path
from simulator.runtime.processed import Processed
from simulator.runtime.record_log import RecordLog
from simulator.runtime.recorder import Recorder
from simulator.runtime.slices import LaunchCosts
from simulator.runtime.stages import Stages

if TYPE_CHECKING:
    from simulator.batching.layout_stretches import WorkerStretches
    from simulator.batching.stretches import Stretches

DENSE, EXPERTS, TAIL = Op.DENSE, Op.EXPERTS, Op.TAIL


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
    prompt_tokens: int = 0
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
    what its cache costs: ps per look-up of a layer and ps per evicted byte; `framework_ps` what its software
    adds to every routed layer. `adapter` changes what a layer asks for, `routing` shows what the router said;
    `swap_lanes` carry KV cache from and to host memory; `forecaster` is a prediction that is asked in every layer;
    `move_ps_per_byte` the time of a copy within its memory; `loop_order` says how often weights are read in a layer;
    `slices` what its launches cost where experts are cut unequally.
    """

    def __init__(
        self,
        clock: Clock,
        fabric: Fabric,
        rank: int,
        *,
        name: str,
        memory_name: str,
        source: StepSource,
        tasks: Sequence[Task],
        tier: Tier,
        loader: Loader,
        dense: DenseTable,
        expert_costs: ExpertCosts,
        processed: Processed,
        prefetch: PrefetchPolicy,
        execution: ExecutionPolicy,
        cpu: CpuExperts | None = None,
        near: NearUnits | None = None,
        exchange: Exchange | None = None,
        recorder: Recorder | None = None,
        management: tuple[int, float] = (0, 0.0),
        framework_ps: int = 0,
        adapter: Adapter | None = None,
        routing: Routing | None = None,
        swap_lanes: tuple[Lane, Lane] | None = None,
        collectives: Collectives | None = None,
        forecaster: PredictionPolicy | None = None,
        move_ps_per_byte: float = 0.0,
        loop_order: LoopOrder | None = None,
        slices: LaunchCosts | None = None,
    ) -> None:
        super().__init__(clock, fabric, rank)
        self.name = name
        self.source = source
        self.tier = tier
        self.loader = loader
        self.records = RecordLog(StepRecord)
        self.expert_loads = [0] * len(tier.slots)
        layers = tier.layers
        self.layer_counts = [[[0] * 4 for _ in range(layers)] for _ in range(2)]  # [prefill][layer]: hits ... on_cpu
        self.busy_ps = self.end_ps = 0
        self.path = Path(("overhead", memory_name, "compute"))
        self._chain = [(task.op, task.layer, task.after, task.id) for task in tasks]
        self.dense = dense
        self.processed = processed
        self._costs = expert_costs
        self._experts_per_layer = len(tier.slots) // len(tier.partitions)
        self._levels = len(tier.partitions) // layers
        self._single = expert_costs.single(self._experts_per_layer)
        self._prefetch = prefetch
        self._execution = execution
        self.cpu = cpu
        self._near = near
        self._exchange = exchange
        self.collectives = collectives
        self.recording: Recorder | None = None  # the recorder, in steps that it records
        self._recorder = recorder
        self._management = management if any(management) else None
        self._evicted_bytes = 0  # of which the time has been spent
        self._ahead = FetchedAhead(fabric, tier, loader, prefetch)
        self.rewritten: list[Any] = [None, None]  # [prefill]: gate weight that rewriting lost, [layers, 2]
        self._framework_ps = framework_ps
        self.adapter = adapter
        self._routing = routing
        self._swap_lanes = swap_lanes
        self._forecaster, self._move_ps_per_byte = forecaster, move_ps_per_byte
        self.loop_order, self.slices = loop_order, slices
        self.stages: Stages | None = None  # where several steps are under way at once
        self.stretches: Stretches | WorkerStretches | None = None
        tier.view.routing = routing
        self._splits = not isinstance(execution, FetchToGpu)
        self._hearing = [c for c in {id(p): p.cache for p in tier.partitions}.values() if c.hears_forecast]
        cpu_ps = cpu.runs_ps if cpu is not None else None
        self._work = LayerWork(
            tier, loader.lane, routing or Routing(), self._runs_ps, cpu_ps, near.units if near else {}, self._firsts_ps
        )

    @property
    def uses_cpu(self) -> bool:
        """Whether missing experts may run on the host CPU, or another unit near memory."""
        return self.cpu is not None or self._near is not None

    def process(self) -> Generator[Event, Any, None]:
        """The SimPy process."""
        t = number = 0
        block: Block | None = None
        mine: list[int] | None = None
        table: list[tuple[Parts, ...]] = []
        while True:
            if self.stretches is not None and self.stretches.ready():
                number, t = self.stretches.run(number, t)
            began = None
            if self.stages is None:
                step = self.source.step(number, t)
            else:
                step, began, t = yield from self.stages.take(self, number, t)
            if step is None:
                break
            if isinstance(step, int):
                t = step
                continue
            if step.block is not block:
                block = step.block
                mine = self._exchange.requests_of(self.rank, block.slots) if self._exchange is not None else None
                table = self.dense.table(block, mine)
                if self.collectives is not None:
                    self.collectives.load(block, mine)
                if self._framework_ps:
                    table = [tuple(self._with_framework(part) for part in row[:-1]) + row[-1:] for row in table]
            self.processed.step(step, mine)
            t = yield from self._step(number, step, table[step.row], t, began)
            number += 1
            if self.stages is not None:
                self.stages.left(self, t)
        self.end_ps = t

    def _step(
        self, number: int, step: Step, dense: tuple[Parts, ...], t: int, began: int | None
    ) -> Generator[Event, Any, int]:
        """Run a step from `t` on; `began`: when the first stage did, if that is another time."""
        path, exchange, collectives, tier = self.path, self._exchange, self.collectives, self.tier
        recorder = self.recording = self._recorder.begin(number, step, t) if self._recorder is not None else None
        begin = t
        start = t if began is None else began
        path.begin(start)
        if t > start:
            path.add(t, "pipeline")
        ends, parts = path.ends, path.parts
        record = self.record = StepRecord(
            number, step.batch, step.prefill, step.tokens, step.requests, step.kv_tokens, start, last=step.last
        )
        record.prompt_tokens = step.prompt_tokens
        groups, guesses, scores = step.groups, step.guesses, step.scores
        if self._routing is not None:
            self._routing.begin(step)
        if step.lost is not None:
            so_far = self.rewritten[step.prefill]
            self.rewritten[step.prefill] = step.lost if so_far is None else so_far + step.lost
        self._work.prefill = step.prefill
        self._work.scores = None
        if exchange is not None:
            groups, guesses = exchange.own(self.rank, step)
            scores = exchange.own_scores(self.rank, step)
        tier.view.prefill = step.prefill
        nothing: Sequence[int] = ()
        busy, busy_before_ps, evicted_before_bytes = 0, self.busy_ps, tier.evicted_bytes
        if step.swaps:
            t = yield from self._swap(step, t)
        if step.moved:
            move_ps = round(self._move_ps_per_byte * sum(size for worker, size in step.moved if worker == self.rank))
            t += move_ps
            path.add(t, (0, move_ps, 0))
        for op, layer, after, task in self._chain:
            if after:
                assert exchange is not None
                t = yield from exchange.gather(self, number, after, t)
            if op is EXPERTS:
                if scores is not None:
                    self._work.scores = scores[layer]
                named = guesses[layer] if guesses else nothing
                if self._forecaster is not None and self._routing is not None:
                    named, self._work.scores = self._forecaster.expect(layer, self._routing)
                t = yield from self._experts(layer, groups[layer], named, t)
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
            elif collectives is not None and op in collectives.ops:
                t = yield from collectives.run(self, number, task, op, step, layer, t)
            else:
                assert exchange is not None
                yield from exchange.send(self, number, task, step, layer, t, op)
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
            recorder.end(self.name, record, begin)
        return t

    def _swap(self, step: Step, t: int) -> Generator[Event, Any, int]:
        """Copy KV cache to the host and back, all at once, before the step begins."""
        assert self._swap_lanes is not None
        if self.must_sync(t):
            yield from self.sync(t)
        if self.fabric.next_ps <= t:
            self.fabric.advance(t)
        copies = []
        for worker, out, size_bytes in step.swaps:
            if worker == self.rank:
                copies.append(Transfer(-1, size_bytes, True))
                self.fabric.submit(self._swap_lanes[not out], copies[-1], t)
        if self.recording is not None:
            self.recording.asked(self.name, copies, t)
        for copy in copies:
            landed = yield from self.landed(copy)
            if landed > t:
                t = landed
                self.path.waited_for(copy)
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
        if self.adapter is not None:
            blobs, tokens = self.adapter.blobs(layer, record.prefill, group)
            self.adapter.expect(guesses)
            if self._levels > 1:
                guesses = [self.adapter.home[blob] for blob in guesses]
                self.processed.expert_bytes[record.prefill] += sum([self.adapter.read_bytes(blob) for blob in blobs])
        if tokens is not None:
            self.processed.shared_tokens[record.prefill] += sum(tokens.values()) - len(blobs)
        pins, view = tier.pins, tier.view
        view.group += 1
        view.layer = layer
        if guesses and self._hearing:
            for cache in self._hearing:
                cache.on_forecast(guesses, self._work.scores, view)
        counters = self.layer_counts[record.prefill][layer]
        mark = len(path.ends)  # the path as it is when this layer submits its loads
        hits, late, misses = tier.look_up(blobs)
        fetched = self._ahead.rows[layer]
        pinned = bool(misses or late or fetched)  # else nobody will ask for room while this layer runs
        if pinned:
            pins.update(blobs)
            if fetched:
                self._ahead.settle(layer, blobs, record, t)
        if tier.staged:
            for blob in blobs:
                if blob in tier.staged:
                    pins.update(blobs)
                    pinned = True
                    tier.claim(tier.partitions[blob // self._experts_per_layer], blob)
        arriving: list[Transfer] = late
        waiting: Sequence[int] = ()  # loads without room yet
        on_cpu: list[Transfer] = []
        extra: Sequence[int] = ()  # loaded though no token needs them
        if misses or (self._splits and self._execution.always and blobs):
            loads: Sequence[int] = misses
            here = blobs
            if self._splits:
                if tokens is None:
                    tokens = dict.fromkeys(blobs, 1)
                loads, hits, on_cpu = self._split(layer, blobs, tokens, hits, misses, t)
                beside = len(on_cpu) + (self._near.experts if self._near is not None else 0)
                record.on_cpu += beside
                counters[3] += beside
                elsewhere = {work.blob for work in on_cpu}
                if self._near is not None:
                    elsewhere |= self._near.elsewhere()
                self.processed.on_host(record.prefill, on_cpu, tokens)
                here = [blob for blob in blobs if blob not in elsewhere]
                extra = [blob for blob in loads if blob not in tokens]
                if extra:
                    pins.update(extra)
                    late = late + self._ahead.coming(layer, extra)
                    loads = [blob for blob in loads if tier.slots[blob] is None]
                pinned = True
            if late and self._prefetch.promotes:
                for transfer in late:
                    if transfer.state == ACTIVE:  # what already flows is not displaced by its own layer
                        fabric.promote(transfer, t)
            self._tell(layer, (*here, *extra), loads)
            arriving = late
            if loads:
                loaded, waiting = self._load(layer, loads, t)
                arriving = late + loaded
                asked = sum(blob in tokens for blob in loads) if extra else len(loads)  # type: ignore[operator]
                record.loads += asked
                counters[2] += asked
        elif blobs:
            self._tell(layer, blobs, ())
        if self.cpu is not None and self.cpu.early:  # begun in vain
            for blob in [blob for blob in self.cpu.early if self._work.layer_of(blob) == layer]:
                del self.cpu.early[blob]
        if late:
            if self._prefetch.promotes:
                for transfer in late:
                    fabric.promote(transfer, t)
            asked = sum(tr.blob in tokens for tr in late) if extra else len(late)  # type: ignore[operator]
            record.late += asked
            counters[1] += asked
        if guesses:
            slots = tier.slots
            expected = []
            for blob in guesses:
                if slots[blob] is None:
                    expected.append(blob)
            if expected:
                if not pinned:
                    pinned = True
                    pins.update(blobs)
                work = self._work
                work.layer, work.expected, work.blobs = layer, guesses, blobs
                work.tokens = tokens if tokens is not None else dict.fromkeys(blobs, 1)
                self._ahead.fetch(expected, work, record, t)
            if self._execution.precomputes:
                self._compute_ahead(guesses, t)

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
                t += duration
                ends.append(t)
                parts.append(split)
            else:
                t = self._run(hits, tokens, t)
            if self._near is not None and self._near.jobs:
                t = yield from self._near.beside(self, hits, tokens, managed, t)
        if recorder is not None:
            near_jobs = self._near.jobs if self._near is not None else ()
            recorder.asked(self.name, (*arriving[len(late) :], *on_cpu, *near_jobs), begin)
            recorder.asked_ahead(self.name, self._ahead, begin)
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
                    if extra and transfer.blob not in tokens:
                        continue
                    row = self._row(transfer.blob)
                    duration, split = self._launch(row, (transfer.blob,), tokens)
                t += duration
                busy += duration
                ends.append(t)
                parts.append(split)
            if recorder is not None:
                lasts = [self._lasts_ps(layer, transfer.blob, tokens) for transfer in arriving]
                recorder.ran_loaded(self.name, layer, arriving, lasts, ready)
        self.busy_ps += busy
        if on_cpu or (self.cpu is not None and self.cpu.deferred):
            t = yield from self._join_cpu(layer, on_cpu, tokens, t)
        if self._near is not None and self._near.jobs:
            t = yield from self._near.join(self, t)
        if pinned:
            pins.difference_update(blobs)
            pins.difference_update(extra)
            if self._ahead.rows[layer]:  # fetched already for the next time this layer runs
                pins.update(transfer.blob for transfer in self._ahead.rows[layer])
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

    def _with_framework(self, part: Parts) -> Parts:
        total, (launch, memory, compute) = part
        return total + self._framework_ps, (launch + self._framework_ps, memory, compute)

    def _tell(self, layer: int, blobs: Sequence[int], loads: Sequence[int]) -> None:
        """Tell the caches what the layer uses from this memory."""
        tier = self.tier
        if tier.staged:  # what found no room in its cache runs from where it was staged
            blobs = [blob for blob in blobs if blob not in tier.staged]
        if self._levels == 1:
            tier.partitions[layer].cache.on_layer(tuple(blobs), tuple(loads), tier.view)
            return
        for partition in {id(p): p for p in tier.partitions[layer :: tier.layers]}.values():
            own, new = ([blob for blob in some if self._partition(blob) is partition] for some in (blobs, loads))
            if own:
                partition.cache.on_layer(tuple(own), tuple(new), tier.view)

    def _partition(self, blob: int) -> Partition:
        return self.tier.partitions[blob // self._experts_per_layer]

    def _load(self, layer: int, blobs: Sequence[int], t: int) -> tuple[list[Transfer], Sequence[int]]:
        """Load what there is room for, in order. Returns the transfers, and the blobs that have to wait."""
        tier, partition, transfers = self.tier, self.tier.partitions[layer], []
        left = blobs
        while left:
            some = left
            if self._levels > 1:  # as many as lie in one partition
                partition = self._partition(left[0])
                others = (n for n, blob in enumerate(left) if self._partition(blob) is not partition)
                some = left[: next(others, len(left))]
            admitted = tier.admit(partition, some)
            whole = admitted == len(some)
            if admitted:
                transfers += self.loader.load(partition, some if whole else some[:admitted], t, True)
            left = left[admitted:]
            if not whole:
                break
        loads, sizes, record = self.expert_loads, tier.sizes, self.record
        for transfer in transfers:
            loads[transfer.blob] += 1
            record.load_bytes += sizes[transfer.blob]
        return transfers, left

    def _split(
        self,
        layer: int,
        blobs: Sequence[int],
        tokens: dict[int, int],
        hits: Sequence[int],
        misses: Sequence[int],
        t: int,
    ) -> tuple[Sequence[int], Sequence[int], list[Transfer]]:
        """Ask `execution`. Returns what to load, what to run here at once, and what runs on the host CPU."""
        cpu, policy = self.cpu, self._execution
        begun: list[Transfer] = []
        if cpu is not None and cpu.early:
            begun = [cpu.early.pop(blob) for blob in misses if blob in cpu.early]
            misses = [blob for blob in misses if all(blob != work.blob for work in begun)]
        if not misses and not policy.always:
            return (), hits, begun
        work = self._work
        work.layer, work.blobs, work.tokens, work.hits, work.misses = layer, blobs, tokens, hits, misses
        split = policy.split(work)
        check_split(policy, split, misses, tokens, layer)
        fetch, on_cpu, deferred, units, shares = split
        near = {blob for some in units.values() for blob in some}
        if near:
            assert self._near is not None
            self._near.submit(units, tokens, hits, t, shares)
            for name, weights, served in self._near.parts(units, tokens, self.tier.sizes, shares):
                self.processed.on_unit(self.record.prefill, name, weights, served)
            hits = [blob for blob in hits if blob not in near]
        if on_cpu:
            assert cpu is not None
            hits = [blob for blob in hits if blob not in on_cpu]
            last = layer == self.tier.layers - 1
            for blob in on_cpu:
                job = cpu.submit(blob, tokens[blob], t)
                if blob in deferred and not last:
                    cpu.deferring.append((job, tokens[blob]))
                begun.append(job)
        return fetch, hits, begun

    def _compute_ahead(self, guesses: Sequence[int], t: int) -> None:
        """Start what `execution` wants computed on the host CPU before its layer asks for it."""
        assert self.cpu is not None
        self._work.expected = guesses
        for blob in self._execution.ahead(self._work):
            if blob not in self.cpu.early:
                self.cpu.early[blob] = self.cpu.submit(blob, 1, t)

    def _run(self, blobs: Sequence[int], tokens: dict[int, int] | None, t: int) -> int:
        """Run experts of one layer that are here, those of one precision as one launch; returns when the last ends."""
        rows: dict[int, list[int]] = {}
        if self._levels == 1:
            rows[blobs[0] // self._experts_per_layer] = list(blobs)
        else:
            for blob in blobs:
                rows.setdefault(self._row(blob), []).append(blob)
        for row, some in rows.items():
            duration, split = self._launch(row, some, tokens)
            t += duration
            self.path.ends.append(t)
            self.path.parts.append(split)
        return t

    def _row(self, blob: int) -> int:
        return self.adapter.row(blob) if self.adapter is not None else blob // self._experts_per_layer

    def _launch(self, row: int, blobs: Sequence[int], tokens: dict[int, int] | None) -> Parts:
        """What experts of `row` that are here take as one launch."""
        served = self._served(blobs, tokens)
        if self.slices is not None:
            return self.slices.launch(self.record.prefill, blobs, served)
        return self._costs.together(row, served)

    def _served(self, blobs: Sequence[int], tokens: dict[int, int] | None) -> list[int]:
        """Tokens of each time that the weights of these experts of a layer are read: once, but for a loop order."""
        if tokens is None:
            return [1] * len(blobs)
        if self.loop_order is None:
            return [tokens[blob] for blob in blobs]
        return self.loop_order.served(self.record.prefill, blobs[0] // self._experts_per_layer, blobs)

    def _runs_ps(self, row: int, tokens: Sequence[int]) -> int:
        """How long experts of `row` (level * layers + layer) run as one launch."""
        return self._costs.together(row, tokens)[0]

    def _firsts_ps(self, row: int, tokens: Sequence[int]) -> list[int]:
        """[n]: the same of the first n of them."""
        return self._costs.firsts_ps(row, tokens)

    def _lasts_ps(self, layer: int, blob: int, tokens: dict[int, int] | None) -> int:
        """How long one expert runs by itself."""
        if tokens is None:
            return self._single[layer][1][0]
        return self._costs.together(blob // self._experts_per_layer, (tokens[blob],))[0] if blob in tokens else 0

    def _join_cpu(
        self, layer: int, on_cpu: list[Transfer], tokens: dict[int, int] | None, t: int
    ) -> Generator[Event, Any, int]:
        """Wait for the experts on the host CPU, then for their activations' round trip. Those that may come a layer
        later are not waited for; those of the layer before are."""
        cpu = self.cpu
        assert cpu is not None
        later = {work.blob for work, _ in cpu.deferring}
        joined = [
            *cpu.deferred,
            *((work, tokens[work.blob] if tokens else 1) for work in on_cpu if work.blob not in later),
        ]
        cpu.deferred, cpu.deferring = cpu.deferring, []
        for work, _ in joined:
            landed = yield from self.landed(work)
            if landed > t:
                t = landed
                self.path.waited_for(work)
        if not joined:
            return t
        begin = t
        t += cpu.round_trip_ps(sum(served for _, served in joined))
        self.path.add(t, cpu.link_category)
        if self.recording is not None:
            works = [work for work, _ in joined]
            self.recording.ran(self.name, f"results {layer}", (begin, t), "results", layer, works)
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
        tier, fabric, recorder = self.tier, self.fabric, self.recording
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
                loads, rest = self._load(layer, left, t)
                queue += loads
                left = list(rest)
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
                if tokens is None or transfer.blob in tokens:
                    t = self._run((transfer.blob,), tokens, t)
                self.busy_ps += t - begin
                if recorder is not None:
                    recorder.ran_loaded(self.name, layer, (transfer,), (t - begin,), begin)
                done.append(transfer.blob)
                stuck = False
                continue
            # The room is held by fetches ahead of their layer, or by the last chunk of cancelled ones.
            self._ahead.drop(t)
            held = next(iter(self._ahead), None)
            if held is None and tier.draining:
                held = tier.draining[0][0]
            if held is not None:
                landed = yield from self.landed(held)
                if landed > t:
                    t = landed
                    self.path.waited_for(held)
            elif stuck:
                partition = self._partition(left[0])
                raise PolicyError(
                    f"policy/cache {type(partition.cache).__name__} named no victim although an expert of layer"
                    f" {layer} waits; expected room for it among {partition.used_bytes} used bytes."
                )
            stuck = held is None
        return t
