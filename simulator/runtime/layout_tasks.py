"""The task graph of a step under a layout."""

from __future__ import annotations

from simulator.policies.pipeline.base import Op, Task
from simulator.runtime.ranks import Ranks


def layout_tasks(layers: int, ranks: Ranks) -> list[Task]:
    """Tasks of all workers for `layers` routed layers.

    In a stage, layer by layer: DENSE, [REDUCE within the attention group], then with several groups DISPATCH, EXPERTS,
    COMBINE, and with one EXPERTS, [JOIN of all]. A stage ends with PASS, to the same worker of the next one; the last
    stage with TAIL [and REDUCE].
    """
    layout = ranks.layout
    assert layout is not None
    tasks: list[Task] = []
    width = ranks.per_stage
    together = {worker: _group(ranks, worker) for worker in range(len(ranks.places))}

    def add(stage: int, op: Op, layer: int, after: list[list[int]] | None = None) -> list[int]:
        """The same task on all workers of a stage; `after` by worker of the stage. Returns ids."""
        first = len(tasks)
        for place in range(width):
            before = tuple(after[place]) if after is not None else ()
            tasks.append(Task(first + place, op, layer, stage * width + place, before))
        return list(range(first, first + width))

    def met(stage: int, ids: list[int], everybody: bool) -> list[list[int]] | None:
        """Whom each worker waits for after a task: the workers of its group, or of the stage; None if it is alone."""
        if everybody:
            return [ids] * width if width > 1 else None
        peers = [[ids[peer % width] for peer in together[stage * width + place]] for place in range(width)]
        return peers if len(peers[0]) > 1 else None

    arrived: list[list[int]] | None = None
    for layer in range(layers):
        stage = ranks.stage_of(layer, layers)
        add(stage, Op.DENSE, layer, arrived)
        ready = met(stage, add(stage, Op.REDUCE, layer), False) if layout.tp > 1 else None
        if layout.attention_dp > 1:
            sent = add(stage, Op.DISPATCH, layer, ready)
            add(stage, Op.EXPERTS, layer, met(stage, sent, True))
            arrived = met(stage, add(stage, Op.COMBINE, layer), True)
        else:
            add(stage, Op.EXPERTS, layer, ready)
            arrived = met(stage, add(stage, Op.JOIN, layer), True) if layout.gpus > 1 else None
        if layer + 1 < layers and ranks.stage_of(layer + 1, layers) > stage:
            arrived = [[task] for task in add(stage, Op.PASS, layer, arrived)]
    add(ranks.stages - 1, Op.TAIL, layers, arrived)
    if layout.tp > 1:
        add(ranks.stages - 1, Op.REDUCE, layers)
    return tasks


def _group(ranks: Ranks, worker: int) -> list[int]:
    """Workers of the same stage and attention group."""
    place = ranks.places[worker]
    return [index for index, p in enumerate(ranks.places) if (p.stage, p.group) == (place.stage, place.group)]
