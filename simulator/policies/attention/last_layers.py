from simulator.policies.attention.base import AttentionPolicy


class LastLayers(AttentionPolicy):
    """Only the last `gpu_layers` layers have their dense part on the worker (`-ngl` of llama.cpp).

    The embedding and the head stay there too. llama.cpp copies the dense weights of other layers for batches of over
    32 tokens; here such a batch runs on the host CPU.
    """

    def __init__(self, gpu_layers: int = 0) -> None:
        if gpu_layers < 0:
            raise ValueError(f"policy.attention.gpu_layers is {gpu_layers}; expected at least 0.")
        self._gpu_layers = gpu_layers

    def on_host(self, layers):
        return range(max(0, layers - self._gpu_layers))
