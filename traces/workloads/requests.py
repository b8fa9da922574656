"""The request list: what is asked of a system, one row per request."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, replace

import numpy as np

from traces.schema import RequestInfo, TraceError

MOST_TOKENS = 2**31 - 1  # of a request: positions are int32
MOST_S = 1e9  # of a time: three decades
SLOS = ("slo_ttft_s", "slo_tpot_s")
PREFIX = ("prefix", "prefix_tokens")
OPEN = -1  # client of a request that arrives whatever happens to the others


class WorkloadError(TraceError):
    """A request list or its specification is not what it must be; the message is one sentence."""


@dataclass(frozen=True, eq=False)
class RequestList:
    """N requests in the order in which they are taken up.

    arrival_s      float64 [N], since the start of the run; NaN where it is known only at run time (closed loop)
    prompt_tokens  int64 [N], context length before the first decoded token
    decode_tokens  int64 [N]
    trace_request  int64 [N], id of the request of the trace whose routing it follows
    task           [N] label or None
    tenant         [N] name or None
    client         int64 [N], -1: arrives by itself; else a client of a closed loop, which sends its next request
                   think_s after its last one ended, and its first think_s after the start of the run
    think_s        float64 [N], NaN where client is -1
    slo_ttft_s, slo_tpot_s  float64 [N], what it may take to its first token and on average for each one after it; NaN:
                   what the run says. Left out: NaN for all
    prefix         [N] name of the sequence with which its tokens begin (prompt, then answer), or None
    prefix_tokens  int64 [N], how many of them are of that sequence, 0 without one. Left out: none for all
    """

    arrival_s: np.ndarray
    prompt_tokens: np.ndarray
    decode_tokens: np.ndarray
    trace_request: np.ndarray
    task: tuple[str | None, ...]
    tenant: tuple[str | None, ...]
    client: np.ndarray
    think_s: np.ndarray
    slo_ttft_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    slo_tpot_s: np.ndarray = field(default_factory=lambda: np.empty(0))
    prefix: tuple[str | None, ...] = ()
    prefix_tokens: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    def __post_init__(self) -> None:
        for name in SLOS:
            if not len(getattr(self, name)):
                object.__setattr__(self, name, np.full(len(self), np.nan))
        if not self.prefix:
            object.__setattr__(self, "prefix", (None,) * len(self))
            object.__setattr__(self, "prefix_tokens", np.zeros(len(self), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.arrival_s)

    @property
    def closed_loop(self) -> bool:
        """Whether some arrivals follow from the ends of earlier requests."""
        return bool((self.client != OPEN).any())

    def leaves_out(self, column: str) -> bool:
        """Whether a column that may be left out says nothing of any request."""
        if column in PREFIX:
            return not any(name is not None for name in self.prefix)
        return column in SLOS and bool(np.isnan(getattr(self, column)).all())

    def digest(self) -> str:
        """SHA-256 of the content, hexadecimal."""
        content = hashlib.sha256()
        for part in fields(self):
            values = getattr(self, part.name)
            if self.leaves_out(part.name):
                continue
            content.update(json.dumps(values).encode() if isinstance(values, tuple) else values.tobytes())
        return content.hexdigest()


def at_rate(requests: RequestList, rate_per_s: float, rows: Sequence[int], where: str) -> RequestList:
    """The same requests in the same order, their times stretched so that those of `rows` come at this rate: with a mean
    gap of 1 / rate_per_s. Raises WorkloadError where there is no gap, or where arrivals follow from the ends of others.
    """
    if not 0 < rate_per_s <= MOST_S:
        raise WorkloadError(f"workload.rate_per_s is {rate_per_s}; expected above 0, up to {MOST_S:,.0f}, or null.")
    if requests.closed_loop:
        raise WorkloadError(f"workload.rate_per_s is set, but {where} is a closed loop; expected null.")
    span_s = float(requests.arrival_s[rows[-1]] - requests.arrival_s[rows[0]])
    if not span_s:
        raise WorkloadError(f"workload.rate_per_s is set, but all requests of {where} come at once; expected null.")
    return replace(requests, arrival_s=requests.arrival_s * ((len(rows) - 1) / rate_per_s / span_s))


def prompt_tokens_of(info: RequestInfo) -> int:
    """Context length in tokens before the first decoded token of a request of a trace, routed or not."""
    return info.first_position + info.prefill_tokens


def decode_tokens_of(info: RequestInfo) -> int:
    """Routed tokens of a request of a trace after its prompt; tokens of unknown phase count as decoded."""
    return info.decode_tokens + info.unknown_tokens


def check_requests(requests: RequestList, trace: Sequence[RequestInfo], where: str) -> None:
    """Raise WorkloadError, naming `where` and the row (from 1), for values that no request can have."""

    def require(right: np.ndarray, column: str, expected: str) -> None:
        wrong = np.flatnonzero(~right)
        if len(wrong):
            value = getattr(requests, column)[wrong[0]]
            raise WorkloadError(f"{where}: row {wrong[0] + 1}, field '{column}' must be {expected}, not {value}.")

    if not len(requests):
        raise WorkloadError(f"{where}: there must be at least one request.")
    arrival_s, alone = requests.arrival_s, requests.client == OPEN
    require(requests.client >= OPEN, "client", "a number from 0, or empty for a request that arrives by itself")
    require(~alone | np.isfinite(arrival_s), "arrival_s", "a time in seconds (only a closed loop may leave it empty)")
    right = np.isnan(arrival_s) | ((arrival_s >= 0) & (arrival_s <= MOST_S))
    require(right, "arrival_s", f"from 0 to {MOST_S:,.0f} seconds")
    order = np.flatnonzero(alone)
    later = np.ones(len(requests), dtype=bool)
    later[order[1:]] = np.diff(arrival_s[order]) >= 0
    require(later, "arrival_s", "no earlier than the row before")
    think_s = requests.think_s
    right = alone | ((think_s >= 0) & (think_s <= MOST_S))
    require(right, "think_s", f"from 0 to {MOST_S:,.0f} seconds for a client's request")
    for column in SLOS:
        most_s = getattr(requests, column)
        right = np.isnan(most_s) | ((most_s > 0) & (most_s <= MOST_S))
        require(right, column, f"above 0 and at most {MOST_S:,.0f} seconds, or empty for what the run says")
    for column in ("prompt_tokens", "decode_tokens"):
        tokens = getattr(requests, column)
        require((tokens >= 0) & (tokens <= MOST_TOKENS), column, f"from 0 to {MOST_TOKENS:,} tokens")
    whole = requests.prompt_tokens + requests.decode_tokens
    require(whole <= MOST_TOKENS, "decode_tokens", f"at most {MOST_TOKENS:,} together with the prompt's tokens")
    named = np.array([name is not None for name in requests.prefix], dtype=bool)
    right = (requests.prefix_tokens >= named) & (requests.prefix_tokens <= np.where(named, whole, 0))
    require(right, "prefix_tokens", "from 1 to the tokens of prompt and answer with a prefix, and 0 or empty without")
    known = np.array([info.id for info in trace], dtype=np.int64)
    require(np.isin(requests.trace_request, known), "trace_request", "the id of a request of the trace")


def followed(
    trace: Sequence[RequestInfo], tasks: Sequence[str | None] | None, count: int, where: str
) -> list[RequestInfo]:
    """The request of the trace that each of `count` requests follows: in turn, in the order of the trace.

    With `tasks` [count] those of each task in turn; None stands for any. Raises WorkloadError for a task which
    the trace does not have.
    """
    by_task: dict[str | None, list[RequestInfo]] = {None: list(trace)}
    for info in trace:
        if info.task is not None:
            by_task.setdefault(info.task, []).append(info)
    taken: dict[str | None, int] = {}
    chosen = []
    for task in tasks if tasks is not None else [None] * count:
        if task not in by_task:
            labels = sorted(label for label in by_task if label is not None)
            there = f"there are: {', '.join(labels[:8])}{', …' if len(labels) > 8 else ''}" if labels else "it has none"
            raise WorkloadError(f"{where}: task '{task}' must be one of the trace's ({there}).")
        number = taken.get(task, 0)
        chosen.append(by_task[task][number % len(by_task[task])])
        taken[task] = number + 1
    return chosen
