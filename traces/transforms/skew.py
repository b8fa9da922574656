"""Skew: draw experts anew, some of them as much more popular than others as an exponent says."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Rows, Stream, TransformError


def apply(stream: Stream, exponent: float, seed: int = 0) -> Stream:
    """Every token and layer draws its experts anew, without replacement, the r-th of a layer with weight r^-exponent.

    Which expert of a layer is the r-th is drawn once for all tokens. exponent 0 is `shuffle uniform`; the larger, the
    more tokens go to few experts. Weights stay in their slots, norms at their tokens; guesses and probabilities go.
    """
    if exponent < 0 or seed < 0:
        raise TransformError("skew: exponent and seed must be at least 0.")
    meta = stream.meta
    weights = np.arange(1, meta.num_experts + 1, dtype=np.float64) ** -exponent

    def rows() -> Rows:
        generator = np.random.default_rng(seed)
        by_layer = np.array([generator.permutation(weights) for _ in meta.layers])
        for request, task in stream.rows():
            yield _redrawn(request, by_layer, generator), task

    return Stream(meta, rows).with_meta(has_probabilities=False, guess_distances=0, guess_width=0)


def _redrawn(request: RequestTrace, weights: np.ndarray, generator: np.random.Generator) -> RequestTrace:
    """The request with distinct experts for every filled slot: those of the least exponential variates of rate w, which
    is to draw one after the other in proportion to w (Efraimidis and Spirakis, 2006)."""
    tokens, layers, slots = request.experts.shape
    drawn = np.empty((tokens, layers, slots), dtype=np.int16)
    for layer in range(layers):  # bounded memory
        keys = generator.exponential(size=(tokens, weights.shape[1])) / weights[layer]
        drawn[:, layer] = np.argpartition(keys, slots - 1, axis=-1)[:, :slots]
    drawn[request.experts < 0] = -1
    return dataclasses.replace(request, experts=drawn, probabilities=None, guesses=None)
