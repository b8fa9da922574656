"""Several steps at once in the stages of a pipeline: each of requests of its own, one behind the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from simulator.batching.batcher import Batcher, Parts
from simulator.batching.pages import KvPages
from simulator.batching.request import Request
from simulator.plan import Plan, Step
from simulator.policies.scheduling.base import SchedulingPolicy


class StagedBatcher(Batcher):
    """Serves requests on `stages` stages. Request i belongs to queue i mod stages, and a step is of one queue, the next
    one none of whose steps is under way, so that up to `stages` steps are (vLLM calls the queues virtual engines).

    The first stage asks for steps, by number; a step goes on through the others, and `ended` takes it back.
    """

    def __init__(
        self,
        plan: Plan,
        policy: SchedulingPolicy,
        pages: KvPages,
        progress: Callable[[int], None] | None,
        stages: int,
    ) -> None:
        super().__init__(plan, policy, pages, progress)
        self.steps.ahead_steps = 1  # a queue's steps do not follow each other
        self._stages = stages
        self._asked = (-1, -1, 0)
        self._flying: deque[tuple[int, int, Parts]] = deque()  # number, queue, what runs

    @property
    def flying(self) -> int:
        """How many steps are under way."""
        return len(self._flying)

    def step(self, number: int, time_ps: int) -> Step | int | None:
        """As `StepSource.step`; None while steps are under way: ask again when one has ended."""
        asked = (number, time_ps, self.flying)
        if number == self._number and (isinstance(self._answer, Step) or asked == self._asked):
            return self._answer  # all workers of the first stage ask
        self._asked = asked
        self._number, self._answer = number, self._next(time_ps)
        if isinstance(self._answer, Step):
            self._flying.append((number, self._parts[0][0].order % self._stages, self._parts))
            self._parts = []
        return self._answer

    def ended(self, time_ps: int) -> None:
        """The oldest step under way has left the last stage."""
        _, _, self._parts = self._flying.popleft()
        self._end_step(time_ps)

    def _seen(self) -> tuple[Sequence[Request], Sequence[Request]]:
        away = {queue for _, queue, _ in self._flying}
        return (
            [request for request in self.running if request.order % self._stages not in away],
            [request for request in self.waiting if request.order % self._stages not in away],
        )
