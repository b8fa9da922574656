"""One kind of attention layer in numbers: weights, outputs, cache."""

from collections.abc import Iterator
from dataclasses import dataclass

from omegaconf import MISSING


@dataclass(frozen=True)
class AttentionSpec:
    """One kind of attention layer.

    Grouped-query attention by heads, kv_heads (equal: multi-head) and head_dim; multi-head latent attention
    (MLA; DeepSeek-V2, arXiv 2405.04434) if kv_lora_rank is above zero: then head_dim is the part of a query
    without position, rope_head_dim the part with it, value_head_dim that of a value, kv_heads unused.

    window       keys a query sees, and tokens the cache keeps; none: all
    qk_norm      none, head (one norm per head) or full (over all heads)
    sinks        one learnt logit per head
    k_equals_v   no projection of its own for values (the cache holds both, as keys are rotated)
    """

    heads: int = MISSING
    head_dim: int = MISSING
    kv_heads: int = 0
    window: int | None = None
    qkv_bias: bool = False
    o_bias: bool = False
    qk_norm: str = "none"
    sinks: bool = False
    k_equals_v: bool = False
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_head_dim: int = 0
    value_head_dim: int = 0

    @property
    def is_mla(self) -> bool:
        """Whether this is multi-head latent attention."""
        return self.kv_lora_rank > 0

    @property
    def key_dim(self) -> int:
        """Values per key and head."""
        return self.head_dim + self.rope_head_dim

    @property
    def value_dim(self) -> int:
        """Values per value and head."""
        return self.value_head_dim or self.head_dim

    @property
    def cached_values(self) -> int:
        """Numbers kept per token in the KV cache of one layer."""
        if self.is_mla:
            return self.kv_lora_rank + self.rope_head_dim
        return 2 * self.kv_heads * self.head_dim

    @property
    def up_projection(self) -> int:
        """MLA's weights from the latent vector to keys and values of all heads."""
        return self.kv_lora_rank * self.heads * (self.head_dim + self.value_dim)

    def qkv_weights(self, hidden: int) -> int:
        """Weights of the projections to queries, keys and values, without biases."""
        if self.is_mla:
            query = self.heads * self.key_dim
            down = hidden * self.q_lora_rank + self.q_lora_rank * query if self.q_lora_rank else hidden * query
            return down + hidden * (self.kv_lora_rank + self.rope_head_dim) + self.up_projection
        kv_projections = 1 if self.k_equals_v else 2
        return hidden * self.head_dim * (self.heads + kv_projections * self.kv_heads)

    def qkv_outputs(self) -> int:
        """Numbers which the projections write per token."""
        if self.is_mla:
            outputs = self.heads * (self.key_dim + self.head_dim + self.value_dim)
            return outputs + self.q_lora_rank + self.cached_values
        return self.head_dim * (self.heads + 2 * self.kv_heads)

    def o_weights(self, hidden: int) -> int:
        """Weights of the output projection, without bias."""
        return self.heads * self.value_dim * hidden

    def params(self, hidden: int) -> int:
        """All parameters, without norms."""
        kv_projections = 1 if self.k_equals_v else 2
        biases = self.head_dim * (self.heads + kv_projections * self.kv_heads) if self.qkv_bias else 0
        biases += hidden if self.o_bias else 0
        return self.qkv_weights(hidden) + self.o_weights(hidden) + biases + (self.heads if self.sinks else 0)

    def norm_params(self) -> int:
        """Parameters of the norms on queries, keys and latent vectors."""
        if self.is_mla:
            return self.q_lora_rank + self.kv_lora_rank
        per_kind = {"none": 0, "head": 2, "full": self.heads + self.kv_heads}
        return per_kind[self.qk_norm] * self.head_dim


def attention_problems(kind: AttentionSpec) -> Iterator[str]:
    """What is impossible about a kind of attention: the field, a quote, and what was expected."""
    needed = (
        ("heads", "head_dim", "rope_head_dim", "value_head_dim") if kind.is_mla else ("heads", "head_dim", "kv_heads")
    )
    for key in needed:
        if getattr(kind, key) < 1:
            yield f"{key}' must be at least 1, got {getattr(kind, key)}"
    for key in ("kv_lora_rank", "q_lora_rank", "rope_head_dim", "value_head_dim", "kv_heads"):
        if getattr(kind, key) < 0:
            yield f"{key}' must not be negative, got {getattr(kind, key)}"
        elif getattr(kind, key) and kind.is_mla == (key == "kv_heads"):
            yield f"{key}' must be left out, as the kind is {'MLA' if kind.is_mla else 'not MLA'}"
    if kind.kv_heads > 0 and kind.heads % kind.kv_heads:
        yield f"kv_heads' must divide heads ({kind.heads}), got {kind.kv_heads}"
    if kind.window is not None and kind.window < 1:
        yield f"window' must be at least 1 or left out, got {kind.window}"
    if kind.qk_norm not in ("none", "head", "full"):
        yield f"qk_norm' must be one of none, head, full, got '{kind.qk_norm}'"
