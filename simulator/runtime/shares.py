"""What one GPU of a layout holds and computes of a model."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from simulator.layout import Layout
from simulator.model import ModelSpec
from simulator.runtime.costs import Kept
from simulator.runtime.ranks import Ranks

_PARTS: Kept[tuple[ModelSpec, ModelSpec, ModelSpec]] = Kept(64)  # made once, as tables of costs are kept by model


class Shares:
    """Sizes and models of a GPU. Without a layout, the whole model.

    part: what it computes, heads and widths divided, experts of the width it holds; on_cpu: the model whose experts
    have the width that all GPUs of a worker hold together, which is what a host CPU computes for them.
    """

    def __init__(self, model: ModelSpec, ranks: Ranks, hosted: Collection[int] = (), pool: int | None = None) -> None:
        """`hosted`: layers whose attention is the host's; `pool`: distinct experts of a layer, where there are other
        than the model's (simulator.tenants). Raises ModelError if they cannot be dealt evenly."""
        self.model, self._ranks, self._hosted = model, ranks, hosted
        self.part, self.on_cpu = model, model
        self.slices = 1
        if ranks.layout is not None:
            layout, dealt = ranks.layout, pool or model.experts
            _, self.part, self.on_cpu = _PARTS.of(
                (id(model), replace(layout, pp=1), ranks.each, dealt), lambda: _parts(model, layout, ranks.each, dealt)
            )
            self.slices = ranks.layout.moe_tp

    def slice_bytes(self, size_bytes: int) -> int:
        """Of an expert of this size, what one GPU holds."""
        return -(-size_bytes // self.slices)

    def dense_bytes(self, stage: int) -> int:
        """Of all that is not a routed expert, what a GPU of a stage holds."""
        part = self.part
        layers = [layer for layer in self.layers(stage) if layer not in self._hosted]
        if self._ranks.stages == 1:
            return part.dense_bytes - sum(part.layer_dense_bytes(layer) for layer in self._hosted)
        held = sum(part.layer_dense_bytes(layer) for layer in layers)
        table = part.parts()["embedding"][1]
        ends = part.dense_bytes - sum(part.layer_dense_bytes(layer) for layer in range(part.layers))
        last = stage == self._ranks.stages - 1
        held += table if stage == 0 else 0
        return held + (ends - (0 if part.tied_embeddings else table) if last else 0)

    def kv_bytes(self, tokens: int, stage: int | None = None) -> int:
        """KV cache of a sequence on a GPU of a stage; None: of the stage where it takes most."""
        if stage is None:
            return max(self.kv_bytes(tokens, each) for each in range(self._ranks.stages))
        return self.part.kv_bytes(tokens, [layer for layer in self.layers(stage) if layer not in self._hosted])

    def layers(self, stage: int) -> range:
        """A stage's layers: up to its last routed one, and in the last stage all the rest."""
        routed, stages = self.model.moe_layers, self._ranks.stages
        ends = [0]
        for number in range(stages):
            own = [la for index, la in enumerate(routed) if self._ranks.stage_of(index, len(routed)) == number]
            ends.append(own[-1] + 1 if own and number < stages - 1 else self.model.layers)
        return range(ends[stage], ends[stage + 1])


def _parts(model: ModelSpec, layout: Layout, each: int, dealt: int) -> tuple[ModelSpec, ModelSpec, ModelSpec]:
    """The model, kept so that its id stays its own, its share of one GPU, and that of a worker's experts."""
    width = -(-model.expert_intermediate * each // layout.moe_tp)
    part = replace(layout.of(replace(model, experts=dealt)), experts=model.experts)
    return model, layout.slice_of(part), replace(model, expert_intermediate=width)
