"""Jobs on streams: each stream serves its jobs in order, a job starts when those that it needs have ended.

Computing takes a given time; copies, staging and the host CPU's attention are transfers on lanes of the fabric, of
which a stream submits one at a time, and which share media with those of the other streams.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from simpy.events import Event

from simulator.engine import Clock, Fabric, Lane, Stream, Transfer
from simulator.engine.fabric import NEVER, UNLIMITED

Parts = tuple[int, tuple[int, int, int]]


class Job:
    """Work on a stream: `cost` (ps, and these by cause) on the GPU, else `size_bytes` on the stream's lane.

    cause: the job whose end let it start (None: nothing held it up); blob: what a timeline calls it, -1 if it is no
    weights.
    """

    __slots__ = (
        *("after", "blob", "cap_bytes_per_s", "cause", "cost"),
        *("end_ps", "name", "size_bytes", "start_ps", "stream"),
    )

    def __init__(
        self,
        name: str,
        after: Sequence[Job],
        *,
        cost: Parts | None = None,
        size_bytes: int = 0,
        cap_bytes_per_s: int = UNLIMITED,
        blob: int = -1,
    ) -> None:
        self.name = name
        self.after = after
        self.cost = cost
        self.size_bytes = size_bytes
        self.cap_bytes_per_s = cap_bytes_per_s
        self.blob = blob
        self.stream = -1
        self.start_ps = -1
        self.end_ps: int | None = None
        self.cause: Job | None = None


class Streams(Stream):
    """All streams of one worker. `lanes`: of each stream, None where jobs only take time.

    `running` are the jobs in service by stream.
    """

    def __init__(self, clock: Clock, fabric: Fabric, rank: int, lanes: Sequence[Lane | None]) -> None:
        super().__init__(clock, fabric, rank)
        self.lanes = lanes
        count = len(lanes)
        self._queues: list[deque[Job]] = [deque() for _ in range(count)]
        self.running: list[Job | None] = [None] * count
        self._transfers: list[Transfer | None] = [None] * count
        self._before: list[Job | None] = [None] * count  # the job that a stream served last
        self._ends: list[int] = [NEVER] * count  # of jobs that only take time
        self._busy: list[int] = []  # streams with a job in service

    def add(self, stream: int, job: Job) -> None:
        """Queue a job."""
        job.stream = stream
        self._queues[stream].append(job)

    def run(self, until: Job, t: int) -> Generator[Event, Any, int]:
        """Serve jobs from `t` on until this one has ended; returns when that is."""
        fabric, stepwise = self.fabric, self.clock.stepwise
        others, advance = self._others, fabric.advance
        while True:
            self._start(t)
            if until.end_ps is not None:
                return until.end_ps
            t = min(self._ends)
            if fabric.next_ps < t:
                t = fabric.next_ps
            if t >= NEVER:
                raise AssertionError(f"no stream can go on before {until.name} has ended")
            if (others or stepwise) and self.must_sync(t):
                yield from self.sync(t)
            if fabric.next_ps <= t:
                advance(t)
            self._finish(t)

    def forget(self) -> None:
        """Let go of the jobs that made those start which are in service or ended last."""
        for job in (*self.running, *self._before):
            if job is not None:
                job.cause = None

    def _finish(self, t: int) -> None:
        transfers, ends = self._transfers, self._ends
        for stream in self._busy:
            transfer = transfers[stream]
            if transfer is not None:
                if transfer.landed_ps is not None:
                    transfers[stream] = None
                    self._end(stream, transfer.landed_ps)
            elif ends[stream] == t:
                ends[stream] = NEVER
                self._end(stream, t)
        self._busy = [stream for stream in self._busy if self.running[stream] is not None]

    def _end(self, stream: int, t: int) -> None:
        job = self.running[stream]
        assert job is not None
        job.end_ps = t
        self.running[stream] = None
        self._before[stream] = job

    def _start(self, t: int) -> None:
        """Start what can start at `t`; what takes no time ends at once, and may let others start."""
        running, again = self.running, True
        while again:
            again = False
            for stream, queue in enumerate(self._queues):
                while queue and running[stream] is None and self._ready(stream, queue[0]):
                    job = queue.popleft()
                    job.start_ps = t
                    running[stream] = job
                    lane, cost = self.lanes[stream], job.cost
                    if cost is not None and cost[0]:
                        self._ends[stream] = t + cost[0]
                        self._busy.append(stream)
                    elif job.size_bytes and lane is not None:
                        transfer = Transfer(job.blob, job.size_bytes, job.blob < 0, job.cap_bytes_per_s)
                        self._transfers[stream] = transfer
                        self._busy.append(stream)
                        self.fabric.submit(lane, transfer, t)
                    else:
                        self._end(stream, t)
                        again = True

    def _ready(self, stream: int, job: Job) -> bool:
        """Whether all that a job needs has ended; notes what ended last."""
        last = self._before[stream]
        latest = last.end_ps if last is not None else -1
        for needed in job.after:
            end = needed.end_ps
            if end is None:
                return False
            if end >= latest:  # type: ignore[operator]
                last, latest = needed, end
        job.cause = last
        job.after = ()
        return True


def critical(last: Job, begin_ps: int) -> list[Job]:
    """The jobs on the critical path to the end of `last` that ended after `begin_ps`, in order of time."""
    jobs = []
    job: Job | None = last
    while job is not None and job.end_ps is not None and job.end_ps > begin_ps:
        jobs.append(job)
        job = job.cause
    return jobs[::-1]
