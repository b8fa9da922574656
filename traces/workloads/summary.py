"""What a request list asks for: rates, percentiles, shares, and how much of it the trace recorded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from traces.schema import RequestInfo
from traces.workloads.requests import OPEN, RequestList, decode_tokens_of

PERCENTILES = (5, 50, 95, 99)


def summarise_requests(requests: RequestList, trace: Sequence[RequestInfo]) -> dict[str, Any]:
    """Plain values for a table or JSON; None where something does not apply.

    arrivals: requests that arrive by themselves, their rate in requests/s and the mean and coefficient of variation
    of the gaps between them; clients: of closed loops; prompt_tokens, decode_tokens, gap_s: mean and percentiles;
    tasks, tenants: requests by name; decode_tokens_not_recorded: beyond what the followed request of the trace has.
    """
    arrival_s = requests.arrival_s[requests.client == OPEN]
    gaps_s = np.diff(arrival_s)
    span_s = float(arrival_s[-1] - arrival_s[0]) if len(arrival_s) else 0.0
    own = {info.id: decode_tokens_of(info) for info in trace}
    recorded = np.array([own[int(number)] for number in requests.trace_request], dtype=np.int64)
    beyond = int(np.maximum(requests.decode_tokens - recorded, 0).sum())
    total = int(requests.decode_tokens.sum())
    return {
        "requests": len(requests),
        "arrivals": {
            "requests": len(arrival_s),
            "span_s": span_s,
            "rate_per_s": len(gaps_s) / span_s if span_s else None,
            "gap_cv": float(gaps_s.std() / gaps_s.mean()) if span_s else None,
        },
        "clients": len(np.unique(requests.client[requests.client != OPEN])),
        "gap_s": _spread(gaps_s) if span_s else None,
        "prompt_tokens": _spread(requests.prompt_tokens),
        "decode_tokens": _spread(requests.decode_tokens),
        "tasks": dict(sorted(Counter(label for label in requests.task if label is not None).items())),
        "tenants": dict(sorted(Counter(name for name in requests.tenant if name is not None).items())),
        "trace_requests": len(set(requests.trace_request.tolist())),
        "decode_tokens_total": total,
        "decode_tokens_not_recorded": beyond,
        "decode_share_not_recorded": beyond / total if total else 0.0,
    }


def _spread(values: np.ndarray) -> dict[str, float]:
    """Mean and percentiles of values [N]."""
    found = {"mean": float(values.mean())}
    return found | {f"p{percent}": float(np.percentile(values, percent)) for percent in PERCENTILES}
