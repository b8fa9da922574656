from simulator.policies.slots.base import SlotsPolicy


class GlobalSlots(SlotsPolicy):
    """One budget that all layers share."""

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        return [budget_bytes]
