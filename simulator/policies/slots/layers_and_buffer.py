from simulator.policies.execution.layers_on_cpu import first_on_worker
from simulator.policies.slots.base import SlotsPolicy


class LayersAndBuffer(SlotsPolicy):
    """One budget: room for the layers that llama.cpp gives to the GPU, and for one layer's copies of the others, which
    are not kept; see `execution=layers_on_cpu`."""

    def __init__(self, cpu_layers: int | None = None, gpu_layers: int | None = None) -> None:
        self._cpu_layers, self._gpu_layers = cpu_layers, gpu_layers

    def bind(self, context):
        self._first = first_on_worker(context.layers, self._cpu_layers, self._gpu_layers)
        self._experts = context.experts

    def budgets(self, budget_bytes, layer_expert_bytes, top_k):
        here, others = layer_expert_bytes[self._first :], layer_expert_bytes[: self._first]
        return [min(budget_bytes, self._experts * (sum(here) + max(others, default=0)))]
