"""The same kind of routing in another shape: other numbers of layers, of experts, of choices."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import MAX_EXPERTS, TraceError
from traces.synthesis.model import RoutingModel


def rescale(
    model: RoutingModel,
    *,
    layers: int | None = None,
    experts: int | None = None,
    top_k: int | None = None,
    seed: int = 0,
) -> RoutingModel:
    """`model` with so many layers, experts per layer and choices per token (default: as it is).

    Layers are taken at even distances from the source's. More experts: each of the source's is split into several that
    share its place, with popularity scattered like that of the source's experts; fewer: drawn without replacement.
    What a token's choices in the layer before add is scaled so that all together weigh as much. The
    weight profile is dropped if the number of choices changes, expert sizes whenever anything does; a gate's sharpness
    is kept.
    Raises TraceError for a shape that cannot be.
    """
    old_layers, old_experts = model.bias.shape
    layers, experts, top_k = layers or old_layers, experts or old_experts, top_k or model.top_k
    if (layers, experts, top_k) == (old_layers, old_experts, model.top_k):
        return model
    if not (1 <= layers <= MAX_EXPERTS and 1 <= top_k <= experts <= MAX_EXPERTS):
        raise TraceError(
            f"{layers} layers, {experts} experts, top-{top_k}: expected at least one layer, and choices from 1 to the"
            f" number of experts, at most {MAX_EXPERTS}."
        )
    rng = np.random.default_rng(seed)
    rows = np.arange(layers) * old_layers // layers
    parent = np.stack([_parents(old_experts, experts, rng) for _ in rows])  # [L, E]
    above = np.concatenate([parent[:1], parent[:-1]])
    slots = np.minimum(np.arange(top_k) * model.top_k // top_k, model.top_k - 1)
    coupling = np.stack(
        [model.coupling[row][np.ix_(up, own)] for row, up, own in zip(rows, above, parent, strict=True)]
    )
    coupling[0] = 0.0
    lines = rows[:, None]
    scatter = 0.3 * model.bias.std(axis=1)[rows, None] if experts > old_experts else 0.0
    bias = model.bias[lines, parent] + scatter * rng.standard_normal(parent.shape, dtype=np.float32)
    use = model.use[lines, parent]
    use = use * top_k / use.sum(axis=1, keepdims=True)
    keeps_weights = model.weights is not None and top_k == model.top_k
    weights = model.weights
    if weights is not None and keeps_weights:
        weights = dataclasses.replace(weights, mean=weights.mean[rows], factor=weights.factor[rows])
    return dataclasses.replace(
        model,
        layers=tuple(range(model.layers[0], model.layers[0] + layers)),
        bias=bias.astype(np.float32),
        use=np.minimum(use, 1.0).astype(np.float32),
        kind=model.kind[:, lines, parent],
        coupling=(coupling * (model.top_k / top_k)).astype(np.float32),
        sticky=model.sticky[lines, slots],
        kind_sticky=model.kind_sticky[rows],
        memory=model.memory[rows],
        weights=weights if keeps_weights else None,
        gate=None if model.gate is None else dataclasses.replace(model.gate, sharpness=model.gate.sharpness[rows]),
        native_top_k=top_k,
        expert_bytes=None,
        origin=f"{model.origin}, rescaled to {layers} layers of {experts} experts, top-{top_k}",
    )


def _parents(old: int, new: int, rng: np.random.Generator) -> np.ndarray:
    """Which of the `old` experts each of the `new` comes from: every one as often as any other, give or take one."""
    whole, rest = divmod(new, old)
    return rng.permutation(np.concatenate([np.tile(np.arange(old), whole), rng.permutation(old)[:rest]]))
