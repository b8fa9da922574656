from simulator.policies.slots.base import SlotsPolicy


class UniformSlots(SlotsPolicy):
    """Equal shares, but every layer has room for the experts of one token."""

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        share = budget_bytes // len(layer_expert_bytes)
        return [max(share, top_k * size) for size in layer_expert_bytes]
