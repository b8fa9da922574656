"""Role `slots`: how a memory's expert budget is divided among layers."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.policies.base import Policy


class SlotsPolicy(Policy):
    """Called once, before the run, for each memory (and for each level of precision that has a budget of its own).

    staging_experts  room, of the budget, for so many experts that were fetched ahead; one enters its layer's
                     cache, and makes another leave, only when its layer asks for it. 0: what is fetched ahead
                     enters the cache at once

    budgets(budget_bytes, layer_expert_bytes, top_k)  bytes for each layer's own partition, or a
                                                      single entry: one budget for all layers
    """

    staging_experts = 0

    def budgets(self, budget_bytes: int, layer_expert_bytes: Sequence[int], top_k: int) -> list[int]:
        raise NotImplementedError
