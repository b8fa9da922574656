"""Several instances in a run: whose turn it is, what a memory holds, what comes out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.batching.in_turn import InTurn
from simulator.scenario import Scenario, ScenarioError
from simulator.tenants.identity import Identity

if TYPE_CHECKING:
    from simulator.build import Run
    from simulator.policies.scheduling.base import SchedulingPolicy
    from simulator.runtime.record_log import RecordLog
    from simulator.runtime.worker import StepRecord


def serve_instances(scenario: Scenario, remarks: list[str]) -> tuple[SchedulingPolicy, Identity | None]:
    """The scheduler of a run, and which expert of which instance is which blob (None for one instance).

    Raises ScenarioError or PlanError for instances that cannot be.
    """
    tenants, policy = scenario.tenants, scenario.system.scheduling()
    identity = Identity.of(tenants, scenario.model.experts)
    if identity is None:
        return policy, None
    if policy.lockstep:
        raise ScenarioError(
            f"tenants.count is {tenants.count}, but policy/scheduling {type(policy).__name__} fixes batches before the"
            " run; expected continuous, or another one that serves requests as they come."
        )
    remarks.append(
        f"{tenants.count} instances: all follow the routing of one trace, each on requests of its own"
        f" ({tenants.unique_experts} of {identity.experts} experts per layer differ)"
    )
    if not tenants.merged_steps:
        policy = InTurn(policy, tenants.count, lambda request: request.instance)
    return policy, identity


def instance_figures(run: Run, records: RecordLog[StepRecord], measured: np.ndarray) -> dict[str, Any]:
    """What only a run of several instances has in its summary; `measured`: steps after the warm-up, bool [steps].

    tokens_per_expert: top-k of every token over the distinct experts that layers ask for, in the steps in which all
    requests decode; distinct_expert_bytes: of all experts, each once; the rest is the ledger of all GPUs' memories.
    """
    if run.scenario.tenants.count == 1:
        return {}
    decode = measured & ~records.column("prefill")
    launched = sum(int(records.column(name)[decode].sum()) for name in ("hits", "late", "loads", "on_cpu"))
    each, memories, layout = run.ranks.each, run.memories, run.ranks.layout
    if layout is not None:
        launched = launched * each // layout.moe_tp  # slices of an expert, on GPUs that are simulated, are one
    pairs = int(records.column("tokens")[decode].sum()) * run.plan.layers * run.scenario.trace.meta.top_k
    return {
        "instances": run.scenario.tenants.count,
        "tokens_per_expert": pairs / launched if launched else None,
        "distinct_expert_bytes": run.plan.experts * sum(run.layer_expert_bytes),
        "dense_bytes": each * sum(memory.dense_bytes for memory in memories),
        "kv_cache_bytes": each * sum(memory.kv_bytes for memory in memories),
        "workspace_bytes": each * sum(memory.workspace_bytes for memory in memories),
    }


def with_instances(run: Run, rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows of requests, each with its instance where there are several."""
    if run.scenario.tenants.count == 1:
        return rows
    return [row | {"instance": run.plan.served[row["batch"]].instance} for row in rows]
