"""Shuffle: controls that keep how popular experts are, or less, and destroy when they are used."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Rows, Stream, TransformError, routing, with_routing_of

_KINDS = ("within_request", "global", "uniform")


def apply(stream: Stream, kind: str, seed: int = 0) -> Stream:
    """Give tokens the routing of others; positions, phases, lengths, tasks and embeddings of requests stay.

    within_request  tokens of a request exchange their routing: what it uses stays, in which order does not
    global          tokens of all requests do (memory holds the whole trace)
    uniform         every token and layer draws its experts anew, all alike; weights stay in their slots and
                    norms at their tokens, guesses and probabilities go

    Tokens exchange within their phase, and all their layers together, the norms of their hidden states with them.
    """
    if kind not in _KINDS or seed < 0:
        raise TransformError(f"shuffle: kind must be one of {', '.join(_KINDS)}, and seed at least 0.")
    if kind == "uniform":
        return _uniform(stream, seed)
    if kind == "global":
        return Stream(stream.meta, lambda: _global(stream, seed))

    def rows() -> Rows:
        generator = np.random.default_rng(seed)
        for request, task in stream.rows():
            yield with_routing_of(request, _exchange(request.phases, generator)), task

    return Stream(stream.meta, rows)


def _exchange(phases: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return for each token whose routing it gets: a permutation within each phase."""
    source = np.arange(len(phases))
    for phase in np.unique(phases):
        mine = np.flatnonzero(phases == phase)
        source[mine] = generator.permutation(mine)
    return source


def _global(stream: Stream, seed: int) -> Rows:
    requests = list(stream.rows())
    lengths = [request.tokens for request, _ in requests]
    source = _exchange(np.concatenate([request.phases for request, _ in requests]), np.random.default_rng(seed))
    pool = {
        name: np.concatenate([getattr(request, name) for request, _ in requests])
        for name, values in routing(requests[0][0]).items()
        if values is not None
    }
    for (request, task), rows in zip(requests, np.split(source, np.cumsum(lengths)[:-1]), strict=True):
        mine = {name: values[rows] for name, values in pool.items()}
        yield dataclasses.replace(request, **mine), task


def _uniform(stream: Stream, seed: int) -> Stream:
    meta = stream.meta

    def rows() -> Rows:
        generator = np.random.default_rng(seed)
        for request, task in stream.rows():
            yield _redrawn(request, meta.num_experts, generator), task

    return Stream(meta, rows).with_meta(has_probabilities=False, guess_distances=0, guess_width=0)


def _redrawn(request: RequestTrace, num_experts: int, generator: np.random.Generator) -> RequestTrace:
    """Return the request with distinct experts drawn for every filled slot."""
    tokens, layers, slots = request.experts.shape
    drawn = np.empty((tokens, layers, slots), dtype=np.int16)
    for layer in range(layers):  # bounded memory: one key for each token and expert
        keys = generator.random((tokens, num_experts), dtype=np.float32)
        drawn[:, layer] = np.argpartition(keys, slots - 1, axis=-1)[:, :slots]
    drawn[request.experts < 0] = -1
    return dataclasses.replace(request, experts=drawn, probabilities=None, guesses=None)
