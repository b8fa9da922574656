"""Fitting a routing model to recorded routing: maximum likelihood layer by layer, then corrections by simulation."""

from __future__ import annotations

import numpy as np

from traces.reader import Trace
from traces.schema import RequestInfo, RequestTrace, TraceError
from traces.synthesis.calibrate import ROUNDS, calibrate, of_requests
from traces.synthesis.kinds import request_kinds
from traces.synthesis.layer import LayerData, fit_layer
from traces.synthesis.model import RequestModel, RoutingModel
from traces.synthesis.moments import transition_tables, use_counts
from traces.synthesis.weights import WeightProfile

MAX_ELEMENTS = 1 << 23  # tokens x experts used for a layer
MIN_TOKENS, MAX_DRAWN = 1500, 3_000_000  # tokens, and tokens x layers x experts, drawn in a round of calibration


def fit_trace(trace: Trace, indices: list[int] | None = None, *, seed: int = 0, rounds: int = ROUNDS) -> RoutingModel:
    """Fit to the requests of `trace` at `indices` (default: all), then correct what is drawn freely in `rounds` rounds.

    Tokens without a full set of experts in every layer are left out; of long traces whole requests at even distances
    are used. Raises TraceError if nothing is left.
    """
    meta = trace.meta
    indices = list(range(len(trace))) if indices is None else indices
    total = sum(trace.requests[index].tokens for index in indices)
    indices = indices[:: max(1, -(-total // (MAX_ELEMENTS // meta.num_experts)))]
    recorded = [trace.request(index) for index in indices]
    requests = [request.experts[(request.experts >= 0).all(axis=(1, 2))] for request in recorded]
    kept = [place for place, experts in enumerate(requests) if len(experts)]
    if not kept:
        raise TraceError(
            f"{trace.path.name}: no token has its {meta.top_k} experts in every layer; expected some to fit to."
        )
    requests, infos = [requests[place] for place in kept], [trace.requests[indices[place]] for place in kept]
    kinds = request_kinds(np.array([use_counts(experts, meta.num_experts) for experts in requests]), seed)
    fitted = _fit_layers(requests, kinds, meta.num_experts, seed)
    model = RoutingModel(
        model=meta.model,
        layers=meta.layers,
        bias=fitted["bias"],
        use=fitted["use"],
        kind=fitted["kind"].transpose(1, 0, 2),
        coupling=fitted["coupling"],
        sticky=fitted["sticky"],
        kind_sticky=fitted["kind_sticky"],
        memory=fitted["memory"],
        requests=RequestModel(
            kinds=kinds,
            tokens=np.array([info.tokens for info in infos]),
            tasks=tuple(info.task for info in infos),
            phases=_phases(infos),
            first_position=int(np.median([info.first_position for info in infos])),
        ),
        weights=_weights([recorded[place] for place in kept]),
        native_top_k=meta.native_top_k,
        expert_bytes=meta.expert_bytes,
        rank_known=meta.rank_known,
        origin=f"{meta.model}, trace {meta.digest}, {len(requests)} requests",
    )
    # each half is scored by the tables of the other half, as requests are by those of others
    halves = [requests[1::2] or requests, requests[::2]]
    tables = np.stack([transition_tables(np.concatenate(half), meta.num_experts) for half in halves])
    tokens = max(MIN_TOKENS, MAX_DRAWN // (len(meta.layers) * meta.num_experts))
    draw = of_requests(requests, kinds, tables, meta.num_experts, tokens)
    return calibrate(model, draw, tables, seed=seed, rounds=rounds)


def _fit_layers(requests: list[np.ndarray], kinds: np.ndarray, num_experts: int, seed: int) -> dict[str, np.ndarray]:
    experts = np.concatenate(requests).astype(np.int64)
    starts = np.concatenate([np.arange(len(request)) == 0 for request in requests])
    token_kinds = np.repeat(kinds, [len(request) for request in requests])
    fitted = []
    for layer in range(experts.shape[1]):
        above = experts[:, layer - 1] if layer else None
        data = LayerData(experts[:, layer], above, starts, token_kinds, num_experts)
        fitted.append(fit_layer(data, seed + layer))
    return {name: np.stack([values[name] for values in fitted]) for name in fitted[0]}


def _phases(infos: list[RequestInfo]) -> tuple[float, float, float]:
    counts = np.array([(info.prefill_tokens, info.decode_tokens, info.unknown_tokens) for info in infos]).sum(axis=0)
    prefill, decode, unknown = (counts / counts.sum()).tolist()
    return prefill, decode, unknown


def _weights(requests: list[RequestTrace]) -> WeightProfile | None:
    found = [request.weights for request in requests if request.weights is not None]
    return WeightProfile.fit(np.concatenate(found)) if found else None
