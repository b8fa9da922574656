"""The devices that a simulated one stands for, where one of several GPUs that do the same is simulated."""

from __future__ import annotations

from typing import TYPE_CHECKING

from simulator.runtime.collectives import CATEGORY

if TYPE_CHECKING:
    from simulator.build import Run
    from simulator.engine import Lane


def twin(run: Run, name: str, number: int) -> str:
    """What a device is to the GPU so many places further among those that do the same: a GPU the next one, a unit near
    its memory the unit near that one's; all others are shared."""
    platform, ranks = run.scenario.platform, run.ranks
    memory = platform.memory_of(name).name if name in platform.units else name
    index = ranks.worker_of(memory)
    if index is None or ranks.each == 1:
        return name
    gpus = ranks.places[index].gpus
    gpu = gpus[(gpus.index(memory) + number) % len(gpus)]
    if memory == name:
        return gpu
    here, there = ([unit for unit in platform.units if platform.memory_of(unit).name == at] for at in (memory, gpu))
    return there[here.index(name)]


def ways(run: Run, lane: Lane) -> list[tuple[str, str]]:
    """From where to where the copies go for which those of a lane stand; each moves as many bytes."""
    src, dst = run.lane_ends[lane.name]
    if lane.category == CATEGORY:
        index = run.ranks.worker_of(src)
        assert index is not None
        return [(a, b) for a, b, _ in run.ranks.ring(index)]
    return [(twin(run, src, number), twin(run, dst, number)) for number in range(run.ranks.each)]
