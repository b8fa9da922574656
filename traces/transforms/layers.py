"""Layers: some of the model's layers."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Stream, TransformError


def apply(stream: Stream, keep: str) -> Stream:
    """Keep the routed layers `keep` by model index: ``3,5,9`` or a range ``0:12`` (the end is left out).

    Guesses are kept if the layers kept follow one another, and those for layers beyond them become -1. Embeddings of
    requests are of no layer and stay.
    """
    meta = stream.meta
    chosen = _chosen(keep, meta.layers)
    ordinals = np.array([meta.layers.index(layer) for layer in chosen])
    consecutive = bool(np.all(np.diff(ordinals) == 1))
    distances = meta.guess_distances if consecutive else 0

    def change(request: RequestTrace) -> RequestTrace:
        guesses = request.guesses[:, ordinals].copy() if distances and request.guesses is not None else None
        if guesses is not None:
            for distance in range(distances):
                guesses[:, max(len(ordinals) - 1 - distance, 0) :, distance] = -1
        return dataclasses.replace(
            request,
            experts=request.experts[:, ordinals],
            weights=None if request.weights is None else request.weights[:, ordinals],
            probabilities=None if request.probabilities is None else request.probabilities[:, ordinals],
            guesses=guesses,
            norms=None if request.norms is None else request.norms[:, ordinals],
        )

    sizes = None if meta.expert_bytes is None else tuple(meta.expert_bytes[ordinal] for ordinal in ordinals)
    return stream.each(change).with_meta(
        layers=chosen, expert_bytes=sizes, guess_distances=distances, guess_width=meta.guess_width if distances else 0
    )


def _chosen(text: str, layers: tuple[int, ...]) -> tuple[int, ...]:
    """Return the layers that `text` names, ascending."""
    wrong = TransformError(f"layers: keep must be layer indices such as 3,5,9 or a range such as 0:12, not '{text}'.")
    try:
        if ":" in text:
            start, stop = (int(part) if part else None for part in text.split(":"))
            chosen = tuple(layer for layer in layers if (start or 0) <= layer and (stop is None or layer < stop))
        else:
            chosen = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        raise wrong from None
    for layer in chosen:
        if layer not in layers:
            raise TransformError(f"layers: the trace has no routed layer {layer} (it has {layers[0]} to {layers[-1]}).")
    if not chosen:
        raise TransformError(f"layers: no routed layer is in '{text}' (the trace has {layers[0]} to {layers[-1]}).")
    return chosen
