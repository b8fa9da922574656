from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.batching.request import Request
from simulator.policies.base import PolicyContext
from simulator.policies.scheduling.base import QueueView, SchedulingPolicy, Turn


class InTurn(SchedulingPolicy):
    """Several queues, each with a scheduler that sees its requests alone: engines of instances that share a GPU, or the
    batches under way in the stages of a pipeline. Each step is of one queue, the next one that has something to run.

    A queue admits up to `max_batch` requests. All draw on one KV cache, so that one that finds no room passes.
    """

    def __init__(self, policy: SchedulingPolicy, queues: int, queue_of: Callable[[Request], int]) -> None:
        self._policy, self._queues, self._queue_of = policy, queues, queue_of
        self.max_batch, self.preempt = policy.max_batch * queues, policy.preempt
        self._last = queues - 1

    @property
    def title(self) -> str:
        """That of the scheduler in each queue."""
        return self._policy.title

    def bind(self, context: PolicyContext) -> None:
        """Each queue's scheduler gets the same."""
        self._policy.bind(context)

    def next_turn(self, view: QueueView) -> Turn:
        """The step of the first queue after the last one that can run something."""
        pages, preempted = view.trial(), []
        for ahead in range(1, self._queues + 1):
            queue = (self._last + ahead) % self._queues
            own = QueueView(pages, view.asked)
            own.running, own.waiting = self._of(queue, view.running), self._of(queue, view.waiting)
            own.time_s = view.time_s
            if not own.running and not own.waiting:
                continue
            turn = self._policy.next_turn(own)
            preempted += turn.preempted
            if turn.parts:
                self._last = queue
                return Turn(turn.parts, preempted)
            for request in turn.preempted:  # the next one may take their room
                pages.give_back(request)
        return Turn({}, preempted)

    def _of(self, queue: int, requests: Sequence[Request]) -> list[Request]:
        return [request for request in requests if self._queue_of(request) == queue]
