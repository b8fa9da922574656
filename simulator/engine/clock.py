"""The one clock, and the rule by which a process may run ahead of it.

A process keeps its own local time `t`. It may act on shared state at `t` without an event if and
only if no other process has an event at or before `t` (temporal decoupling, the SystemC TLM term;
Accellera TLM-2.0 LRM, section 9). Otherwise it first yields a timeout up to `t`. Actions are thus
taken in the order (time, rank of the process, order in its program), with or without decoupling.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any, cast

import simpy
from simpy.events import URGENT, Event, EventPriority

if TYPE_CHECKING:
    from simulator.engine.fabric import Fabric, Transfer

PS_PER_S = 1_000_000_000_000
_FIRST_RANK = 16  # SimPy's own priorities (0 urgent, 1 normal) come before every process


def to_ps(duration_s: float) -> int:
    """Seconds to integer picoseconds, rounded to the nearest; costs are rounded once, here."""
    return round(duration_s * PS_PER_S)


def seconds(time_ps: int) -> float:
    """Integer picoseconds to seconds."""
    return time_ps / PS_PER_S


class Clock(simpy.Environment):
    """SimPy's environment with a test for quiet and events that are ordered by process rank.

    `stepwise=True` turns temporal decoupling off: every action gets an event of its own. The log
    of a run is the same either way; tests compare them.
    """

    def __init__(self, stepwise: bool = False) -> None:
        super().__init__(0)
        self.stepwise = stepwise
        self.others: list[Any] = [None] if stepwise else self._queue  # empty: no other process can act at all

    def quiet(self, time_ps: int) -> bool:
        """True when no other process can act at or before `time_ps`."""
        queue = self._queue
        return not queue or queue[0][0] > time_ps

    def at(self, time_ps: int, rank: int) -> Event:
        """An event at `time_ps`; among events of one instant the lower rank comes first."""
        event = Event(self)
        self.wake(event, rank, time_ps)
        return event

    def wake(self, event: Event, rank: int, time_ps: int) -> None:
        """Let the process of this rank, which waits for `event`, go on at `time_ps`."""
        event._ok = True
        event._value = None
        self.schedule(event, priority=cast(EventPriority, _FIRST_RANK + rank), delay=time_ps - self._now)

    def call_at(self, time_ps: int, function: Any) -> None:
        """Call `function(event)` at `time_ps`, before any process acts at that instant."""
        event = Event(self)
        event._ok = True
        event._value = None
        event.callbacks.append(function)
        self.schedule(event, priority=URGENT, delay=time_ps - self._now)


class Stream:
    """Base of every process: a local time kept by the caller, and the two ways to wait."""

    def __init__(self, clock: Clock, fabric: Fabric, rank: int) -> None:
        self.clock = clock
        self.fabric = fabric
        self.rank = rank
        self._others = clock.others

    def must_sync(self, time_ps: int) -> bool:
        """True when acting on shared state at `time_ps` needs a `yield from self.sync(time_ps)`."""
        return self.clock.stepwise or not self.clock.quiet(time_ps)

    def sync(self, time_ps: int) -> Generator[Event, Any, None]:
        """Let the clock catch up with this process's local time."""
        yield self.clock.at(time_ps, self.rank)

    def landed(self, transfer: Transfer) -> Generator[Event, Any, int]:
        """Wait until `transfer` has landed (or was cancelled) and return that time in ps."""
        fabric, clock = self.fabric, self.clock
        while transfer.landed_ps is None:
            if not self._others or (not clock.stepwise and clock.quiet(fabric.next_ps)):
                fabric.advance(fabric.next_ps)  # nobody can interfere before that instant
            else:
                yield fabric.sleep(clock, transfer, self.rank)
        return transfer.landed_ps
