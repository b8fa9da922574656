"""A worker whose layers stream through it: one step is one task graph over several streams."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import numpy as np
from simpy.events import Event

from simulator.batching.source import StepSource
from simulator.engine import PS_PER_S, Clock, Fabric, Lane
from simulator.engine.fabric import UNLIMITED
from simulator.plan import Step
from simulator.policies.pipeline.micro_batches import MicroBatches
from simulator.policies.pipeline.stream_graph import STREAM_OF, Kind, Stream, StreamTask
from simulator.residency import Tier
from simulator.runtime.loader import Loader
from simulator.runtime.path import Path
from simulator.runtime.record_log import RecordLog
from simulator.runtime.recorder import Recorder
from simulator.runtime.worker import StepRecord
from simulator.streaming.costs import MicroBatchCosts, StepCosts, balanced
from simulator.streaming.memory import Rooms
from simulator.streaming.streams import Job, Parts, Streams, critical

LABELS = {Kind.FRONT: ("front", "dense"), Kind.BACK: ("experts", "experts"), Kind.WHOLE: ("layer", "experts")}


class StreamingWorker(Streams):
    """Runs steps one after another; the weights of the next one's first layer come while the last layer runs.

    rooms: what is resident and what a layer streams. framework_ps: what software adds to each layer. kv_bytes_per_s:
    the rate at which KV cache can be copied to the GPU.
    """

    adapter = None
    stretches = None

    def __init__(
        self,
        clock: Clock,
        fabric: Fabric,
        *,
        name: str,
        memory_name: str,
        lanes: list[Lane | None],
        source: StepSource,
        pipeline: MicroBatches,
        micro_batch: int,
        costs: MicroBatchCosts,
        rooms: Rooms,
        tier: Tier,
        framework_ps: int,
        kv_bytes_per_s: int | None,
        recorder: Recorder | None,
    ) -> None:
        super().__init__(clock, fabric, 0, lanes)
        self.name, self.source, self.tier = name, source, tier
        to_gpu = lanes[Stream.TO_GPU]
        assert to_gpu is not None
        self.loader = Loader(fabric, to_gpu, tier)
        self.uses_cpu = pipeline.on_cpu
        self.records = RecordLog(StepRecord)
        self.expert_loads = [0] * len(tier.slots)
        self.layer_counts = [[[0] * 4 for _ in range(tier.layers)] for _ in range(2)]
        self.rewritten: list[Any] = [None, None]
        self.busy_ps = self.end_ps = 0
        self.path = Path(("overhead", memory_name, "compute"))
        self._pipeline, self._micro_batch, self._costs, self._rooms = pipeline, micro_batch, costs, rooms
        self._framework_ps = framework_ps
        self._kv_cap = kv_bytes_per_s or UNLIMITED
        self._recorder = recorder
        self._experts = len(tier.slots) // tier.layers
        self._graphs: dict[tuple[int, bool, int, bool], list[StreamTask]] = {}
        self._carried: list[Job] = []  # pages of the first layer that the step before asked for
        self._batch = -1
        self._micro_batch_of: dict[int, int] = {}

    def process(self) -> Generator[Event, Any, None]:
        """The SimPy process."""
        t = number = 0
        step = self.source.step(0, 0)
        while step is not None:
            assert isinstance(step, Step)
            following = self.source.step(number + 1, t)
            t = yield from self._step(number, step, following is not None, t)
            number, step = number + 1, following
        self.end_ps = t

    def _members(self, step: Step) -> tuple[np.ndarray, int]:
        """Micro-batch of each request of a step, and how many there are; they stay as at the batch's first step."""
        if step.batch != self._batch:
            self._batch = step.batch
            found = balanced(step.kv_tokens, self._micro_batch)
            self._micro_batch_of = dict(zip(step.requests, found.tolist(), strict=True))
        where = [self._micro_batch_of.get(request, 0) for request in step.requests]
        there, members = np.unique(where, return_inverse=True)
        return members, len(there)

    def _step(self, number: int, step: Step, more: bool, t: int) -> Generator[Event, Any, int]:
        recorder = self._recorder.begin(number, step, t) if self._recorder is not None else None
        record = StepRecord(
            number, step.batch, step.prefill, step.tokens, step.requests, step.kv_tokens, t, last=step.last
        )
        record.prompt_tokens = step.prompt_tokens
        if step.lost is not None:
            so_far = self.rewritten[step.prefill]
            self.rewritten[step.prefill] = step.lost if so_far is None else so_far + step.lost
        members, parts = self._members(step)
        key = (parts, step.prefill, len(self._carried), more)
        if key not in self._graphs:
            rooms = self._rooms
            self._graphs[key] = self._pipeline.stream_tasks(self.tier.layers, *key, rooms.dense_share)
        tasks = self._graphs[key]
        jobs = self._jobs(tasks, self._costs.of(step, members, parts))
        last = next(job for task, job in zip(reversed(tasks), reversed(jobs), strict=True) if job.cost is not None)
        yield from self.run(last, t)
        assert last.end_ps is not None
        record.end_ps = last.end_ps
        self._attribute(record, last)
        self._count(record, step, tasks, jobs)
        self.records.append(record)
        if recorder is not None:
            for task, job in zip(tasks, jobs, strict=True):
                if job.cost is not None and job.end_ps is not None:
                    label, kind = LABELS[task.kind]
                    recorder.ran(self.name, f"{label} {job.name}", (job.start_ps, job.end_ps), kind, task.layer)
            recorder.end(self.name, record, record.start_ps)
        for job in jobs:
            job.cause = None
        self.forget()
        return last.end_ps

    def _jobs(self, tasks: list[StreamTask], costs: StepCosts) -> list[Job]:
        """Queue the tasks of a step."""
        jobs: list[Job] = []
        carried = self._carried
        coming: list[Job] = []
        gpu = self._gpu_costs(costs)
        layers, rooms = self.tier.layers, self._rooms
        qkv, hidden = costs.qkv_bytes.tolist(), costs.hidden_bytes.tolist()
        reads, writes = costs.cache_bytes.tolist(), costs.new_bytes.tolist()
        host_ps = costs.host_ps.tolist()
        for kind, layer, part, parts, after in tasks:
            needs = [jobs[place] if place >= 0 else carried[-1 - place] for place in after]
            name = f"{layer % layers}/{part}"
            if kind <= Kind.WHOLE:
                job = Job(name, needs, cost=gpu[kind][layer][part])
            elif kind in (Kind.WEIGHTS, Kind.STAGE):
                size = rooms.page_bytes(layer % layers, part, parts)
                staging = kind is Kind.STAGE  # read here and written there
                blob = layer % layers * self._experts + part * self._experts // parts
                job = Job(name, needs, size_bytes=2 * size if staging else size, blob=blob)
                if layer == layers and not staging:
                    coming.append(job)
            elif kind is Kind.ATTENTION:
                size = reads[layer][part]
                cap = max(1, size * PS_PER_S // max(1, host_ps[layer][part]))
                job = Job(name, needs, size_bytes=size, cap_bytes_per_s=cap)
            elif kind is Kind.KEYS_IN:
                before = reads[layer][part] - writes[layer][part]
                job = Job(name, needs, size_bytes=before, cap_bytes_per_s=self._kv_cap)
            else:
                size = {Kind.QKV: qkv, Kind.HIDDEN: hidden, Kind.KEYS_OUT: writes[layer]}[kind][part]
                job = Job(name, needs, size_bytes=size)
            jobs.append(job)
            self.add(STREAM_OF[kind], job)
        self._carried = coming
        return jobs

    def _gpu_costs(self, costs: StepCosts) -> list[list[list[Parts]]]:
        """[kind][layer][micro-batch] of the kinds that run on the GPU."""
        back = costs.back.copy()
        back[:, 0, 0] += self._framework_ps
        parts = (costs.front, back, costs.front + costs.attention + back)
        return [
            [
                [(launch + memory + compute, (launch, memory, compute)) for launch, memory, compute in row]
                for row in rows
            ]
            for rows in (kind.tolist() for kind in parts)
        ]

    def _attribute(self, record: StepRecord, last: Job) -> None:
        """The critical path of a step."""
        path = self.path
        path.begin(record.start_ps)
        for job in critical(last, record.start_ps):
            assert job.end_ps is not None
            lane = self.lanes[job.stream]
            path.add(job.end_ps, job.cost[1] if lane is None and job.cost is not None else lane.category)  # type: ignore[union-attr]
        record.waited_ps = path.totals()

    def _count(self, record: StepRecord, step: Step, tasks: list[StreamTask], jobs: list[Job]) -> None:
        """Experts that a step asked for: late, if their layer's first micro-batch had to wait for its weights. All of a
        layer are fetched ahead, whether asked for or not."""
        rooms, counters = self._rooms, self.layer_counts[record.prefill]
        for (kind, layer, part, parts, _), job in zip(tasks, jobs, strict=True):
            if job.cost is not None:
                record.busy_ps += job.cost[0]
            if kind in (Kind.BACK, Kind.WHOLE) and part == 0:
                asked = len(step.groups[layer][0])
                late = job.cause is not None and job.cause.blob >= 0 and job.cause.end_ps > record.start_ps  # type: ignore[operator]
                counters[layer][late] += asked
                record.hits += 0 if late else asked
                record.late += asked if late else 0
                record.useful_prefetches += asked if rooms.resident < 1 else 0
            elif kind is Kind.WEIGHTS and part == parts - 1 and rooms.resident < 1:
                size = rooms.experts[layer % self.tier.layers]
                record.prefetches += self._experts
                record.prefetch_bytes += size - int(size * rooms.resident)
        self.busy_ps += record.busy_ps
