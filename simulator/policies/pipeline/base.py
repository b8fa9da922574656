"""Role `pipeline`: the task graph of a step."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from simulator.policies.base import Policy

if TYPE_CHECKING:
    from simulator.dispatch.base import Dispatch
    from simulator.model import ModelSpec


class Op(IntEnum):
    """What a task does.

    DENSE: all work of the layers up to and including the router of routed layer `layer` (attention,
    norms, dense feed-forward, shared experts); EXPERTS: look-up, loads, expert computation; DISPATCH
    and COMBINE: send activations to the experts' owners and back; ANNOUNCE: tell them how many will
    come; TAIL: layers after the last routed one, final norm and LM head. Under a layout also REDUCE: sums within an
    attention group, of all layers of the DENSE or TAIL before it; JOIN: the sum of the experts' outputs over all GPUs;
    PASS: activations to the next stage.
    """

    DENSE = 0
    DISPATCH = 1
    EXPERTS = 2
    COMBINE = 3
    TAIL = 4
    REDUCE = 5
    JOIN = 6
    PASS = 7
    ANNOUNCE = 8


@dataclass(frozen=True)
class Task:
    """An operation on a worker's lane. `after`: ids of tasks of other workers that must have ended.

    Tasks of one worker run in the order they are listed; that order is the dependency along the lane.
    """

    id: int
    op: Op
    layer: int
    worker: int
    after: tuple[int, ...] = ()


class PipelinePolicy(Policy):
    """Called once, before the run.

    tasks(layers, workers)    the graph of a step with `layers` routed layers, the same for every step; `MicroBatches`,
                              whose work runs on several streams of one worker, has `stream_tasks` instead
    dispatch(model, workers)  how rows are brought to experts and back (simulator/dispatch); None: each token goes once
                              to every worker that owns one of its experts, and nothing but messages takes time
    """

    def tasks(self, layers: int, workers: int) -> list[Task]:
        raise NotImplementedError

    def dispatch(self, model: ModelSpec, workers: int) -> Dispatch | None:
        return None
