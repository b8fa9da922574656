"""Role `attention`: where the dense part of a layer runs, and where its KV cache lies."""

from __future__ import annotations

from collections.abc import Collection

from simulator.policies.base import Policy


class AttentionPolicy(Policy):
    """on_host(layers): which of the model's `layers` layers run their dense part (attention, norms, router,
    shared experts, dense feed-forward) on the host CPU, with weights and KV cache in host memory. All
    layers from one routed layer's end to the next one's router go together: the routed one decides.
    """

    def on_host(self, layers: int) -> Collection[int]:
        return ()
