"""How long the tasks of a step take, and how many bytes they move, by layer and micro-batch."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from hwmodels import Device
from hwmodels.operators import ACTIVATION_BYTES
from simulator.model import ModelSpec
from simulator.model_attention import AttentionSpec
from simulator.plan import Step
from simulator.runtime.costs import DenseCosts, ExpertCosts, to_ps_array

OUT_OF_CAST = "policy/pipeline=micro_batches needs a model of which every layer has experts and grouped-query attention"


@dataclass(frozen=True)
class StepCosts:
    """front, attention, back: ps by what bounds it on the GPU, int64 [layers, micro-batches, 3]; attention is that of
    the GPU. host_ps: attention on the CPU [layers, micro-batches]. cache_bytes: KV cache that it reads; new_bytes: keys
    and values written [layers, micro-batches]. qkv_bytes, hidden_bytes: activations to and from the host
    [micro-batches].
    """

    front: np.ndarray
    attention: np.ndarray
    back: np.ndarray
    host_ps: np.ndarray
    cache_bytes: np.ndarray
    new_bytes: np.ndarray
    qkv_bytes: np.ndarray
    hidden_bytes: np.ndarray


class MicroBatchCosts:
    """The parts of a layer on a GPU, and its attention on the host CPU (None: never there).

    Raises ValueError for a model that is not cast for it.
    """

    def __init__(self, model: ModelSpec, expert_bytes: list[int], gpu: Device, cpu: Device | None) -> None:
        kinds = [model.attention_of(layer) for layer in range(model.layers)]
        plain = all(isinstance(kind, AttentionSpec) and not kind.is_mla for kind in kinds)
        if not plain or len(model.moe_layers) < model.layers or model.encoder_layers:
            raise ValueError(f"{OUT_OF_CAST}; {model.name} is none.")
        self.model = model
        self._gpu = DenseCosts.of(model, gpu)
        self._cpu = DenseCosts.of(model, cpu) if cpu is not None else None
        self.experts = ExpertCosts(model, expert_bytes, gpu)
        names = [model.attention_pattern[layer % len(model.attention_pattern)] for layer in range(model.layers)]
        self._first = [names.index(name) for name in dict.fromkeys(names)]  # a layer of each kind
        self._kind = np.array([list(dict.fromkeys(names)).index(name) for name in names])

    @cached_property
    def qkv_values(self) -> int:
        """Queries, keys and values of a token."""
        kind = self.model.attention_of(0)
        assert isinstance(kind, AttentionSpec)
        return sum(n for n, _ in kind.projections(self.model.hidden))

    @cached_property
    def output_values(self) -> int:
        """Outputs of a token's attention."""
        kind = self.model.attention_of(0)
        assert isinstance(kind, AttentionSpec)
        return kind.output_width

    def cached_bytes(self, tokens: np.ndarray | int) -> np.ndarray:
        """KV cache of a sequence so long, [layers, ...]."""
        per_kind = [self.model.kv_bytes(1, [layer]) for layer in self._first]
        kept = []
        for layer, size in zip(self._first, per_kind, strict=True):
            window = getattr(self.model.attention_of(layer), "window", None)
            kept.append(np.asarray(tokens if window is None else np.minimum(tokens, window)) * size)
        return np.stack(kept)[self._kind]

    def of(self, step: Step, members: np.ndarray, parts: int) -> StepCosts:
        """Of a step whose requests are in these micro-batches, [requests]."""
        new = np.array(step.block.request_tokens[step.row], dtype=np.int64)
        length = np.array(step.block.kv_tokens[step.row], dtype=np.int64)
        table = _table(members, parts)
        tokens_of = np.where(table >= 0, new[table], 0)
        length_of = np.where(table >= 0, length[table], 0)
        counts = expert_counts(step, members, parts, self.model.experts)
        return self.costs(tokens_of, length_of, counts)

    def costs(self, new: np.ndarray, length: np.ndarray, counts: np.ndarray) -> StepCosts:
        """New tokens and context lengths [micro-batches, requests], 0 where there is none; tokens of each expert
        [micro-batches, layers, experts]."""
        tokens, sampled = new.sum(axis=1).astype(np.float64), (new > 0).sum(axis=1).astype(np.float64)
        front, attention, back, host = [], [], [], []
        for layer in self._first:
            works = self.model.layer_dense_work(layer, tokens, tokens)
            place = next(number for number, work in enumerate(works) if work.kind == "attention")
            front.append(self._gpu.works_s(works[:place]))
            back.append(self._gpu.works_s(works[place + 1 :]))
            attention.append(self._gpu.attention_s(layer, new, length))
            if self._cpu is not None:
                host.append(self._cpu.attention_s(layer, new, length).sum(axis=-1))
        fronts = to_ps_array(np.stack(front))[self._kind]
        backs = to_ps_array(np.stack(back))[self._kind] + self.experts.launches(counts).transpose(1, 0, 2)
        fronts[0] += to_ps_array(self._gpu.embedding_s(tokens))
        backs[-1] += to_ps_array(self._gpu.head_s(sampled))
        whole = tokens.astype(np.int64)
        return StepCosts(
            front=fronts,
            attention=to_ps_array(np.stack(attention))[self._kind],
            back=backs,
            host_ps=to_ps_array(np.stack(host))[self._kind] if host else np.zeros(fronts.shape[:2], dtype=np.int64),
            cache_bytes=self.cached_bytes(length).sum(axis=-1),
            new_bytes=self.cached_bytes(1)[:, None] * whole,
            qkv_bytes=whole * self.qkv_values * ACTIVATION_BYTES,
            hidden_bytes=whole * self.output_values * ACTIVATION_BYTES,
        )


def expert_counts(step: Step, members: np.ndarray, parts: int, experts: int) -> np.ndarray:
    """Tokens that each expert serves in each micro-batch: [micro-batches, layers, experts]."""
    layers = len(step.groups)
    counts = np.zeros((parts, layers * experts), dtype=np.int64)
    offsets = np.arange(layers)[None, :, None] * experts
    for part in range(parts):
        rows = [step.rows[request] for request in np.flatnonzero(members == part)]
        ids = np.concatenate(rows)
        counts[part] = np.bincount((ids + offsets)[ids >= 0], minlength=layers * experts)
    return counts.reshape(parts, layers, experts)


def balanced(tokens: list[int], micro_batch: int) -> np.ndarray:
    """The micro-batch of each request, so that these have about equally many tokens: the longest first to that which
    has fewest and is not full (arXiv 2411.11217, algorithm 2)."""
    parts = -(-len(tokens) // micro_batch)
    sums, room = np.zeros(parts, dtype=np.int64), np.full(parts, -(-len(tokens) // parts))
    found = np.zeros(len(tokens), dtype=np.int64)
    for request in sorted(range(len(tokens)), key=lambda request: (-tokens[request], request)):
        part = int(np.argmin(np.where(room > 0, sums, np.iinfo(np.int64).max)))
        found[request] = part
        sums[part] += tokens[request]
        room[part] -= 1
    return found


def _table(members: np.ndarray, parts: int) -> np.ndarray:
    """Requests of each micro-batch, [micro-batches, most requests], -1 where there is none."""
    rows = [np.flatnonzero(members == part) for part in range(parts)]
    table = np.full((parts, max(len(row) for row in rows)), -1, dtype=np.int64)
    for part, row in enumerate(rows):
        table[part, : len(row)] = row
    return table
