"""Role `scheduling`: which requests run in the next step, and how many tokens of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from simulator.policies.base import Policy

if TYPE_CHECKING:
    from simulator.batching.pages import KvPages
    from simulator.batching.request import Request


@dataclass
class Turn:
    """The next step.

    parts: request -> tokens of it to process, in order: one of a request that decodes, at most `prompt_left` of one
    whose prompt is not done; a waiting request that is named here is admitted. preempted: running requests that give
    their KV cache back and wait again, before the others. moved: requests whose KV cache is copied to another place of
    the same memory before the step begins.
    """

    parts: dict[Request, int] = field(default_factory=dict)
    preempted: list[Request] = field(default_factory=list)
    moved: list[Request] = field(default_factory=list)


class QueueView:
    """What a scheduler sees; read-only.

    running: requests that hold KV cache, in order of admission; waiting: those that have arrived and do not, the
    preempted ones first, then in order of arrival. `time_s` since the start of the run.
    `asked(request)`: experts of its tokens that could run next, [tokens, layers, top_k], the rest of its prompt or one
    decoded token; only for models whose routing is known before a token runs.
    """

    __slots__ = ("_pages", "asked", "running", "time_s", "waiting")

    def __init__(self, pages: KvPages, asked: Callable[[Request], np.ndarray] | None = None) -> None:
        self._pages = pages
        self.asked = asked or (lambda request: np.empty((0, 0, 0), dtype=np.int16))
        self.running: Sequence[Request] = ()
        self.waiting: Sequence[Request] = ()
        self.time_s = 0.0

    def trial(self) -> KvPages:
        """A copy of the KV cache's ledger: `take(request, tokens)` and `give_back(request)` tell what would fit."""
        return self._pages.trial()


class SchedulingPolicy(Policy):
    """next_turn(view): the next step, asked whenever one has ended or a request arrives while none runs.

    lockstep   batches of `workload.batch_size` in order, fixed before the run; `next_turn` is never asked
    max_batch  most requests that hold KV cache at once
    preempt    what becomes of a preempted request's KV cache: "recompute" drops it, "swap" copies it to the host
    steady     whether it can be left unasked: the answer is one token of every running request, in their order, as
               long as none waits, all decode and there is room; and where some wait, it stays the same until one
               arrives or ends or there is no room, unless it preempted. Many steps are then simulated at once
    """

    lockstep = False
    max_batch = 1
    preempt = "recompute"
    steady = False

    @property
    def title(self) -> str:
        """What messages call it."""
        return type(self).__name__

    def next_turn(self, view: QueueView) -> Turn:
        raise NotImplementedError


def with_room(view: QueueView, most: int) -> list[Request]:
    """The running requests, and of those that wait the first for all of whose answers there is room; `most` in all."""
    room = view.trial()
    for request in view.running:
        room.take(request, request.rows - request.done)
    ready = list(view.running)
    for request in view.waiting:
        if len(ready) >= most or not room.take(request, request.rows - request.done):
            break
        ready.append(request)
    return ready
