from simulator.policies.slots.base import SlotsPolicy


class FewLayers(SlotsPolicy):
    """One budget with room for the experts of `layers` whole layers, however much memory there is.

    Nothing is kept once it has been used, as in DeepSpeed's and Accelerate's parameter offload.
    """

    def __init__(self, layers: int = 2) -> None:
        if layers < 1:
            raise ValueError(f"policy.slots.layers is {layers}; expected at least 1.")
        self._layers = layers

    def bind(self, context):
        self._experts = context.experts

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        return [min(budget_bytes, self._layers * self._experts * max(layer_expert_bytes))]
