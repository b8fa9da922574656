"""Seconds of one step of a rank: kernels and messages of all layers for so many tokens, without the engine's own time.

A step processes `tokens` tokens: some are one per decoding sequence, the others a part of a prompt. What depends on the
number of tokens alone (products, experts, norms, collectives) is tabulated on a grid of tokens, and read off by linear
interpolation between logarithms; attention is asked for when the lengths are known.
"""

from __future__ import annotations

from collections import Counter
from functools import cached_property

import numpy as np

from hwmodels.collectives import all_reduce_s, gather_s
from hwmodels.operators import ACTIVATION_BYTES, Array
from simulator.layout import Layout
from simulator.model import ModelSpec
from simulator.serving.kernels import ServingKernels
from simulator.serving.precision import Precision

GRID = np.unique(np.round(2.0 ** np.arange(0, 15.5, 0.5)))
"""Numbers of tokens that are tabulated: 1, then two an octave up to 32,768."""

EXPERT_KERNELS = 4  # sorting, two grouped products, combination
LATENT_KERNELS = 4  # rotating, writing the cache, concatenating, the absorbed product
NORM_BYTES = 8.0  # a token's sums of squares of queries and of keys, where a norm spans the heads of several GPUs
MEMORY_SHARE, LEAST_SHARE = 0.95, 0.05
"""Part of a GPU's memory for weights and caches (engines' defaults: 0.88 to 0.95), and for caches at least."""


