"""Serves requests as they come: asks the scheduler for each step and keeps the books."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np

from simulator.batching.arrivals import Arrivals
from simulator.batching.log import RequestRecord
from simulator.batching.pages import KvPages
from simulator.batching.prefixes import PrefixPages
from simulator.batching.request import Request
from simulator.batching.steps import StepMaker
from simulator.engine import seconds
from simulator.plan import Plan, Step
from simulator.policies.scheduling.base import QueueView, SchedulingPolicy, Turn
from simulator.residency import PolicyError
from simulator.runtime.record_log import RecordLog
from simulator.tasks import prefix_of, task_of
from simulator.unrecorded import slo_s

Parts = list[tuple[Request, int]]


class Batcher:
    """The source of steps of a run whose requests arrive. `progress(tokens)` hears of every step.

    log          what became of each request, in the order in which they ended
    waiting, running  the requests that have arrived
    """

    def __init__(
        self,
        plan: Plan,
        policy: SchedulingPolicy,
        pages: KvPages,
        progress: Callable[[int], None] | None = None,
    ) -> None:
        self.plan, self.policy, self.pages = plan, policy, pages
        self.steps = StepMaker(plan)
        self.arrivals = Arrivals(plan)
        self.log: RecordLog[RequestRecord] = RecordLog(RequestRecord)
        self.waiting: deque[Request] = deque()
        self.running: list[Request] = []
        self.swaps: list[tuple[int, bool, int]] = []  # of the step that comes
        self.moved: list[tuple[int, int]] = []
        self.preemptions = 0
        self.composed: Parts | None = None  # what `compose` gave and nobody has run
        self.prefixes = pages if isinstance(pages, PrefixPages) else None
        self._progress = progress
        self._view = QueueView(pages, self.steps.ahead)
        self._parts: Parts = []  # of the step that runs
        self._times = 1  # how often they run
        self._preempted = False  # somebody for them
        self._number = -1
        self._answer: Step | int | None = None
        self._since_ps = 0  # when the answer holds

    @property
    def flying(self) -> int:
        """How many steps are under way while the next one is composed."""
        return 0

    def step(self, number: int, time_ps: int) -> Step | int | None:
        """As `StepSource.step`."""
        if number == self._number and time_ps < self._since_ps:
            return self._since_ps  # another worker has been idle until then and got its step
        if number != self._number or isinstance(self._answer, int):
            self._number = number
            answer = self._answer = self._next(time_ps)
            self._since_ps = answer if isinstance(answer, int) else time_ps
        return self._answer

    def _next(self, time_ps: int) -> Step | int | None:
        parts = self.compose(time_ps) if self.composed is None else self.composed
        self.composed = None
        if not isinstance(parts, list):
            return parts
        batch, last = self.batch_of(parts)
        step = self.steps.step(parts, batch, last)
        step.swaps, step.moved = self.swaps, self.moved
        if self._progress is not None:
            self._progress(step.tokens)
        return step

    @staticmethod
    def batch_of(parts: Parts) -> tuple[int, bool]:
        """The number of a step's oldest request, and whether one of its requests ends with it."""
        return (
            min(request.order for request, _ in parts),
            any(request.done + tokens == request.rows for request, tokens in parts),
        )

    def compose(self, time_ps: int) -> Parts | int | None:
        """Requests of the step that begins now and their tokens; or until when to idle; or None at the end."""
        self._end_step(time_ps)
        while arrived := self.arrivals.until(time_ps):  # one that has nothing to process may let another come
            for arrival_ps, order in arrived:
                self._arrive(order, arrival_ps)
        self.swaps, self.moved = [], []
        running, waiting = self._seen()
        known = running and not waiting and self.policy.steady and all(r.done >= r.fresh for r in running)
        if known and self.pages.grow(running, 1):
            self._parts, self._times, self._preempted = [(request, 1) for request in running], 1, False
            return self._parts
        if waiting or running:
            if self.prefixes is not None:
                for request in waiting:
                    request.done = self.prefixes.reusable(request)
            view = self._view
            view.running, view.waiting, view.time_s = running, waiting, seconds(time_ps)
            self._parts, self._times = self._apply(self.policy.next_turn(view), time_ps), 1
            if self._parts:
                return self._parts
            if self._preempted and not self.flying:  # there is room now
                return self.compose(time_ps)
        until_ps = self.arrivals.next_ps()
        if until_ps is None and (self.waiting or self.running) and not self.flying:
            raise PolicyError(
                f"policy/scheduling {self.policy.title} runs nothing although {len(self.waiting)} requests"
                f" wait and {len(self.running)} are under way; expected a step, as no other request will come."
            )
        return until_ps

    def _seen(self) -> tuple[Sequence[Request], Sequence[Request]]:
        """The running and the waiting requests of which the scheduler may choose."""
        return self.running, self.waiting

    def room(self, times: int) -> int:
        """How often the step that `compose` gave can run, up to `times`, until the KV cache is full. One that preempted
        somebody left room behind, and runs once."""
        if self._preempted:
            return 1
        while times > 1 and not self.pages.grow((request for request, _ in self._parts), times, True):
            times //= 2
        return times

    def repeat(self, times: int) -> None:
        """The step that `compose` gave runs so often, each time for one more token of each request."""
        if times > 1 and not self.pages.grow((request for request, _ in self._parts), times):
            raise PolicyError(f"a step is to run {times} times, for which the KV cache has no room.")
        self._times = times
        if self._progress is not None:
            self._progress(times * sum(tokens for _, tokens in self._parts))

    def queued(self) -> list[np.ndarray]:
        """Experts of the tokens that could run but are not in the step that runs, for each request [tokens, layers,
        top_k]: the running ones, the longest waiting first, then those that wait for admission."""
        now = {request.order for request, _ in self._parts}
        running = [request for request in self.running if request.order not in now]
        running.sort(key=lambda request: (request.last_ps, request.order))
        return [self.steps.ahead(request) for request in (*running, *self.waiting)]

    def _arrive(self, order: int, arrival_ps: int) -> None:
        plan = self.plan
        served = plan.served[order]
        task = task_of(plan, order)
        synthetic, prefix = plan.workload.synthetic_prefill, prefix_of(plan, order)
        request = Request(order, served, arrival_ps, synthetic, task, slo_s(plan, order), prefix)
        request.last_ps = arrival_ps
        if plan.portion is not None:
            plan.portion.begin(request)
        if request.rows:
            self.waiting.append(request)
        else:  # nothing to process
            self.arrivals.ended(order, arrival_ps)

    def _apply(self, turn: Turn, time_ps: int) -> Parts:
        """Preempt and admit as the scheduler says. Raises PolicyError for what cannot be."""
        policy, pages, running = self.policy, self.pages, self.running
        self._preempted = bool(turn.preempted)
        for request in turn.preempted:
            if request not in running or request in turn.parts:
                raise _wrong(policy, f"preempts request {request.id}", "one that runs and is not in the step")
            keep = policy.preempt == "swap"
            if keep:
                request.swapped_bytes = pages.held_bytes(request)
                self.swaps.append((request.worker, True, request.swapped_bytes))
            pages.give_back(request)
            running.remove(request)
            request.drop(keep)
            self.waiting.appendleft(request)
            self.preemptions += 1
        self.moved = [(request.worker, pages.held_bytes(request)) for request in turn.moved if request in running]
        for request, tokens in turn.parts.items():
            most = request.prompt_left or 1
            if not 1 <= tokens <= most:
                raise _wrong(policy, f"gives request {request.id} {tokens} tokens", f"from 1 to {most}")
            if request.worker < 0:
                if request not in self.waiting:
                    raise _wrong(policy, f"names request {request.id}", "one that runs or waits")
                if len(running) >= policy.max_batch:
                    raise _wrong(policy, f"admits request {request.id}", f"at most {policy.max_batch} at once")
            if not pages.take(request, tokens):
                raise _wrong(policy, f"gives request {request.id} {tokens} tokens", "no more than fit the KV cache")
            if request.worker < 0:
                self._admit(request, time_ps)
        return list(turn.parts.items())

    def _admit(self, request: Request, time_ps: int) -> None:
        if self.waiting[0] is request:
            self.waiting.popleft()
        else:
            self.waiting.remove(request)
        self.running.append(request)
        request.worker = self.pages.worker_of(request)
        if self.prefixes is not None:
            request.reused += request.done
        if request.start_ps < 0:
            request.start_ps = time_ps
        if request.swapped_bytes:
            self.swaps.append((request.worker, False, request.swapped_bytes))
            request.swapped_bytes = 0

    def _end_step(self, time_ps: int) -> None:
        """The step that ran has ended."""
        ended = []
        for request, tokens in self._parts:
            decodes = request.done >= request.fresh
            if decodes:
                request.decoded += tokens * self._times
            request.done += tokens * self._times
            if self.prefixes is not None and not decodes:
                self.prefixes.publish(request)
            request.last_ps = time_ps
            if request.first_ps < 0 and request.prompt_rows and request.done >= request.prompt_rows:
                request.first_ps = time_ps
            if request.done == request.rows:
                ended.append(request)
        self._parts = []
        for request in ended:
            self._end(request, time_ps)

    def _end(self, request: Request, time_ps: int) -> None:
        self.log.append(
            RequestRecord(
                request=request.id,
                order=request.order,
                arrival_ps=request.arrival_ps,
                start_ps=request.start_ps,
                first_ps=request.first_ps,
                end_ps=time_ps,
                context_tokens=request.context_after(0),
                decode_tokens=request.decoded,
                preemptions=request.preemptions,
                worker=request.worker,
                reused_tokens=request.reused,
            )
        )
        if self.prefixes is not None:
            self.prefixes.publish(request)
        self.pages.give_back(request)
        self.running.remove(request)
        self.steps.forget(request)
        self.arrivals.ended(request.order, time_ps)


def _wrong(policy: SchedulingPolicy, what: str, expected: str) -> PolicyError:
    return PolicyError(f"policy/scheduling {policy.title} {what}; expected {expected}.")
