"""How much of a worker's memory is for KV cache where requests come and go."""

from __future__ import annotations

from collections.abc import Callable

from simulator.batching.pages import KvPages
from simulator.plan import Plan
from simulator.policies.scheduling.base import SchedulingPolicy
from simulator.scenario import ScenarioError, Settings
from simulator.tasks import prefix_of
from simulator.unrecorded import slo_s


def kv_room(
    plan: Plan, policy: SchedulingPolicy, settings: Settings, size_bytes: Callable[[int], int], room: int, experts: int
) -> int:
    """Bytes of KV cache of a worker with `room` bytes for it and for experts, which all together take `experts`.

    As `settings.kv_cache_bytes` says; else what `settings.cache_bytes` leaves; else experts come first, up to half of
    the room. Never more than `max_batch` of the longest requests take. Raises ScenarioError if a request does not fit.
    """
    longest = max(plan.served, key=lambda request: request.prompt_tokens + request.decode_tokens)
    tokens = longest.prompt_tokens + longest.decode_tokens
    alone = KvPages(settings.kv_page_tokens, size_bytes, [0]).bytes_of(tokens)
    most = alone * min(policy.max_batch, len(plan.served))
    if settings.kv_cache_bytes is not None:
        size, asked = settings.kv_cache_bytes, "settings.kv_cache_bytes"
    elif settings.cache_bytes is not None:
        size, asked = min(most, room - settings.cache_bytes), "what the expert cache (cache_gib) leaves"
    else:
        size, asked = min(most, room - min(experts, room // 2)), "what the experts leave"
    if size < alone:
        raise ScenarioError(
            f"request {longest.id} needs {alone} bytes of KV cache for its {tokens} tokens, but {asked} is {size};"
            " expected room for each request alone."
        )
    return size


def check(plan: Plan, policy: SchedulingPolicy, settings: Settings) -> None:
    """Refuse what requests that come and go cannot have. Raises ScenarioError."""
    workload = plan.workload
    if workload.batch_size != 1:
        raise ScenarioError(
            f"workload.batch_size is {workload.batch_size}, but batches form by themselves with"
            f" policy/scheduling {policy.title}; expected 1 (see policy.scheduling.max_batch)."
        )
    for name in ("slo_ttft_s", "slo_tpot_s"):
        value = getattr(workload, name)
        if value is not None and not value > 0:
            raise ScenarioError(f"workload.{name} is {value}; expected more than 0 seconds, or null.")
    if not workload.synthetic_prefill:
        for order, request in enumerate(plan.served):
            if not request.routed_prompt_tokens and slo_s(plan, order)[0] is not None:
                raise ScenarioError(
                    f"slo_ttft_s is set, but the prompt of request {request.id} was not recorded; expected"
                    " workload.synthetic_prefill=true, or a trace with prompts."
                )
    if settings.prefix_cache and policy.preempt == "swap":
        raise ScenarioError("settings.prefix_cache is true and policy.scheduling.preempt swap; expected recompute.")
    if settings.prefix_cache and all(prefix_of(plan, order)[0] is None for order in range(len(plan.served))):
        raise ScenarioError(
            "settings.prefix_cache is true, but no request names a prefix; expected a workload.file with the columns"
            " prefix and prefix_tokens."
        )
    if settings.kv_page_tokens < 1:
        raise ScenarioError(f"settings.kv_page_tokens is {settings.kv_page_tokens}; expected at least 1.")