class StepCost:
    """Costs of the busiest rank of one instance of a model on GPUs of one kind."""

    def __init__(self, spec: ModelSpec, sheet_name: str, engine: str, layout: Layout, precision: Precision) -> None:
        """engine: VLLM or TRTLLM. Raises ModelError or PlatformError if the layout or the datasheet cannot be."""
        stored = precision.of(spec)
        self.layout, self.precision, self.engine = layout, precision, engine
        self.whole, self.part = stored, layout.of(stored)
        self.kernels = ServingKernels(sheet_name, engine, precision)
        self.sheet = self.kernels.sheet
        pattern = self.part.attention_pattern
        first: dict[tuple[str, bool], int] = {}
        alike = Counter[tuple[str, bool]]()
        for layer in range(self.part.layers):
            key = (pattern[layer % len(pattern)], layer in self.part.moe_layers)
            alike[key] += 1
            first.setdefault(key, layer)
        self._layers = [(first[key], number) for key, number in alike.items()]

    @cached_property
    def launches(self) -> int:
        """Kernels of a step, roughly: one for each operation of the model, another for each product whose activations
        are quantised, EXPERT_KERNELS for routed experts, LATENT_KERNELS more for latent attention.
        """
        count = 0
        for layer, number in self._layers:
            works = self.part.layer_dense_work(layer, 1, 1)
            each = len(works) + sum(work.kind == "gemm" and work.dtype in ("fp8", "fp4") for work in works)
            each += LATENT_KERNELS * getattr(self.part.attention_of(layer), "is_mla", False)
            count += number * (each + EXPERT_KERNELS * (layer in self.part.moe_layers))
        return count

    def tokens_s(self, tokens: Array) -> Array:
        """All of a step that depends only on its number of tokens, head excluded."""
        return self._read(self._tokens_table, tokens)

    def head_s(self, rows: Array) -> Array:
        """Final norm, LM head and the gathering of its logits, for so many positions."""
        return self._read(self._head_table, rows)

    def decode_s(self, sequences: Array, kv_len: Array) -> Array:
        """Attention of all layers for one token of each sequence; arrays of one length."""
        return self._sequence_s(np.asarray(sequences, float), np.asarray(kv_len, float), "decode")

    def prefill_s(self, tokens: Array, kv_len: Array) -> Array:
        """Attention of all layers for `tokens` new positions of one prompt whose length then is `kv_len`."""
        return self._sequence_s(np.asarray(tokens, float), np.asarray(kv_len, float), "prefill")

    def room(self, kv_tokens: float) -> float:
        """Sequences whose cache of `kv_tokens` tokens fits beside the weights in MEMORY_SHARE of a GPU's memory, of
        which LEAST_SHARE is taken to be left for it, however large the weights.
        """
        memory = self.sheet.memory_capacity_bytes
        free = max(MEMORY_SHARE * memory - self.layout.weight_bytes(self.whole), LEAST_SHARE * memory)
        return float(free / max(self.part.kv_bytes(int(kv_tokens)), 1))

    def _sequence_s(self, tokens: Array, kv_len: Array, phase: str) -> Array:
        total = np.zeros(np.broadcast(tokens, kv_len).shape)
        by_kind = Counter[int]()
        kinds: dict[str, int] = {}
        for layer, number in self._layers:
            name = self.part.attention_pattern[layer % len(self.part.attention_pattern)]
            by_kind[kinds.setdefault(name, layer)] += number
        for layer, number in by_kind.items():
            works = self.part.layer_dense_work(layer, tokens, kv_len, phase)
            total = total + number * sum(self.kernels.work_s(work) for work in works if work.kind == "attention")
        return total

    def parts_s(self, tokens: Array) -> dict[str, Array]:
        """Seconds of the parts of `tokens_s`: products, small kernels, experts, messages."""
        tokens = np.asarray(tokens, dtype=np.float64)
        found = {name: np.zeros_like(tokens) for name in ("products", "small", "experts", "messages")}
        group = self.layout.attention_dp
        for layer, number in self._layers:
            for work in self.part.layer_dense_work(layer, tokens, tokens, "prefill"):
                if work.kind != "attention":
                    part = "products" if work.kind == "gemm" else "small"
                    found[part] += number * self.kernels.work_s(work)
            if layer in self.part.moe_layers:
                found["experts"] += number * self.kernels.experts_s(self.whole, self.layout, tokens * group)
            found["messages"] += number * self._messages_s(layer, tokens)
        return found

    def _messages_s(self, layer: int, tokens: Array) -> Array:
        """Attention's sum over its group, and its norm's if that spans all heads; then the dense block's sum, or the
        experts' exchange.
        """
        size = tokens * self.whole.hidden * ACTIVATION_BYTES
        tp, group = self.layout.tp, self.layout.attention_dp
        one = all_reduce_s(self.sheet, self.engine, tp, size)
        experts = layer in self.part.moe_layers
        total = one if experts else 2.0 * one
        if tp > 1 and getattr(self.part.attention_of(layer), "qk_norm", "") == "full":
            total = total + all_reduce_s(self.sheet, self.engine, tp, tokens * NORM_BYTES)
        if experts and group == 1:
            total = total + all_reduce_s(self.sheet, self.engine, self.layout.gpus, size)
        elif experts:
            for operation in ("all_gather", "reduce_scatter"):
                total = total + gather_s(self.sheet, self.layout.gpus, size * group, operation)
        return np.asarray(total)

    @cached_property
    def _tokens_table(self) -> Array:
        return np.asarray(sum(self.parts_s(GRID).values()))

    @cached_property
    def _head_table(self) -> Array:
        logits = GRID * self.part.vocab * self.layout.tp * ACTIVATION_BYTES
        works = self.part.head_work(GRID)
        return sum(self.kernels.work_s(work) for work in works) + gather_s(self.sheet, self.layout.tp, logits)

    @staticmethod
    def _read(table: Array, tokens: Array) -> Array:
        tokens = np.asarray(tokens, dtype=np.float64)
        inside = np.exp(np.interp(np.log(np.maximum(tokens, 1.0)), np.log(GRID), np.log(table)))
        beyond = np.maximum(tokens / GRID[-1], 1.0)
        return np.asarray(np.where(tokens > 0, inside * beyond, 0.0))
