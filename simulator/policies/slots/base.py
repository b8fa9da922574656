"""Role `slots`: how a memory's expert budget is divided among layers."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.policies.base import Policy


class SlotsPolicy(Policy):
    """Called once, before the run.

    budgets(budget_bytes, layer_expert_bytes, top_k)  bytes for each layer's own partition, or a
                                                      single entry: one budget for all layers
    """

    def budgets(self, budget_bytes: int, layer_expert_bytes: Sequence[int], top_k: int) -> list[int]:
        raise NotImplementedError
