"""One kind of attention layer in numbers: weights, outputs, cache, work."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from omegaconf import MISSING

from hwmodels import Work, operators
from hwmodels.operators import Number


@dataclass(frozen=True)
class AttentionSpec:
    """One kind of attention layer.

    Grouped-query attention by heads, kv_heads (equal: multi-head) and head_dim; multi-head latent attention
    (MLA; DeepSeek-V2, arXiv 2405.04434) if kv_lora_rank is above zero: then head_dim is the part of a query
    without position, rope_head_dim the part with it, kv_heads unused.

    value_head_dim   width of a value, if it is not head_dim
    window           keys a query sees, and tokens the cache keeps; none: all
    qk_norm          none, head (one norm per head) or full (over all heads)
    sinks            one learnt logit per head
    k_equals_v       no projection of its own for values (the cache holds both, as keys are rotated)
    shared_kv        keys and values are those of the layer before: neither projected nor cached again
    output_gate      a gate for the heads' outputs is projected with the queries
    projection_sets  query and output projections are stored so many times; a token uses one set's worth
    index_top_k      keys a query sees, chosen among all by an indexer of index_heads heads of index_head_dim with
                     one cached key per token (MLA only; DeepSeek-V3.2, arXiv 2512.02556, section 2.1)
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
    shared_kv: bool = False
    output_gate: bool = False
    projection_sets: int = 1
    kv_lora_rank: int = 0
    q_lora_rank: int = 0
    rope_head_dim: int = 0
    value_head_dim: int = 0
    index_heads: int = 0
    index_head_dim: int = 0
    index_top_k: int = 0

    state_bytes = 0
    """Nothing is kept whose size does not grow with the sequence."""

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
    def output_width(self) -> int:
        """Inputs of the output projection."""
        return self.heads * self.value_dim

    @property
    def attended_values(self) -> int:
        """Numbers read per attended token of the cache of one layer."""
        if self.is_mla:
            return self.kv_lora_rank + self.rope_head_dim
        return self.kv_heads * (self.head_dim + self.value_dim)

    @property
    def cached_values(self) -> int:
        """Numbers kept per token in the KV cache of one layer."""
        return 0 if self.shared_kv else self.attended_values + self.index_head_dim

    @property
    def up_projection(self) -> int:
        """MLA's weights from the latent vector to keys and values of all heads."""
        return self.kv_lora_rank * self.heads * (self.head_dim + self.value_dim)

    def projections(self, hidden: int) -> list[tuple[int, int]]:
        """(n, k) of the products that make queries, keys and values, each run as one. MLA: down to the latent vectors
        (with the queries, unless these have a latent vector too), then up again.
        """
        gate = self.output_width if self.output_gate else 0
        if not self.is_mla:
            key_value = self.head_dim if self.k_equals_v else self.head_dim + self.value_dim
            key_values = 0 if self.shared_kv else self.kv_heads * key_value
            return [(self.heads * self.head_dim + gate + key_values, hidden)]
        query = self.heads * self.key_dim + self.index_heads * self.index_head_dim
        down = (self.q_lora_rank or query) + self.attended_values + self.index_head_dim + self.index_heads + gate
        up = [(query, self.q_lora_rank)] if self.q_lora_rank else []
        return [(down, hidden), *up, (self.heads * (self.head_dim + self.value_dim), self.kv_lora_rank)]

    def idle_params(self, hidden: int) -> int:
        """Weights that a token is not multiplied with: the other sets of query and output projections."""
        return (self.projection_sets - 1) * hidden * (self.heads * self.head_dim + self.output_width)

    def params(self, hidden: int) -> int:
        """All parameters, without norms."""
        projections = self.projections(hidden)
        biases = projections[0][0] if self.qkv_bias else 0
        biases += hidden if self.o_bias else 0
        weights = sum(n * k for n, k in projections) + self.output_width * hidden
        return weights + self.idle_params(hidden) + biases + (self.heads if self.sinks else 0)

    def norm_params(self) -> int:
        """Parameters of the norms on queries, keys, latent vectors and the indexer's keys (with biases)."""
        if self.is_mla:
            return self.q_lora_rank + self.kv_lora_rank + 2 * self.index_head_dim
        per_kind = {"none": 0, "head": 2, "full": self.heads + self.kv_heads}
        return per_kind[self.qk_norm] * self.head_dim

    def works(
        self, tokens: Number, kv_len: Number, phase: str, causal: bool, kv_bits: float, dtype: str, name: str
    ) -> list[Work]:
        """What runs between the projections, kernel by kernel: the indexer, if there is one, and the attention."""
        attention = self.work(tokens, kv_len, phase, causal, kv_bits, dtype, name)
        if not self.index_top_k:
            return [attention]
        t, length, decode, pairs, read = self._reach(tokens, kv_len, phase, causal, None)
        key_bytes = self.index_head_dim * kv_bits / 8
        one = np.minimum(t, 1.0) if decode else t
        shape: dict[str, Number] = {"tokens": one, "kv_len": length, "kv_heads": 0, "head_dim": 0}  # none was measured
        indexer = operators.attention(
            t, pairs, read, self.index_heads, self.index_head_dim, 0, key_bytes, dtype, "indexer", shape
        )
        return [indexer, attention]

    def work(
        self, tokens: Number, kv_len: Number, phase: str, causal: bool, kv_bits: float, dtype: str, name: str
    ) -> Work:
        """Scores and weighted sum, as ModelSpec.attention_work says; with `kv_bits` per number of the cache."""
        t, length, decode, pairs, read = self._reach(tokens, kv_len, phase, causal, self.index_top_k or self.window)
        shape: dict[str, Number] = {
            "tokens": np.minimum(t, 1.0) if decode else t,
            "kv_len": length,
            "sequences": t if decode else np.minimum(t, 1.0),
            "heads": self.heads,
            "kv_heads": 0 if self.is_mla else self.kv_heads,
            "head_dim": 0 if self.index_top_k else self.head_dim,  # no kernel for chosen keys was measured
            "window": self.window or 0,
            "kv_bits": kv_bits,
        }
        token_bytes = self.attended_values * kv_bits / 8
        if not self.is_mla:
            return operators.attention(
                t, pairs, read, self.heads, self.key_dim, self.value_dim, token_bytes, dtype, name, shape
            )
        absorbed = operators.attention(
            t, pairs, read, self.heads, self.attended_values, self.kv_lora_rank, token_bytes, dtype
        )
        expanded = operators.attention(t, pairs, read, self.heads, self.key_dim, self.value_dim, token_bytes, dtype)
        expand_flops = 2.0 * np.maximum(read - t, 0.0) * self.up_projection
        expand_bytes = 2.0 * read * self.heads * (self.head_dim + self.value_dim) * operators.ACTIVATION_BYTES
        cheaper = absorbed.flops <= expanded.flops + expand_flops
        return Work(
            "attention",
            dtype,
            np.where(cheaper, absorbed.flops, expanded.flops + expand_flops),
            np.where(cheaper, absorbed.size_bytes, expanded.size_bytes + expand_bytes),
            name,
            shape,
        )

    def _reach(
        self, tokens: Number, kv_len: Number, phase: str, causal: bool, seen: int | None
    ) -> tuple[operators.Array, operators.Array, bool, operators.Array, operators.Array]:
        """Tokens, KV length, whether it is decode, query-key pairs and entries of the cache that are read, if a query
        sees `seen` keys (None: all). The cache is read once for all queries of a sequence, in decode for each.
        """
        t, length = np.asarray(tokens, dtype=np.float64), np.asarray(kv_len, dtype=np.float64)
        if phase == "decode":
            pairs = operators.attended_pairs(t, length, seen, causal=False)
            return t, length, True, pairs, pairs
        pairs = operators.attended_pairs(t, length, seen, causal)
        reach = np.inf if self.window is None else self.window - 1
        read = np.where(t > 0, np.minimum(length, reach + t), 0.0)
        if seen and self.index_top_k:
            read = np.minimum(read, pairs)
        return t, length, False, pairs, read


