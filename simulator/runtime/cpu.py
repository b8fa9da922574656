"""Experts that run on the host CPU, where their home copy lies."""

from __future__ import annotations

from simulator.engine import Fabric, Lane, Transfer
from simulator.runtime.costs import ExpertCosts


class CpuExperts:
    """The host CPU as a server of experts in place: each is a flow on host DRAM, capped by its compute time.

    early: work begun before its layer asked for it, by blob; deferring: work of the running layer whose result may
    come one routed layer later, with the tokens that it serves; deferred: that of the layer before.
    """

    def __init__(
        self,
        fabric: Fabric,
        lane: Lane,
        costs: ExpertCosts,
        sizes: list[int],
        experts: int,
        link: tuple[str, int, float],
    ) -> None:
        self._fabric = fabric
        self._lane = lane
        self._costs = costs
        self._sizes = sizes
        self._experts = experts
        self.link_category, self._latency_ps, self._ps_per_token = link
        self.tokens = 0  # that it was asked to serve, by all experts
        self.early: dict[int, Transfer] = {}
        self.deferring: list[tuple[Transfer, int]] = []
        self.deferred: list[tuple[Transfer, int]] = []

    def runs_ps(self, row: int, tokens: int) -> int:
        """How long an expert of `row` (level * layers + layer) is computed, if DRAM does not hold it up."""
        return self._costs.alone_ps(row, tokens)

    def submit(self, blob: int, tokens: int, now_ps: int) -> Transfer:
        """Start an expert that serves `tokens` tokens; its transfer lands when it has run."""
        size = self._sizes[blob]
        self.tokens += tokens
        busy_ps = self._costs.alone_ps(blob // self._experts, tokens)
        cap = max(1, size * 1_000_000_000_000 // max(1, busy_ps))
        work = Transfer(blob, size, True, cap)
        self._fabric.submit(self._lane, work, now_ps)
        return work

    def round_trip_ps(self, tokens: int) -> int:
        """Activations to the host and results back."""
        return 2 * self._latency_ps + round(2 * tokens * self._ps_per_token)
