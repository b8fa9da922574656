"""An MoE architecture in numbers: parameters, bytes, and the work of each part. Knows nothing of time.

Parameter counts follow the public implementations of the architectures (Hugging Face Transformers); each
file of experiments/conf/model names its source and the published totals it is tested against.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from omegaconf import MISSING

from hwmodels import Work, operators
from hwmodels.operators import Number
from hwmodels.strict import strict
from simulator.model_attention import AttentionSpec
from simulator.model_recurrent import RecurrentSpec
from simulator.model_rules import problems

PHASES = ("prefill", "decode")
Kind = AttentionSpec | RecurrentSpec
_NORM_BITS = 16.0


class ModelError(ValueError):
    """A model description that cannot be; the message is one sentence."""


def _read_kind(part: Any, where: str, field: str) -> Kind:
    """A kind of attention, or of recurrent layer: that which has a state."""
    if isinstance(part, Mapping) and "state_values" in part:
        return strict(RecurrentSpec, part, where, ModelError, field)
    return strict(AttentionSpec, part, where, ModelError, field)


@dataclass(frozen=True)
class ModelSpec:
    """A Mixture-of-Experts transformer, or a dense one. Layers count from 0.

    experts             per MoE layer; 0: a dense model, then top_k and expert_intermediate are 0 too
    attention, attention_pattern   kinds of attention (or of recurrent layers: those with state_values) by name; layer i
                        has kind pattern[i mod length]
    encoder_layers      the first so many layers (or all) are a bidirectional encoder without KV cache; the others
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
        kinds = {name: _read_kind(part, where, f"attention.{name}") for name, part in spec.attention.items()}
        pattern = spec.attention_pattern or list(kinds)[:1]
        spec = replace(spec, attention=kinds, attention_pattern=pattern, native_top_k=spec.native_top_k or spec.top_k)
        for problem in problems(spec):
            raise ModelError(" ".join(f"{where}: {problem}.".split()))
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
        """Indices of the layers with routed experts; a dense model (experts: 0) has none."""
        if not self.experts:
            return ()
        first = self.first_dense_layers + self.moe_every - 1
        return tuple(range(first, self.layers, self.moe_every))

    def attention_of(self, layer: int) -> Kind:
        """The kind of attention of this layer. Raises ModelError for a layer that does not exist."""
        if not 0 <= layer < self.layers:
            raise ModelError(f"model '{self.name}': layer {layer} does not exist, it has {self.layers}.")
        kind: Kind = self.attention[self.attention_pattern[layer % len(self.attention_pattern)]]
        return kind

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
        final_norms = 2 if 0 < self.encoder_layers < self.layers else 1
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
        idle += sum(self.attention_of(layer).idle_params(self.hidden) for layer in range(self.layers))
        table = 0 if include_embedding or self.tied_embeddings else self.vocab * self.hidden
        return self.total_params - idle - table

    def layer_dense_bytes(self, layer: int) -> int:
        """Stored bytes of a layer without its routed experts; the rest of `dense_bytes` are tables and final norms."""
        kind, times = self.attention_of(layer), 1 + self._has_cross_attention(layer)
        moe = layer in self.moe_layers
        bits = kind.params(self.hidden) * times * self.bits("attention")
        bits += moe * self.experts * (self.hidden + self.router_bias) * self.default_bits
        bits += moe * self._ffn_weights(self.shared_intermediate) * self.bits("shared")
        bits += self._has_dense_ffn(layer) * self._ffn_weights(self.dense_intermediate) * self.bits("dense")
        norms = self.hidden * (self.norms_per_layer + times - 1) + kind.norm_params() * times
        return int((bits + norms * _NORM_BITS) // 8)

    def kv_bytes(self, kv_tokens: int, layers: Collection[int] | None = None) -> int:
        """Bytes of the KV cache of one sequence of `kv_tokens` tokens (of some layers; None: of all); a windowed layer
        keeps its window, a recurrent one its state, however short the sequence.
        """
        values, states = 0, 0.0
        for layer in range(self.encoder_layers, self.layers):
            if layers is not None and layer not in layers:
                continue
            kind = self.attention_of(layer)
            kept = kv_tokens if kind.window is None else min(kv_tokens, kind.window)
            values += kept * kind.cached_values * (1 + self._has_cross_attention(layer))
            states += kind.state_bytes
        return round(values * self.kv_bits / 8 + states)

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
        causal = layer >= self.encoder_layers
        return kind.work(tokens, kv_len, phase, causal, self.kv_bits, self.dtype, "attention")

    def layer_dense_work(self, layer: int, tokens: Number, kv_len: Number, phase: str = "prefill") -> list[Work]:
        """Everything of this layer but routed experts, kernel by kernel: norms, QKV projections, attention, output
        projection (again for cross-attention), router, shared experts, dense feed-forward block.

        `phase` as in `attention_work`; the default is right for one sequence, also for its single tokens.
        """
        kind, hidden = self.attention_of(layer), self.hidden
        times = 1 + self._has_cross_attention(layer)
        norm_values = hidden * (self.norms_per_layer + times - 1)
        works = [operators.elementwise(tokens, norm_values, norm_values * _NORM_BITS / 8, self.dtype, "norms")]
        bits, dtype = self.bits("attention"), self.linear_dtype or self.dtype
        for cross in ("", "cross-")[:times]:
            works += [
                operators.gemm(tokens, n, k, bits, dtype, f"{cross}QKV projection") for n, k in kind.projections(hidden)
            ]
            causal = not cross and layer >= self.encoder_layers
            works += kind.works(tokens, kv_len, phase, causal, self.kv_bits, self.dtype, f"{cross}attention")
            works.append(operators.gemm(tokens, hidden, kind.output_width, bits, dtype, f"{cross}output projection"))
        if layer in self.moe_layers:
            works.append(operators.gemm(tokens, self.experts, hidden, self.default_bits, self.dtype, "router"))
            works.append(operators.route(tokens, self.experts, self.top_k, self.dtype))
            if self.shared_intermediate:
                works += self._feed_forward(tokens, self.shared_intermediate, "shared", "shared experts")
        if self._has_dense_ffn(layer):
            works += self._feed_forward(tokens, self.dense_intermediate, "dense", "dense FFN")
        return works

    def expert_work(self, tokens: Number) -> Work:
        """One routed expert applied to `tokens` tokens."""
        return operators.expert(
            tokens,
            self.hidden,
            self.expert_intermediate,
            self.ffn_matrices,
            self.expert_bytes,
            self.linear_dtype or self.dtype,
        )

    def head_work(self, tokens: Number) -> list[Work]:
        """Final norm and LM head for the `tokens` positions whose logits are wanted."""
        bits = self.bits("embedding" if self.tied_embeddings else "head")
        return [
            operators.elementwise(tokens, self.hidden, self.hidden * _NORM_BITS / 8, self.dtype, "norms"),
            operators.gemm(tokens, self.vocab, self.hidden, bits, self.dtype, "LM head"),
        ]

    def embedding_work(self, tokens: Number) -> Work:
        """Look-up of `tokens` rows of the embedding table."""
        return operators.embedding(tokens, self.hidden, self.hidden * self.bits("embedding") / 8, self.dtype)

    def _feed_forward(self, tokens: Number, width: int, part: str, name: str) -> list[Work]:
        """Gate and up in one product, the activation function, down."""
        dtype, wide = self.linear_dtype or self.dtype, (self.ffn_matrices - 1) * width
        return [
            operators.gemm(tokens, wide, self.hidden, self.bits(part), dtype, name),
            operators.activation(tokens, width, self.ffn_matrices, dtype, name),
            operators.gemm(tokens, self.hidden, width, self.bits(part), dtype, name),
        ]
