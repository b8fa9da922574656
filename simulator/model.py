"""An MoE architecture in numbers: parameters, bytes, and the work of each part. Knows nothing of time.

Parameter counts follow the public implementations of the architectures (Hugging Face Transformers); each
file of experiments/conf/model names its source and the published totals it is tested against.
"""

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
from omegaconf import MISSING

from hwmodels import Work, operators
from hwmodels.operators import Number
from hwmodels.strict import strict
from simulator.model_attention import AttentionSpec
from simulator.model_rules import problems

PHASES = ("prefill", "decode")
_NORM_BITS = 16.0


class ModelError(ValueError):
    """A model description that cannot be; the message is one sentence."""


@dataclass(frozen=True)
class ModelSpec:
    """A Mixture-of-Experts transformer. Layers count from 0.

    attention, attention_pattern   kinds of attention by name; layer i has kind pattern[i mod length]
    encoder_layers      the first so many layers are a bidirectional encoder without KV cache; the others
                        then have cross-attention too, its key length taken to be that of the self-attention
    first_dense_layers, moe_every  of the layers after the first dense ones every moe_every-th is MoE
    dense_intermediate  width of the feed-forward block in layers without experts
    dense_branch        MoE layers run a dense block of dense_intermediate beside the experts
    shared_intermediate width of all shared experts together
    ffn_matrices        3: gated (gate, up, down), 2: plain
    *_bits              stored bits per weight, scales included; default_bits for what is not given; biases
                        are stored in default_bits, norms in 16
    dtype, linear_dtype arithmetic of attention, router and head; that of the other linear layers
    native_top_k        the model's own top_k, when a run uses another
    """

    name: str = MISSING
    source: str = MISSING
    layers: int = MISSING
    hidden: int = MISSING
    vocab: int = MISSING
    experts: int = MISSING
    top_k: int = MISSING
    expert_intermediate: int = MISSING
    attention: dict[str, Any] = MISSING
    attention_pattern: list[str] = field(default_factory=list)
    encoder_layers: int = 0
    native_top_k: int = 0
    first_dense_layers: int = 0
    moe_every: int = 1
    dense_intermediate: int = 0
    dense_branch: bool = False
    shared_intermediate: int = 0
    ffn_matrices: int = 3
    expert_bias: bool = False
    router_bias: bool = False
    norms_per_layer: int = 2
    tied_embeddings: bool = False
    default_bits: float = 16.0
    experts_bits: float | None = None
    attention_bits: float | None = None
    shared_bits: float | None = None
    dense_bits: float | None = None
    embedding_bits: float | None = None
    head_bits: float | None = None
    kv_bits: float = 16.0
    dtype: str = "bf16"
    linear_dtype: str = ""
    published_total_params: float | None = None
    published_active_params: float | None = None
    published_active_includes_embedding: bool = False

    @classmethod
    def from_mapping(cls, mapping: Any, where: str = "model") -> "ModelSpec":
        """Reads a model (a dict or an OmegaConf config, e.g. a file of experiments/conf/model).

        Raises ModelError: one sentence which names `where`, the field and what was expected.
        """
        spec = strict(cls, mapping, where, ModelError)
        kinds = {
            name: strict(AttentionSpec, part, where, ModelError, f"attention.{name}")
            for name, part in spec.attention.items()
        }
        pattern = spec.attention_pattern or list(kinds)[:1]
        spec = replace(spec, attention=kinds, attention_pattern=pattern, native_top_k=spec.native_top_k or spec.top_k)
        for problem in problems(spec):
            raise ModelError(f"{where}: {problem}.")
        return spec

    def _repr_html_(self) -> str:
        from simulator.drawing import model_html

        return model_html(self)

    def with_experts_bits(self, bits: float) -> "ModelSpec":
        """The same model with its routed experts stored in `bits` per weight, scales included."""
        if not 0 < bits <= 64:
            raise ModelError(f"model '{self.name}': experts_bits must be above 0 and at most 64, got {bits}.")
        return replace(self, experts_bits=float(bits))

    # Structure

    @cached_property
    def moe_layers(self) -> tuple[int, ...]:
        """Indices of the layers with routed experts."""
        first = self.first_dense_layers + self.moe_every - 1
        return tuple(range(first, self.layers, self.moe_every))

    def attention_of(self, layer: int) -> AttentionSpec:
        """The kind of attention of this layer. Raises ModelError for a layer that does not exist."""
        if not 0 <= layer < self.layers:
            raise ModelError(f"model '{self.name}': layer {layer} does not exist, it has {self.layers}.")
        spec: AttentionSpec = self.attention[self.attention_pattern[layer % len(self.attention_pattern)]]
        return spec

    def _has_cross_attention(self, layer: int) -> bool:
        return 0 < self.encoder_layers <= layer

    def _has_dense_ffn(self, layer: int) -> bool:
        return self.dense_branch or layer not in self.moe_layers

    def _ffn_weights(self, width: int) -> int:
        return self.ffn_matrices * self.hidden * width

    def bits(self, part: str) -> float:
        """Stored bits per weight of a part: experts, attention, shared, dense, embedding, head, kv."""
        bits: float | None = getattr(self, f"{part}_bits")
        return self.default_bits if bits is None else bits

    # Parameters and bytes

    @property
    def expert_params(self) -> int:
        """Parameters of one routed expert, biases included."""
        return self._ffn_weights(self.expert_intermediate) + self._expert_biases

    @property
    def _expert_biases(self) -> int:
        per_bias = (self.ffn_matrices - 1) * self.expert_intermediate + self.hidden
        return per_bias if self.expert_bias else 0

    @property
    def expert_bytes(self) -> int:
        """Stored bytes of one routed expert, with scales and biases, rounded."""
        weights = self._ffn_weights(self.expert_intermediate) * self.bits("experts")
        return round((weights + self._expert_biases * self.default_bits) / 8)

    def parts(self) -> dict[str, tuple[int, int]]:
        """Part -> (parameters, bytes): attention, router, routed_experts, shared_experts, dense_ffn,
        embedding, lm_head, norms. Tied embeddings count once, as the embedding.
        """
        moe = len(self.moe_layers)
        kinds = [(self.attention_of(i), 1 + self._has_cross_attention(i)) for i in range(self.layers)]
        dense_layers = sum(self._has_dense_ffn(i) for i in range(self.layers))
        table = self.vocab * self.hidden
        cross_norms = sum(times - 1 for _, times in kinds)
        final_norms = 2 if self.encoder_layers else 1
        norms = self.hidden * (self.layers * self.norms_per_layer + cross_norms + final_norms)
        counts = {
            "attention": (sum(a.params(self.hidden) * n for a, n in kinds), self.bits("attention")),
            "router": (moe * self.experts * (self.hidden + self.router_bias), self.default_bits),
            "shared_experts": (moe * self._ffn_weights(self.shared_intermediate), self.bits("shared")),
            "dense_ffn": (dense_layers * self._ffn_weights(self.dense_intermediate), self.bits("dense")),
            "embedding": (table, self.bits("embedding")),
            "lm_head": (0 if self.tied_embeddings else table, self.bits("head")),
            "norms": (norms + sum(a.norm_params() * n for a, n in kinds), _NORM_BITS),
        }
        sizes = {part: (params, round(params * bits / 8)) for part, (params, bits) in counts.items()}
        routed = moe * self.experts
        return {"routed_experts": (routed * self.expert_params, routed * self.expert_bytes), **sizes}

    @cached_property
    def dense_bytes(self) -> int:
        """Stored bytes of all that is not a routed expert."""
        return sum(size for part, (_, size) in self.parts().items() if part != "routed_experts")

    @cached_property
    def total_params(self) -> int:
        """All parameters."""
        return sum(params for params, _ in self.parts().values())

    def active_params(self, include_embedding: bool = False) -> int:
        """Parameters one token is multiplied with: top_k experts and everything dense, with the LM head.

        The embedding table is only looked up; `include_embedding` counts it, as some publications do. A tied
        table counts once, as the head.
        """
        idle = len(self.moe_layers) * (self.experts - self.top_k) * self.expert_params
        table = 0 if include_embedding or self.tied_embeddings else self.vocab * self.hidden
        return self.total_params - idle - table

    def kv_bytes(self, kv_tokens: int) -> int:
        """Bytes of the KV cache of one sequence of `kv_tokens` tokens; a windowed layer keeps its window."""
        values = 0
        for layer in range(self.encoder_layers, self.layers):
            kind = self.attention_of(layer)
            kept = kv_tokens if kind.window is None else min(kv_tokens, kind.window)
            values += kept * kind.cached_values * (1 + self._has_cross_attention(layer))
        return round(values * self.kv_bits / 8)

    # Work

    def attention_work(self, layer: int, tokens: Number, kv_len: Number, *, phase: str) -> Work:
        """Scores and weighted sum of one layer, without projections.

        phase "prefill": `tokens` new positions of one sequence whose final length is `kv_len`, causal.
        phase "decode": `tokens` sequences of `kv_len` tokens each, one query per sequence. For one token
        both are the same. MLA is counted in the cheaper of its two forms: keys and values expanded from the
        latent vectors, or the projections absorbed into queries and outputs (arXiv 2405.04434, section 2.1).
        Raises ModelError for another phase.
        """
        if phase not in PHASES:
            raise ModelError(f"phase must be prefill or decode, got '{phase}'.")
        kind = self.attention_of(layer)
        return self._attend(kind, tokens, kv_len, phase, causal=layer >= self.encoder_layers)

    def _attend(self, kind: AttentionSpec, tokens: Number, kv_len: Number, phase: str, causal: bool) -> Work:
        t, length = np.asarray(tokens, dtype=np.float64), np.asarray(kv_len, dtype=np.float64)
        if phase == "decode":
            pairs = operators.attended_pairs(t, length, kind.window, causal=False)
            read = pairs
        else:
            pairs = operators.attended_pairs(t, length, kind.window, causal)
            reach = np.inf if kind.window is None else kind.window - 1
            read = np.where(t > 0, np.minimum(length, reach + t), 0.0)
        token_bytes = kind.cached_values * self.kv_bits / 8
        if not kind.is_mla:
            return operators.attention(
                t, pairs, read, kind.heads, kind.key_dim, kind.value_dim, token_bytes, self.dtype
            )
        absorbed = operators.attention(
            t, pairs, read, kind.heads, kind.cached_values, kind.kv_lora_rank, token_bytes, self.dtype
        )
        expanded = operators.attention(
            t, pairs, read, kind.heads, kind.key_dim, kind.value_dim, token_bytes, self.dtype
        )
        expand_flops = 2.0 * np.maximum(read - t, 0.0) * kind.up_projection
        expand_bytes = 2.0 * read * kind.heads * (kind.head_dim + kind.value_dim) * operators.ACTIVATION_BYTES
        cheaper = absorbed.flops <= expanded.flops + expand_flops
        return Work(
            "attention",
            self.dtype,
            np.where(cheaper, absorbed.flops, expanded.flops + expand_flops),
            np.where(cheaper, absorbed.size_bytes, expanded.size_bytes + expand_bytes),
        )

    def layer_dense_work(self, layer: int, tokens: Number, kv_len: Number, phase: str = "prefill") -> list[Work]:
        """Everything of this layer but routed experts, in order: norms, QKV projections, attention, output
        projection (again for cross-attention), router, shared experts, dense feed-forward block.

        `phase` as in `attention_work`; the default is right for one sequence, also for its single tokens.
        """
        kind, hidden = self.attention_of(layer), self.hidden
        times = 1 + self._has_cross_attention(layer)
        norm_values = hidden * (self.norms_per_layer + times - 1)
        works = [operators.elementwise(tokens, norm_values, norm_values * _NORM_BITS / 8, self.dtype)]
        for block in range(times):
            attend = (
                self._attend(kind, tokens, kv_len, phase, causal=False)
                if block
                else self.attention_work(layer, tokens, kv_len, phase=phase)
            )
            output_values = kind.heads * kind.value_dim + hidden
            works += [
                self._linear(tokens, kind.qkv_weights(hidden), hidden + kind.qkv_outputs(), "attention"),
                attend,
                self._linear(tokens, kind.o_weights(hidden), output_values, "attention"),
            ]
        if layer in self.moe_layers:
            weights = hidden * self.experts
            size = weights * self.default_bits / 8
            works.append(operators.linear(tokens, weights, size, hidden + self.experts, self.dtype))
            if self.shared_intermediate:
                works.append(self._feed_forward(tokens, self.shared_intermediate, "shared"))
        if self._has_dense_ffn(layer):
            works.append(self._feed_forward(tokens, self.dense_intermediate, "dense"))
        return works

    def expert_work(self, tokens: Number) -> Work:
        """One routed expert applied to `tokens` tokens."""
        width = self.expert_intermediate
        return operators.feed_forward(
            tokens,
            self.hidden,
            width,
            self._ffn_weights(width),
            self.expert_bytes,
            self.linear_dtype or self.dtype,
            "grouped_gemm",
        )

    def head_work(self, tokens: Number) -> list[Work]:
        """Final norm and LM head for the `tokens` positions whose logits are wanted."""
        table = self.vocab * self.hidden
        part = "embedding" if self.tied_embeddings else "head"
        size = table * self.bits(part) / 8
        norm_size = self.hidden * _NORM_BITS / 8
        return [
            operators.elementwise(tokens, self.hidden, norm_size, self.dtype),
            operators.linear(tokens, table, size, self.hidden + self.vocab, self.dtype),
        ]

    def embedding_work(self, tokens: Number) -> Work:
        """Look-up of `tokens` rows of the embedding table."""
        return operators.embedding(tokens, self.hidden, self.hidden * self.bits("embedding") / 8, self.dtype)

    def _linear(self, tokens: Number, weights: int, activations: int, part: str) -> Work:
        size = weights * self.bits(part) / 8
        return operators.linear(tokens, weights, size, activations, self.linear_dtype or self.dtype)

    def _feed_forward(self, tokens: Number, width: int, part: str) -> Work:
        weights = self._ffn_weights(width)
        size = weights * self.bits(part) / 8
        return operators.feed_forward(tokens, self.hidden, width, weights, size, self.linear_dtype or self.dtype)
