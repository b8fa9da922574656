"""Role `prefetch`: which transfers to issue now, before they are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.layer_work import LayerWork
from simulator.policies.base import Policy


class PrefetchPolicy(Policy):
    """Called after a layer's own loads are under way, when something is expected that is not here.

    choose(missing, work)    `missing`: expected blobs that are neither resident nor in flight, most likely
                             first; `work`: the layer that is running. Returns those to fetch now, in order.
    promotes                 whether a fetch that its layer now waits for becomes urgent; else it keeps its place
    cancels                  whether a fetch whose layer has run without it is cancelled
    chunks                   in how many pieces an expert is copied; a fetch can be displaced or cancelled
                             between two; None: pieces of settings.chunk_bytes
    """

    promotes = True
    cancels = True
    chunks: int | None = None

    def choose(self, missing: Sequence[int], work: LayerWork) -> Sequence[int]:
        raise NotImplementedError
