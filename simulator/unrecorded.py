"""What a run was asked for, and how much of it follows no recorded routing: for remarks and provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from traces.workloads.requests import SLOS

if TYPE_CHECKING:
    from simulator.plan import Plan


def unrecorded_tokens(plan: Plan) -> int:
    """Tokens of all steps whose routing was repeated or drawn."""
    return sum(request.tokens(plan.workload.synthetic_prefill)[1] for request in plan.served)


def remarks(plan: Plan, lockstep: bool = True) -> list[str]:
    """What a reader of results should know of the workload; `lockstep`: arrival times play no part."""
    found = []
    workload, listed, served = plan.workload, plan.listed, plan.served
    if unrecorded := unrecorded_tokens(plan):
        made = "prompts drawn from decode rows, " if workload.synthetic_prefill else ""
        share = f"{100 * unrecorded / plan.tokens:.3g} %"
        found.append(f"{share} of the tokens were not recorded ({made}binding {workload.binding})")
    if other := sum(request.prompt_tokens != request.recorded_prompt_tokens for request in served):
        found.append(f"{other} requests have another prompt length than their routing was recorded with")
    if (distinct := len(set(plan.indices))) < len(served):
        found.append(
            f"{len(served)} requests follow {distinct} of the trace: a repeated one asks for the same experts again"
        )
    unrouted = sum(not r.routed_prompt_tokens and r.prompt_tokens > 0 for r in served)
    if not lockstep and unrouted and not workload.synthetic_prefill:
        found.append(
            f"{unrouted} requests have prompts that were not recorded, taken to lie in the KV cache when they are"
            " admitted, also after a preemption; workload.synthetic_prefill=true draws them"
        )
    if lockstep and listed is not None and (listed.closed_loop or listed.arrival_s.any()):
        found.append("arrival times are carried, not simulated: requests run in order, batch after batch")
    return found


def facts(plan: Plan) -> dict[str, Any]:
    """What was served, for the provenance of a result."""
    unrecorded = unrecorded_tokens(plan)
    return {
        "binding": plan.workload.binding,
        "tokens": plan.tokens,
        "unrecorded_tokens": unrecorded,
        "unrecorded_token_share": unrecorded / plan.tokens if plan.tokens else 0.0,
        "request_list_sha256": plan.listed.digest() if plan.listed is not None else None,
    }


def list_columns(plan: Plan, request: int) -> dict[str, Any]:
    """Of a request of a list: trace_request, task, tenant, arrival_s (None: known at run time), and what it may
    take, if the list says so of any (NaN: as the run says); else nothing."""
    listed = plan.listed
    if listed is None:
        return {}
    arrival_s = float(listed.arrival_s[request])
    own = {name: getattr(listed, name) for name in SLOS}
    return {
        "trace_request": int(listed.trace_request[request]),
        "task": listed.task[request],
        "tenant": listed.tenant[request],
        "arrival_s": None if np.isnan(arrival_s) else arrival_s,
        **{name: float(column[request]) for name, column in own.items() if not np.isnan(column).all()},
    }


def slo_s(plan: Plan, order: int) -> tuple[float | None, float | None]:
    """What the request of this place may take to its first token, and on average for each one after it, in seconds:
    as the request list says, or else the run; None if neither does."""
    workload, listed = plan.workload, plan.listed
    own: list[float | None] = [workload.slo_ttft_s, workload.slo_tpot_s]
    if listed is not None:
        row = plan.served[order].id
        for place, column in enumerate((listed.slo_ttft_s, listed.slo_tpot_s)):
            if not np.isnan(column[row]):
                own[place] = float(column[row])
    return own[0], own[1]
