"""What one replica of a pool serves of a workload."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from simulator.served import Served

if TYPE_CHECKING:
    from simulator.batching.request import Request


@dataclass(frozen=True)
class Portion:
    """Some of the requests served, and which of their phases: prefill, decode, or both in an aggregated pool.

    pool         name of the replica's pool
    orders       their places among all that are served, ascending
    arrivals_ps  when each of them comes to this replica
    first_ps     in decoding, when the first token of each was there
    groups       in decoding, the attention group to which each one's KV cache was sent
    """

    pool: str
    orders: tuple[int, ...]
    arrivals_ps: tuple[int, ...]
    first_ps: tuple[int, ...] = ()
    groups: tuple[int, ...] = ()

    @property
    def decodes(self) -> bool:
        """Whether prompts are done when requests arrive."""
        return self.pool == "decode"

    def of(self, served: list[Served]) -> list[Served]:
        """These of the requests served, without tokens to decode where prompts are run."""
        mine = [served[order] for order in self.orders]
        return [replace(request, decode_tokens=0) for request in mine] if self.pool == "prefill" else mine

    def arrivals(self) -> tuple[np.ndarray, np.ndarray]:
        """Arrivals in ps, ascending, and the place in `orders` of each; int64 both."""
        times_ps = np.array(self.arrivals_ps, dtype=np.int64)
        places = np.argsort(times_ps, kind="stable")
        return times_ps[places], places

    def begin(self, request: Request) -> None:
        """A request has arrived; where it decodes, the KV cache of its prompt came with it. If that is lost to a
        preemption, the prompt is run again here."""
        if self.decodes:
            request.done = request.prompt_rows
            request.first_ps = self.first_ps[request.order]
            request.home = self.groups[request.order]
