"""Figures of claims about a batch that is always full, for `metric: {python: ...}` (docs/validation/claims.md).

Their runs serve the requests of a window (key `window` of a request list, docs/workloads.md), whose first ones are
under way when it begins: what these wait for their prompts comes before it.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.validation.published.runs import Run


def tokens_per_s(runs: Mapping[str, Run], of: str) -> float:
    """Tokens generated in the window of a run over its time: of each request that begins in it one by its prompt."""
    requests = runs[of].requests
    first_s, end_s = (np.asarray(requests[name], dtype=float) for name in ("ttft_s", "latency_s"))
    begin_s = first_s.min()
    tokens = np.sum(requests["decode_tokens"]) + np.sum(first_s > begin_s)
    return float(tokens / (end_s.max() - begin_s))


def requests_per_s(runs: Mapping[str, Run], of: str, answer_tokens: float) -> float:
    """Requests with so long an answer that a full batch ends in a second: if more come, the queue grows."""
    return tokens_per_s(runs, of) / answer_tokens


def ratio(runs: Mapping[str, Run], of: str, over: str) -> float:
    """`tokens_per_s` of one run over that of another."""
    return tokens_per_s(runs, of) / tokens_per_s(runs, over)


def latency_change(runs: Mapping[str, Run], of: str, over: str) -> float:
    """Mean latency of requests from admission to end of one run over that of another, less 1.

    By Little's law it is requests in flight over requests per second, so the inverse ratio of throughputs.
    """
    return 1 / ratio(runs, of, over) - 1
