"""Repeat layer: one layer's routing in all layers, as of a model with one router for all of them."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Stream, TransformError


def apply(stream: Stream, layers: int, place: int = 0) -> Stream:
    """Each token's experts of the `place`-th routed layer, from 0, in all of `layers` layers.

    As if a router outside the model decided (Read-ME, arXiv 2410.19123: one expert for each token in all layers).
    Guesses and expert sizes are left out; norms are those of the layer.
    """
    meta = stream.meta
    if layers < 1:
        raise TransformError(f"repeat_layer: layers must be at least 1, not {layers}.")
    if not 0 <= place < len(meta.layers):
        raise TransformError(f"repeat_layer: place must be from 0 to {len(meta.layers) - 1}, not {place}.")

    def repeated(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else np.repeat(values[:, place : place + 1], layers, axis=1)

    def change(request: RequestTrace) -> RequestTrace:
        return dataclasses.replace(
            request,
            experts=np.repeat(request.experts[:, place : place + 1], layers, axis=1),
            weights=repeated(request.weights),
            probabilities=repeated(request.probabilities),
            norms=repeated(request.norms),
            guesses=None,
        )

    return stream.each(change).with_meta(
        layers=tuple(range(layers)), guess_distances=0, guess_width=0, expert_bytes=None
    )
