"""All statistics of a trace, read request by request, twice."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from traces.reader import Trace
from traces.schema import RequestTrace, TraceError
from traces.statistics.blocks import blocks
from traces.statistics.counting import shuffled_order
from traces.statistics.hidden import Norms
from traces.statistics.hits import HitCurves
from traces.statistics.load import Load
from traces.statistics.lookahead import LookAhead
from traces.statistics.overlap import Overlap
from traces.statistics.phases import Phases
from traces.statistics.reuse import Reuse
from traces.statistics.similarity import Drift, Similarity
from traces.statistics.transitions import Information, NextLayerRecall
from traces.statistics.weights import Weights

DIGITS = 6


def summarise(trace: Trace, *, requests: int | None = None, seed: int = 0) -> dict[str, Any]:
    """Return the statistics of `trace`, or of its first `requests` requests, as plain values for JSON.

    What each key says stands in `traces.statistics.keys`. The same trace and seed give the same values; memory holds
    a request, a block of tokens and tables of pairs of experts. Raises TraceError if `requests` or `seed` is out of
    range, or the trace is damaged.
    """
    if requests is not None and requests < 1:
        raise TraceError(f"{trace.path.name}: requests is {requests}; expected at least 1, or none for all.")
    if seed < 0:
        raise TraceError(f"{trace.path.name}: seed is {seed}; expected at least 0.")
    meta, infos = trace.meta, trace.requests[:requests]
    tokens = sum(info.tokens for info in infos)
    load, overlap, reuse, weights = Load(meta, seed), Overlap(meta), Reuse(meta), Weights(meta)
    similarity, drift, phases, norms = Similarity(meta, infos, seed), Drift(meta), Phases(meta), Norms(meta)
    information, recall, look_ahead = Information(meta, tokens, seed), NextLayerRecall(meta), LookAhead(meta)
    hits = HitCurves(len(meta.layers), meta.num_experts)

    def first(request: RequestTrace, order: np.ndarray) -> None:
        for simple in (load, overlap, weights, norms, information, recall):
            simple.add(request)
        for shuffling in (reuse, look_ahead, similarity, drift, phases):
            shuffling.add(request, order)

    def second(request: RequestTrace, order: np.ndarray) -> None:
        recall.add_again(request)

    for visit, take_block in ((first, hits.add), (second, hits.add_again)):

        def pieces(visit: Any = visit) -> Iterator[np.ndarray]:
            """Real and shuffled experts of each request side by side, [tokens, 2 * layers, slots]."""
            for index in range(len(infos)):
                request = trace.request(index)
                order = shuffled_order(request, seed)
                visit(request, order)
                yield np.concatenate([request.experts, request.experts[order]], axis=1)

        for block in blocks(pieces()):
            take_block(block)

    head = {
        "model": meta.model,
        "digest": meta.digest,
        "seed": seed,
        "requests": len(infos),
        "tokens": tokens,
        "experts": meta.num_experts,
        "top_k": meta.top_k,
        "layers": list(meta.layers),
    }
    themes = (
        load.result(),
        overlap.result(load.counts, load.tokens),
        *(theme.result() for theme in (reuse, hits, information, recall, look_ahead)),
        *(theme.result() for theme in (similarity, drift, weights, norms, phases)),
    )
    by_layer = {name: values for theme in themes for name, values in theme.pop("by_layer", {}).items()}
    values = {name: value for theme in themes for name, value in theme.items()}
    return _plain({**head, **values, "by_layer": by_layer})


def _plain(value: Any) -> Any:
    """Numbers rounded and as Python's own, NaN as None, arrays as lists."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, np.ndarray)):
        return [_plain(item) for item in value]
    if isinstance(value, (float, np.floating)):
        return round(float(value), DIGITS) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value
