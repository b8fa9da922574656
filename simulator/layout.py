"""How a model is spread over GPUs, and what one GPU of it then holds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import ceil

from simulator.model import ModelError, ModelSpec
from simulator.model_attention import AttentionSpec
from simulator.model_recurrent import RecurrentSpec


@dataclass(frozen=True)
class Layout:
    """Tensor parallelism within each of `attention_dp` groups; experts are cut moe_tp ways and dealt to moe_ep ranks.

    pp: stages of a pipeline, each with its share of the layers, which the parts of a batch run through in turn.
    """

    tp: int = 1
    attention_dp: int = 1
    moe_tp: int = 1
    moe_ep: int = 1
    pp: int = 1

    def __post_init__(self) -> None:
        for name in ("tp", "attention_dp", "moe_tp", "moe_ep", "pp"):
            if getattr(self, name) < 1:
                raise ModelError(f"layout: {name} must be at least 1, got {getattr(self, name)}.")

    def __str__(self) -> str:
        """TP 4 x DP 2, experts TP 1 x EP 8, PP 1."""
        experts = f"experts TP {self.moe_tp} x EP {self.moe_ep}"
        return f"TP {self.tp} x DP {self.attention_dp}, {experts}, PP {self.pp}"

    @property
    def gpus(self) -> int:
        """GPUs of one stage."""
        return self.tp * self.attention_dp

    def of(self, spec: ModelSpec) -> ModelSpec:
        """What one GPU computes: heads, widths of dense blocks and the vocabulary divided by `tp`, rounded up; heads of
        keys and values are kept at least once. Routed experts are left as they are. Raises ModelError if experts cannot
        be dealt evenly.
        """
        if spec.experts and spec.experts % self.moe_ep:
            raise ModelError(f"layout: moe_ep must divide the {spec.experts} experts, got {self.moe_ep}.")
        if spec.experts and self.moe_tp * self.moe_ep != self.gpus:
            shared = f"{self.moe_tp} * {self.moe_ep}"
            raise ModelError(f"layout: moe_tp * moe_ep must be the {self.gpus} GPUs of attention, got {shared}.")
        kinds = {name: _part_of(kind, self.tp) for name, kind in spec.attention.items()}
        return replace(
            spec,
            attention=kinds,
            dense_intermediate=ceil(spec.dense_intermediate / self.tp),
            shared_intermediate=ceil(spec.shared_intermediate / self.tp),
            vocab=ceil(spec.vocab / self.tp),
        )

    def slice_of(self, spec: ModelSpec) -> ModelSpec:
        """The model with routed experts of the width that one GPU holds, rounded up."""
        return replace(spec, expert_intermediate=ceil(spec.expert_intermediate / self.moe_tp))

    def weight_bytes(self, spec: ModelSpec) -> float:
        """Stored bytes on one GPU; what is not a routed expert is taken to be cut `tp` ways."""
        routed = spec.parts()["routed_experts"][1]
        return (routed / (self.moe_tp * self.moe_ep) + spec.dense_bytes / self.tp) / self.pp


def _part_of(kind: AttentionSpec | RecurrentSpec, tp: int) -> AttentionSpec | RecurrentSpec:
    if isinstance(kind, RecurrentSpec):
        return replace(
            kind,
            state_values=ceil(kind.state_values / tp),
            in_width=ceil(kind.in_width / tp),
            out_width=ceil(kind.out_width / tp),
            conv_channels=ceil(kind.conv_channels / tp),
        )
    heads, kv_heads = ceil(kind.heads / tp), ceil(kind.kv_heads / tp)
    if kv_heads:
        heads = ceil(heads / kv_heads) * kv_heads
    return replace(kind, heads=heads, kv_heads=kv_heads)
