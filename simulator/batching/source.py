"""Where workers take their steps from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from simulator.plan import Step


class StepSource(Protocol):
    """`step(number, time_ps)`: the step of this number, an instant to be idle until, or None at the end.

    Workers meet after every step, so all ask for the next one at the same time; the first to ask decides.
    """

    def step(self, number: int, time_ps: int) -> Step | int | None: ...


class PlannedSteps:
    """Steps that were fixed before the run, one after another."""

    def __init__(self, steps: Iterator[Step]) -> None:
        self._steps = steps
        self._number = -1
        self._step: Step | None = None

    def step(self, number: int, time_ps: int) -> Step | None:
        """The next step, whatever the time."""
        if number != self._number:
            self._number, self._step = number, next(self._steps, None)
        return self._step
