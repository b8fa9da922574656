"""Role `prefetch`: which transfers to issue now, before they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.policies.base import Policy


class PrefetchPolicy(Policy):
    """Called after a layer's own loads are under way.

    choose(missing, queued)  `missing`: guessed blobs that are neither resident nor in flight, most
                             likely first; `queued`: transfers that wait or run on the copy lane.
                             Returns those to fetch now, in order.
    promotes                 whether a fetch that its layer now waits for becomes urgent; else it keeps its place
    cancels                  whether a fetch whose layer has run without it is cancelled
    """

    promotes = True
    cancels = True

    def choose(self, missing: Sequence[int], queued: int) -> Sequence[int]:
        raise NotImplementedError
