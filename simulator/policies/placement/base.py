"""Role `placement`: which worker owns an expert, and what is resident at the start."""

from __future__ import annotations

from collections.abc import Iterable

from simulator.policies.base import Policy


class PlacementPolicy(Policy):
    """Called once, before the run.

    owner(layer, expert, workers)  index of the worker that runs the expert
    initial()                      blobs to have resident at the start, most wanted first; each owner
                                   takes its own while there is room
    """

    def owner(self, layer: int, expert: int, workers: int) -> int:
        return expert % workers

    def initial(self) -> Iterable[int]:
        return ()
