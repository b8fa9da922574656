"""Top-k: fewer experts for each token, as a run with a reduced top-k has them."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Stream, TransformError


def apply(stream: Stream, k: int, renormalise: bool = False) -> Stream:
    """Keep each token's k best experts, by weight or, without weights, by the order of the slots.

    With `renormalise` the weights kept are scaled to the sum that all of them had. The native top-k stays.
    Later layers, and norms of hidden states, are as they were recorded: a real run would route differently after
    dropping an expert.
    """
    meta = stream.meta
    if not 1 <= k <= meta.top_k:
        raise TransformError(f"top_k: k must be from 1 to the trace's top-k {meta.top_k}, not {k}.")
    if not (meta.rank_known or meta.has_weights):
        raise TransformError("top_k: the trace has neither weights nor a known rank, so the best are not known.")
    if renormalise and not meta.has_weights:
        raise TransformError("top_k: the trace has no weights to renormalise.")

    def change(request: RequestTrace) -> RequestTrace:
        experts, weights = request.experts, request.weights
        if not meta.rank_known and weights is not None:
            unknown = np.isnan(weights) & (experts >= 0)
            if bool(unknown.any()):
                raise TransformError(f"top_k: request {request.id} has experts of unknown weight and rank.")
            order = np.argsort(np.where(experts >= 0, -weights, np.inf), axis=-1, kind="stable")
            experts = np.take_along_axis(experts, order, axis=-1)
            weights = np.take_along_axis(weights, order, axis=-1)
        kept = None if weights is None else weights[..., :k]
        if renormalise and weights is not None and kept is not None:
            total, part = np.nansum(weights, axis=-1, keepdims=True), np.nansum(kept, axis=-1, keepdims=True)
            kept = (kept * np.divide(total, part, out=np.ones_like(total), where=part > 0)).astype(np.float32)
        return dataclasses.replace(request, experts=experts[..., :k], weights=kept)

    return stream.each(change).with_meta(top_k=k, rank_known=True)
