"""Crop: part of every request's tokens."""

from __future__ import annotations

import numpy as np

from traces.schema import DECODE, PREFILL, RequestTrace
from traces.transforms._stream import Stream, TransformError, take_tokens

_PHASES = {"prefill": PREFILL, "decode": DECODE}


def apply(stream: Stream, tokens: int | None = None, start: int = 0, phase: str | None = None) -> Stream:
    """Keep at most `tokens` tokens of every request from the `start`-th on, of one phase if it is named.

    Positions stay, so the context of what is kept is as long as it was; so does the embedding, which is of the whole
    prompt. Requests left without tokens go.
    """
    if start < 0 or (tokens is not None and tokens < 1):
        raise TransformError("crop: tokens must be at least 1, and start at least 0.")
    if phase not in (None, *_PHASES):
        raise TransformError(f"crop: phase must be prefill or decode, not '{phase}'.")
    if tokens is None and start == 0 and phase is None:
        raise TransformError("crop: tokens, start or phase must be given.")

    def change(request: RequestTrace) -> RequestTrace | None:
        rows = np.arange(request.tokens)
        if phase is not None:
            rows = rows[request.phases == _PHASES[phase]]
        rows = rows[start : None if tokens is None else start + tokens]
        return take_tokens(request, rows) if rows.size else None

    return stream.each(change)
