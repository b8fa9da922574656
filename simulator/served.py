"""Which requests a workload serves: those of the trace in order, or those of a request list."""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from traces import RequestInfo, Trace
from traces.workloads import RequestList, open_requests
from traces.workloads.requests import at_rate, decode_tokens_of, prompt_tokens_of

if TYPE_CHECKING:
    from simulator.plan import Workload


class PlanError(ValueError):
    """A workload that cannot be served; the message is one sentence."""


@dataclass(frozen=True)
class Served:
    """A request that is served.

    index            of the request of the trace that it follows
    id               shown in results: the id in the trace, or the row (from 0) of the request list
    stream           tells its random draws from those of other requests
    prompt_tokens    context length before its first decoded token
    decode_tokens    to be decoded
    recorded_prompt_tokens, recorded_decode_tokens  the same as the trace has them
    routed_prompt_tokens  of the recorded prompt, those whose routing was recorded
    instance         of the model that it asks, from 0 (simulator.tenants)
    """

    index: int
    id: int
    stream: int
    prompt_tokens: int
    decode_tokens: int
    recorded_prompt_tokens: int
    recorded_decode_tokens: int
    routed_prompt_tokens: int
    instance: int = 0

    @property
    def prompt_rows(self) -> int:
        """Routed prompt tokens asked for, where the prompt was recorded."""
        return self.routed_prompt_tokens + self.prompt_tokens - self.recorded_prompt_tokens

    @property
    def outlasts(self) -> bool:
        """Whether it has more routed tokens than the trace recorded of them."""
        longer_prompt = self.routed_prompt_tokens and self.prompt_tokens > self.recorded_prompt_tokens
        return bool(longer_prompt) or self.decode_tokens > self.recorded_decode_tokens

    def tokens(self, synthetic_prefill: bool) -> tuple[int, int]:
        """Routed tokens, and how many of them were not recorded."""
        unrecorded = max(0, self.decode_tokens - self.recorded_decode_tokens)
        prompt = 0
        if self.routed_prompt_tokens:
            prompt = self.prompt_rows
            unrecorded += max(0, prompt - self.routed_prompt_tokens)
        elif synthetic_prefill:
            prompt = self.prompt_tokens
            unrecorded += prompt
        return prompt + self.decode_tokens, unrecorded


def served_requests(trace: Trace, workload: Workload, seed: int) -> tuple[list[Served], RequestList | None]:
    """The requests served, in order, and the whole request list if there is one (`workload.file`).

    `seed` is that of a specification's draws. Raises PlanError, or WorkloadError for a file that is wrong.
    """
    served, listed = (_of_trace(trace, workload), None) if workload.file is None else _listed(trace, workload, seed)
    if not any(request.tokens(workload.synthetic_prefill)[0] for request in served):
        raise PlanError(
            "no request asks for a decode token, or for a prompt whose routing the trace recorded or"
            " workload.synthetic_prefill draws; expected at least one."
        )
    return served, listed


def _of_trace(trace: Trace, workload: Workload) -> list[Served]:
    """The requests of the trace in order, as the workload's keys change them."""
    for key in ("decode_tokens", "prompt_tokens"):
        value = getattr(workload, key)
        if value is not None and value < 1:
            raise PlanError(f"workload.{key} is {value}; expected at least 1, or null for those of the trace.")
    if workload.rate_per_s is not None:
        raise PlanError(
            "workload.rate_per_s is set, but there is no workload.file with arrivals; expected one, or null."
        )
    indices = list(range(len(trace)))
    if workload.tasks is not None:
        labels = {info.task for info in trace.requests} - {None}
        for task in workload.tasks:
            if task not in labels:
                known = sorted(str(label) for label in labels)
                near = get_close_matches(task, known, n=1)
                there = (
                    f"did you mean '{near[0]}'?"
                    if near
                    else f"the trace has {', '.join(known[:8]) or 'none'}{', …' if len(known) > 8 else ''}."
                )
                raise PlanError(f"workload.tasks names '{task}'; {there}")
        indices = [index for index in indices if trace.requests[index].task in workload.tasks]
        if not indices:
            raise PlanError("workload.tasks is empty; expected at least one task of the trace, or null for all.")
    of_these = "the trace has requests" if workload.tasks is None else "of these tasks the trace has requests"
    served = []
    for index in _window(indices, workload, of_these):
        info = trace.requests[index]
        served.append(_served(info, index, info.id, index, workload.prompt_tokens, workload.decode_tokens, workload))
    return served


def _listed(trace: Trace, workload: Workload, seed: int) -> tuple[list[Served], RequestList]:
    for key in ("decode_tokens", "prompt_tokens", "tasks"):
        if getattr(workload, key) is not None:
            raise PlanError(f"workload.{key} is set, but workload.file says what is asked for; expected one of them.")
    listed = open_requests(str(workload.file), trace.requests, seed)
    rows = _window(list(range(len(listed))), workload, f"{workload.file} has rows")
    if workload.rate_per_s is not None:
        listed = at_rate(listed, workload.rate_per_s, rows, str(workload.file))
    places = {info.id: index for index, info in enumerate(trace.requests)}
    served = []
    for row in rows:
        index = places[int(listed.trace_request[row])]
        prompt, decode = int(listed.prompt_tokens[row]), int(listed.decode_tokens[row])
        served.append(_served(trace.requests[index], index, row, row, prompt, decode, workload))
    return served, listed


def _window(candidates: list[int], workload: Workload, there: str) -> list[int]:
    first, count = workload.first_request, workload.requests
    if not 0 <= first < len(candidates):
        raise PlanError(f"workload.first_request is {first}; {there} 0 to {len(candidates) - 1}.")
    return candidates[first:] if count is None else candidates[first : first + count]


def _served(
    info: RequestInfo,
    index: int,
    name: int,
    stream: int,
    prompt_tokens: int | None,
    decode_tokens: int | None,
    workload: Workload,
) -> Served:
    decode = decode_tokens_of(info) if decode_tokens is None else decode_tokens
    return Served(
        index=index,
        id=name,
        stream=stream,
        prompt_tokens=prompt_tokens_of(info) if prompt_tokens is None else prompt_tokens,
        decode_tokens=decode if workload.max_decode_tokens is None else min(decode, workload.max_decode_tokens),
        recorded_prompt_tokens=prompt_tokens_of(info),
        recorded_decode_tokens=decode_tokens_of(info),
        routed_prompt_tokens=info.prefill_tokens,
    )
