from simulator.policies.execution.layers_on_cpu import first_on_worker
from simulator.policies.placement.base import PlacementPolicy


class LaterLayers(PlacementPolicy):
    """Starts with all experts of the layers that llama.cpp gives to the GPU; see `execution=layers_on_cpu`."""

    def __init__(self, cpu_layers: int | None = None, gpu_layers: int | None = None) -> None:
        self._cpu_layers, self._gpu_layers = cpu_layers, gpu_layers

    def bind(self, context):
        first = first_on_worker(context.layers, self._cpu_layers, self._gpu_layers)
        self._blobs = range(first * context.experts, context.layers * context.experts)

    def initial(self):
        return self._blobs
