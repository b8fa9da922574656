"""Relabel: other numbers for the experts; what is blind to their ids stays the same."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Stream, TransformError


def apply(stream: Stream, order: tuple[int, ...] = (), seed: int = 0) -> Stream:
    """Permute the experts of each layer: expert e becomes ``order[e]`` in all layers, or is drawn per layer.

    Guesses are renumbered as the layer they are for, probabilities move with their experts; norms and embeddings name
    no expert and stay.
    """
    meta = stream.meta
    layers, experts = len(meta.layers), meta.num_experts
    if order and sorted(order) != list(range(experts)):
        raise TransformError(f"relabel: order must name each of the experts 0 to {experts - 1} once.")
    if seed < 0:
        raise TransformError("relabel: seed must be at least 0.")
    if order:
        new = np.tile(np.array(order, dtype=np.int16), (layers, 1))
    else:
        generator = np.random.default_rng(seed)
        new = np.stack([generator.permutation(experts) for _ in range(layers)]).astype(np.int16)
    new = np.concatenate([new, np.full((layers, 1), -1, dtype=np.int16)], axis=1)  # -1 stays -1
    layer = np.arange(layers)

    def change(request: RequestTrace) -> RequestTrace:
        changed = {"experts": new[layer[None, :, None], request.experts]}
        if request.probabilities is not None:
            moved = np.empty_like(request.probabilities)
            target = np.broadcast_to(new[:, :-1].astype(np.int64), moved.shape)
            np.put_along_axis(moved, target, request.probabilities, axis=-1)
            changed["probabilities"] = moved
        if request.guesses is not None:
            ahead = layer[:, None] + 1 + np.arange(meta.guess_distances)  # beyond the last layer all guesses are -1
            changed["guesses"] = new[ahead.clip(max=layers - 1)[None, :, :, None], request.guesses]
        return dataclasses.replace(request, **changed)

    return stream.each(change)
