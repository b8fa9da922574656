"""Synthetic traces as files."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from traces.reader import Trace, open_trace
from traces.schema import RequestTrace, TraceError, TraceMeta
from traces.synthesis.generate import generate_all, lanes
from traces.synthesis.guesses import draw_guesses
from traces.synthesis.model import RoutingModel
from traces.writer import TraceWriter

TOOL = "moesim trace synthesize"
SYNTHETIC = "synthetic"  # how `source` of every synthetic trace begins
GATE_STREAM = 1  # tells the random numbers of gates from those of choices
WINDOW_ELEMENTS = 1 << 26  # tokens x layers x slots in memory at once, or one request if that is longer


def synthesize(
    model: RoutingModel,
    path: str | os.PathLike[str],
    *,
    requests: int | None = None,
    tokens: int | None = None,
    seed: int = 0,
    probabilities: bool = False,
    recall: np.ndarray | None = None,
) -> Trace:
    """Draw a trace from `model`, write it to `path` and open it; same arguments, same bytes.

    requests   how many (default: as many as the source has); the i-th of n resembles the source's request ⌊i R / n⌋ in
               kind and task
    tokens     of each (default: as many as that request of the source has)
    probabilities  write the whole router's; the model must have a gate
    recall     float [d, L] by distance and guessed layer: write such look-ahead guesses; the model must have a gate

    Raises TraceError for numbers below 1, a seed below 0, or what the model cannot give.
    """
    if (probabilities or recall is not None) and model.gate is None:
        raise TraceError(f"{Path(path).name}: probabilities and guesses need a gate, and the model has none.")
    for name, number, least in (("requests", requests, 1), ("tokens", tokens, 1), ("seed", seed, 0)):
        if number is not None and number < least:
            raise TraceError(f"{Path(path).name}: {name} is {number}; expected at least {least}.")
    source = model.requests
    count = len(source.kinds) if requests is None else requests
    rows = np.arange(count) * len(source.kinds) // count
    lengths = source.tokens[rows] if tokens is None else np.full(count, tokens)
    meta = dataclasses.replace(meta_of(model, seed), has_probabilities=probabilities)
    if recall is not None:
        meta = dataclasses.replace(meta, guess_distances=len(recall), guess_width=model.top_k)
    with TraceWriter(path, meta) as writer:
        for request in _draw(model, rows, lengths, seed):
            gated = _gated(request, model, seed, probabilities, recall)
            writer.write(gated, task=source.tasks[rows[request.id]])
    return open_trace(path)


def meta_of(model: RoutingModel, seed: int) -> TraceMeta:
    """Metadata of a synthetic trace: it says so, and from what it is."""
    return TraceMeta(
        model=model.model,
        num_experts=model.num_experts,
        top_k=model.top_k,
        native_top_k=model.native_top_k or model.top_k,
        layers=model.layers,
        rank_known=model.rank_known,
        expert_bytes=model.expert_bytes,
        has_weights=model.weights is not None or model.gate is not None,
        capture_tool=TOOL,
        dataset=SYNTHETIC,
        source=f"{SYNTHETIC}: drawn from a model fitted to {model.origin}",
        notes=f"Synthetic routing, not recorded from a model; seed {seed}.",
    )


def _draw(model: RoutingModel, rows: np.ndarray, lengths: np.ndarray, seed: int) -> Iterator[RequestTrace]:
    """Requests in order; as many at once as WINDOW_ELEMENTS allows, each window with random numbers of its own."""
    size, start, window = len(model.layers) * model.top_k, 0, 0
    widest = 8 * lanes(model)  # so that requests of like length can be drawn side by side
    while start < len(rows):
        fits = int(np.searchsorted(lengths[start : start + widest].cumsum() * size, WINDOW_ELEMENTS, side="right"))
        here = slice(start, start + max(1, fits))
        rng = np.random.Generator(np.random.SFC64([seed, window]))
        for place, experts in enumerate(generate_all(model, lengths[here], model.requests.kinds[rows[here]], rng)):
            yield _request(model, start + place, experts, rng)
        start, window = here.stop, window + 1


def _request(model: RoutingModel, number: int, experts: np.ndarray, rng: np.random.Generator) -> RequestTrace:
    tokens, shares = len(experts), model.requests.phases
    bounds = np.round(np.cumsum(shares) * tokens).astype(int)
    place = np.arange(tokens)
    phases = np.select([place < bounds[0], place < bounds[1]], [0, 1], -1).astype(np.int8)
    if not model.rank_known:
        experts = np.sort(experts, axis=2)
    first = model.requests.first_position
    return RequestTrace(
        id=number,
        positions=np.arange(first, first + tokens, dtype=np.int32),
        phases=phases,
        experts=np.ascontiguousarray(experts),
        weights=None if model.weights is None else model.weights.draw(tokens, rng),
    )


def _gated(
    request: RequestTrace, model: RoutingModel, seed: int, probabilities: bool, recall: np.ndarray | None
) -> RequestTrace:
    """`request` with what the gate adds to its choices; random numbers of the request's own."""
    if model.gate is None:
        return request
    rng = np.random.Generator(np.random.SFC64([seed, request.id, GATE_STREAM]))
    router = model.gate.probabilities(request.experts, model.use, rng)
    return dataclasses.replace(
        request,
        weights=model.gate.weights(router, request.experts),
        probabilities=router if probabilities else None,
        guesses=None if recall is None else draw_guesses(request.experts, router, recall, rng),
    )
