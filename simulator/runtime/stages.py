"""How the stages of a pipeline take steps: the first one as they are composed, the others as these begin."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

from simpy.events import Event

from simulator.batching.source import StepSource
from simulator.batching.staged import StagedBatcher
from simulator.engine import Clock
from simulator.plan import Step

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

Taken = tuple[Step | None, int, int]  # a step or None at the end, when it began, the worker's local time


class Stages:
    """Hands out the steps of `batcher`, through `source`, to `workers` workers, `width` of them in each stage.

    The first stage asks for a step when it is free, and waits while there is none: for a request, or until a step has
    left the last stage. A step begins when the first stage begins it.
    """

    def __init__(self, clock: Clock, source: StepSource, batcher: StagedBatcher, workers: int, width: int) -> None:
        self._clock, self._source, self._batcher = clock, source, batcher
        self._followers, self._width = workers - width, width
        self._begun: dict[int, tuple[Step | None, int]] = {}
        self._taken: dict[int, int] = {}  # by how many workers of other stages
        self._waiting: dict[int, list[tuple[Event, int]]] = {}  # for a step to begin
        self._idle: list[tuple[Event, int]] = []  # workers of the first stage

    def take(self, worker: Worker, number: int, t: int) -> Generator[Event, Any, Taken]:
        """The step of this number for a worker that is free at `t`."""
        if worker.rank >= self._width:
            return (yield from self._follow(worker, number, t))
        while True:
            if worker.must_sync(t):
                yield from worker.sync(t)
            answer = self._source.step(number, t)
            if isinstance(answer, Step) or (answer is None and not self._batcher.flying):
                self._begin(number, answer, t)
                return answer, t, t
            t = yield from self._idle_until(worker, answer)

    def left(self, worker: Worker, t: int) -> None:
        """A worker has done its part of a step; with the last stage the step has ended."""
        if worker.rank == self._followers:  # the first of the last stage, whose workers leave together
            self._batcher.ended(t)
            for event, rank in self._idle:
                self._clock.wake(event, rank, t)
            self._idle.clear()

    def _begin(self, number: int, step: Step | None, t: int) -> None:
        if number not in self._begun:
            self._begun[number], self._taken[number] = (step, t), 0
            for event, rank in self._waiting.pop(number, ()):
                self._clock.wake(event, rank, t)

    def _follow(self, worker: Worker, number: int, t: int) -> Generator[Event, Any, Taken]:
        if number not in self._begun:
            event = self._clock.event()
            self._waiting.setdefault(number, []).append((event, worker.rank))
            yield event
        step, began = self._begun[number]
        self._taken[number] += 1
        if self._taken[number] == self._followers:
            del self._begun[number], self._taken[number]
        return step, began, max(t, began)

    def _idle_until(self, worker: Worker, until_ps: int | None) -> Generator[Event, Any, int]:
        """Wait until a step ends, or until a request arrives if one is to come. Returns when that is."""
        entry = (self._clock.event(), worker.rank)
        self._idle.append(entry)
        if until_ps is not None:

            def arrive(_: Event) -> None:
                if entry in self._idle:
                    self._idle.remove(entry)
                    self._clock.wake(*entry, until_ps)

            self._clock.call_at(until_ps, arrive)
        yield entry[0]
        return int(self._clock.now)
