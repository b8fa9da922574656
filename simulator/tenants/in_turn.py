from __future__ import annotations

from collections.abc import Sequence

from simulator.batching.request import Request
from simulator.policies.base import PolicyContext
from simulator.policies.scheduling.base import QueueView, SchedulingPolicy, Turn


class InTurn(SchedulingPolicy):
    """Engines of several instances that share a GPU: each step is of one instance, the next one that has something to
    run, and what of it runs its engine's scheduler says, which sees the requests of that instance alone.

    Engines admit up to `max_batch` requests each. They draw on one KV cache, so that one that finds no room passes.
    """

    def __init__(self, policy: SchedulingPolicy, instances: int) -> None:
        self._policy, self._instances = policy, instances
        self.max_batch, self.preempt = policy.max_batch * instances, policy.preempt
        self._last = instances - 1

    def bind(self, context: PolicyContext) -> None:
        """Each engine's scheduler gets the same."""
        self._policy.bind(context)

    def next_turn(self, view: QueueView) -> Turn:
        """The step of the first instance after the last one that can run something."""
        pages, preempted = view.trial(), []
        for ahead in range(1, self._instances + 1):
            instance = (self._last + ahead) % self._instances
            own = QueueView(pages)
            own.running, own.waiting = _of(instance, view.running), _of(instance, view.waiting)
            own.time_s = view.time_s
            if not own.running and not own.waiting:
                continue
            turn = self._policy.next_turn(own)
            preempted += turn.preempted
            if turn.parts:
                self._last = instance
                return Turn(turn.parts, preempted)
            for request in turn.preempted:  # the next one may take their room
                pages.give_back(request)
        return Turn({}, preempted)


def _of(instance: int, requests: Sequence[Request]) -> list[Request]:
    return [request for request in requests if request.instance == instance]
