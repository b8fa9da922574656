from simulator.policies.slots.base import SlotsPolicy


class StagedSlots(SlotsPolicy):
    """Equal shares for all layers, and apart from them a pool of buffers for what is fetched ahead.

    The expert buffers of mixtral-offloading (arXiv 2312.17238, section 3.3, and its repository: buffer_size).
    """

    def __init__(self, staging: int = 4) -> None:
        if staging < 1:
            raise ValueError(f"policy.slots.staging is {staging}; expected at least 1.")
        self.staging_experts = staging

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        share = budget_bytes // len(layer_expert_bytes)
        return [max(share, top_k * size) for size in layer_expert_bytes]