def attention_problems(kind: AttentionSpec) -> Iterator[str]:
    """What is impossible about a kind of attention: the field, a quote, and what was expected."""
    needed = (
        ("heads", "head_dim", "rope_head_dim", "value_head_dim") if kind.is_mla else ("heads", "head_dim", "kv_heads")
    )
    for key in (*needed, "projection_sets"):
        if getattr(kind, key) < 1:
            yield f"{key}' must be at least 1, got {getattr(kind, key)}"
    lengths = ("kv_lora_rank", "q_lora_rank", "rope_head_dim", "value_head_dim", "kv_heads")
    indexer = ("index_heads", "index_head_dim", "index_top_k")
    for key in (*lengths, *indexer):
        if getattr(kind, key) < 0:
            yield f"{key}' must not be negative, got {getattr(kind, key)}"
        elif getattr(kind, key) and key != "value_head_dim" and kind.is_mla == (key == "kv_heads"):
            yield f"{key}' must be left out, as the kind is {'MLA' if kind.is_mla else 'not MLA'}"
    if any(getattr(kind, key) for key in indexer):
        for key in (*indexer, "q_lora_rank"):
            if not getattr(kind, key):
                yield f"{key}' must be at least 1, as there is an indexer, got {getattr(kind, key)}"
        if kind.window is not None:
            yield f"window' must be left out, as there is an indexer, got {kind.window}"
    for key in ("shared_kv", "k_equals_v"):
        if getattr(kind, key) and kind.is_mla:
            yield f"{key}' must be left out, as the kind is MLA"
    if kind.projection_sets > 1 and kind.is_mla:
        yield f"projection_sets' must be left out, as the kind is MLA, got {kind.projection_sets}"
    if kind.kv_heads > 0 and kind.heads % kind.kv_heads:
        yield f"kv_heads' must divide heads ({kind.heads}), got {kind.kv_heads}"
    if kind.window is not None and kind.window < 1:
        yield f"window' must be at least 1 or left out, got {kind.window}"
    if kind.qk_norm not in ("none", "head", "full"):
        yield f"qk_norm' must be one of none, head, full, got '{kind.qk_norm}'"
