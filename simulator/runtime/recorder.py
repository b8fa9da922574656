"""What a timeline is made of, kept while a run goes on: compute, transfers and room of some of the requests.

The recorder only looks on. It decides once per step whether to record; where it does not, a worker
does no more than find that out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from simulator.engine.fabric import LANDED, NEVER, Transfer

if TYPE_CHECKING:
    from simulator.plan import Step
    from simulator.residency import Tier
    from simulator.runtime.worker import StepRecord
    from simulator.scenario import Settings

CUT = "the timeline shows only the first steps of some requests (settings.timeline_slices)"


class Segment(NamedTuple):
    """Time in which a worker was busy. kind: dense, management (of its cache), experts (those here), expert, results,
    tail.

    layer: routed layer, -1 for the tail; uses: the transfers without which it could not have run.
    """

    worker: str
    label: str
    begin_ps: int
    end_ps: int
    kind: str
    layer: int
    uses: tuple[Transfer, ...] = ()


class Issue(NamedTuple):
    """A transfer that a worker asked for, and whether ahead of need. Its hops are found by `cause`."""

    transfer: Transfer
    worker: str
    time_ps: int
    ahead: bool


class Room(NamedTuple):
    """Bytes that experts take of a memory from this time on, those in flight included."""

    memory: str
    time_ps: int
    used_bytes: int


class StepSpan(NamedTuple):
    """A step of one worker."""

    worker: str
    number: int
    prefill: bool
    requests: list[int]
    kv_tokens: list[int]
    begin_ps: int
    end_ps: int
    hits: int
    asked: int


class SegmentLog(list[tuple[str, int, bool, int, int, int]]):
    """The fabric's log, kept only where it touches a recorded window (from `since_ps`, up to `until_ps`)."""

    def __init__(self) -> None:
        self.since_ps = 0
        self.until_ps = 0

    def append(self, entry: tuple[str, int, bool, int, int, int]) -> None:
        if entry[3] < self.until_ps and entry[4] > self.since_ps:
            super().append(entry)


class Recorder:
    """Records all, or `timeline_requests` requests spread evenly over a run, the first always among them.

    Requests of a batch run together, so batches are what is chosen. Each is recorded from its first step
    until it has used its equal share of `timeline_slices`, steps always whole. experts: of a layer; host:
    the memory between an SSD and the workers, or None; remarks: receives a sentence when something is left out.
    """

    def __init__(
        self, settings: Settings, served: int, batch_size: int, experts: int, host: Tier | None, remarks: list[str]
    ) -> None:
        batches = -(-served // batch_size)
        wanted = batches if settings.timeline_requests is None else -(-settings.timeline_requests // batch_size)
        count = min(batches, wanted)
        self._batches = frozenset(number * batches // count for number in range(count))
        self.segments: list[Segment] = []
        self.issues: list[Issue] = []
        self.rooms: list[Room] = []
        self.steps: list[StepSpan] = []
        self.log = SegmentLog()
        self._share = None if settings.timeline_slices is None else max(1, settings.timeline_slices // count)
        self._batch = self._step = -1
        self._recorded: set[int] = set()  # steps
        self._before = 0  # slices when the batch began
        self._on = False
        self._known: set[Transfer] = set()  # fetches ahead that have been noted
        self._used: dict[str, int] = {}  # bytes of each memory as last noted
        self._host, self._experts = host, experts
        self._remarks = remarks
        if count < batches:
            shown = min(served, count * batch_size)
            remarks.append(f"the timeline shows {shown} of {served} requests (settings.timeline_requests)")

    def begin(self, number: int, step: Step, time_ps: int) -> Recorder | None:
        """Itself if this step is recorded. The first worker to ask decides for all."""
        if number > self._step:
            self._step = number
            slices = len(self.segments) + len(self.issues)
            if step.batch != self._batch:
                self._batch, self._before = step.batch, slices
            chosen = step.batch in self._batches
            on = chosen and (self._share is None or slices - self._before < self._share)
            if chosen and not on and CUT not in self._remarks:
                self._remarks.append(CUT)
            if on and not self._on:
                self.log.since_ps, self.log.until_ps = time_ps, NEVER
            elif self._on and not on:
                self.log.until_ps = time_ps
            self._on = on
            if on:
                self._recorded.add(number)
        return self if number in self._recorded else None

    def end(self, worker: str, record: StepRecord, begin_ps: int) -> None:
        """A worker has done a step, which it began then."""
        asked = record.hits + record.late + record.loads + record.on_cpu
        span = (record.number, record.prefill, record.requests, record.kv_tokens, begin_ps, record.end_ps)
        self.steps.append(StepSpan(worker, *span, record.hits, asked))

    def asked(self, worker: str, transfers: Iterable[Transfer], time_ps: int) -> None:
        """A worker asked for transfers because it needs them now."""
        self.issues += [Issue(transfer, worker, time_ps, False) for transfer in transfers]

    def asked_ahead(self, worker: str, transfers: Iterable[Transfer], time_ps: int) -> None:
        """The fetches ahead of need that a worker has under way; those not seen before were issued now."""
        for transfer in transfers:
            if transfer not in self._known:
                self._known.add(transfer)
                first = transfer if transfer.cause is None else transfer.cause
                if first.submitted_ps >= self.log.since_ps:
                    self.issues.append(Issue(transfer, worker, time_ps, True))

    def ran(
        self, worker: str, label: str, span: tuple[int, int], kind: str, layer: int, uses: Iterable[Transfer] = ()
    ) -> None:
        """A worker computed."""
        self.segments.append(Segment(worker, label, *span, kind, layer, tuple(uses)))

    def ran_resident(
        self, worker: str, layer: int, span: tuple[int, int], hits: Sequence[int], fetched: Iterable[Transfer]
    ) -> None:
        """The experts of a layer that were here ran as one launch; some of them had been fetched for it."""
        here = set(hits)
        uses = [transfer for transfer in fetched if transfer.state == LANDED and transfer.blob in here]
        self.ran(worker, f"experts {layer}: {len(hits)} resident", span, "experts", layer, uses)

    def ran_loaded(
        self, worker: str, layer: int, transfers: Sequence[Transfer], lasts_ps: Sequence[int], time_ps: int
    ) -> None:
        """From `time_ps` on, experts ran one after another, each as it landed."""
        for transfer, duration_ps in zip(transfers, lasts_ps, strict=True):
            begin = max(time_ps, transfer.landed_ps or 0)
            time_ps = begin + duration_ps
            label = f"expert {layer}/{transfer.blob % self._experts}"
            self.ran(worker, label, (begin, time_ps), "expert", layer, (transfer,))

    def room(self, tier: Tier, time_ps: int) -> None:
        """Note what experts take of a worker's memory, and of the host's where it is a cache."""
        for memory in (tier, self._host):
            if memory is not None:
                used = sum({id(p): p.used_bytes for p in memory.partitions}.values())
                if self._used.get(memory.name) != used:
                    self._used[memory.name] = used
                    self.rooms.append(Room(memory.name, time_ps, used))
