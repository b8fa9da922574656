"""Role `placement`: which worker owns an expert, and what is resident at the start."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from simulator.policies.base import Policy


class PlacementPolicy(Policy):
    """Called once, before the run.

    owner(layer, expert, workers)  index of the worker that runs the expert
    initial()                      blobs to have resident at the start, most wanted first; each owner
                                   takes its own while there is room
    shares(layer, workers, moves)  if `slices`, in place of owner: share of each expert that each worker holds and
                                   runs, [experts, workers]; moves: how long a token's vector takes over a link, over
                                   how long an expert takes for a token
    """

    slices = False
    hooks = (("shares", "slices"),)

    def owner(self, layer: int, expert: int, workers: int) -> int:
        return expert % workers

    def initial(self) -> Iterable[int]:
        return ()

    def shares(self, layer: int, workers: int, moves: float) -> Sequence[Sequence[float]]:
        raise NotImplementedError
