"""Role `attention`: where the dense part of a layer runs, and where its KV cache lies."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from simulator.policies.base import Policy


class AttentionPolicy(Policy):
    """on_host(layers): which of the model's `layers` layers run their dense part (attention, norms, router,
    shared experts, dense feed-forward) on the host CPU, with weights and KV cache in host memory. All
    layers from one routed layer's end to the next one's router go together: the routed one decides.
    decode_on(units): which of the `units` over the worker's own memory computes the attention of requests that decode,
    in all layers; None: the worker. The rest of a layer, and the attention of prompts, stay the worker's.
    """

    def on_host(self, layers: int) -> Collection[int]:
        return ()

    def decode_on(self, units: Sequence[str]) -> str | None:
        return None
