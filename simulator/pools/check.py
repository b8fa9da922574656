"""What pools do not go with; all of it is found before a run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields

from simulator.build import Run
from simulator.layout_choice import LayoutChoice
from simulator.plan import Plan
from simulator.policies.attention.worker import OnWorker
from simulator.policies.gating.routed import AsRouted
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.precision.stored import AsStored
from simulator.pools.dealing import DEALINGS
from simulator.pools.spec import Pool, Pools
from simulator.scenario import Scenario, ScenarioError


def check_pools(scenario: Scenario, pools: Pools) -> None:
    """Raise ScenarioError for pools that cannot be, or that do not go with something else of the scenario."""
    for sentence in (*_sizes(scenario, pools), *_others(scenario, pools)):
        raise ScenarioError(sentence)


def _sizes(scenario: Scenario, pools: Pools) -> Iterator[str]:
    both = [name for name in ("prefill", "decode") if getattr(pools, name) != Pool()]
    if "aggregated" in pools.used and both:
        yield f"pools.aggregated and pools.{both[0]} are both set; expected one of them, as there is one way to serve."
    for name, pool in pools.used.items():
        if pool.replicas < 1:
            yield f"pools.{name}.replicas is {pool.replicas}; expected at least 1."
        if pool.layout.gpus is None:
            yield f"pools.{name}.layout.gpus is null; expected how many GPUs each replica of the pool has."
        if pool.gpus < 1:
            yield f"pools.{name}.layout.gpus is {pool.layout.gpus}; expected at least 1."
    there = len(scenario.platform.workers)
    if pools.gpus > there:
        sizes = ", ".join(f"pools.{name} {pool.gpus}" for name, pool in pools.used.items())
        yield (
            f"the replicas have {pools.gpus} GPUs together ({sizes}); expected at most the {there} workers of"
            f" {scenario.platform.name}."
        )
    if pools.dealing not in DEALINGS:
        yield f"pools.dealing is '{pools.dealing}'; expected {' or '.join(DEALINGS)}."


def _others(scenario: Scenario, pools: Pools) -> Iterator[str]:
    system, start = scenario.system, "pools are set, but"
    given = [f.name for f in fields(LayoutChoice) if getattr(scenario.layout, f.name) != f.default]
    if given:
        yield f"{start} layout.{given[0]} is too; expected the layouts of pools in its place."
    if scenario.tenants.count > 1:
        yield f"{start} tenants.count is {scenario.tenants.count}; expected 1."
    if scenario.settings.prefix_cache:
        yield f"{start} settings.prefix_cache is true; expected false, as requests are not dealt by their prefixes."
    if scenario.settings.timeline:
        yield f"{start} timeline is true; expected false, as replicas are runs of their own."
    for pool in pools.used.values():
        policy = (pool.scheduling or system.scheduling)()
        if policy.lockstep:
            yield (
                f"{start} policy/scheduling {type(policy).__name__} fixes batches before the run; expected continuous,"
                " or another one that serves requests as they come."
            )
        if policy.preempt == "swap":
            yield f"{start} policy.scheduling.preempt is swap, to host memory that replicas share; expected recompute."
    for role, plain in (("pipeline", PlainPipeline), ("gating", AsRouted), ("precision", AsStored)):
        chosen = getattr(system, role)()
        if type(chosen) is not plain:
            yield f"{start} policy/{role} {type(chosen).__name__} has none; expected {plain.__name__}."
    if type(system.attention()) is not OnWorker or system.execution().uses_cpu:
        yield (
            f"{start} the host CPU, which replicas share, is to run attention or experts; expected"
            " policy/attention=worker and policy/execution=fetch."
        )


def check_requests(plan: Plan, pools: Pools) -> None:
    """Raise ScenarioError for requests that cannot be dealt, or cannot go from pool to pool."""
    if plan.listed is not None and plan.listed.closed_loop:
        raise ScenarioError(
            f"pools are set, but clients of {plan.source} ask again when they have an answer; expected arrivals that do"
            " not depend on the ends of requests."
        )
    for request in plan.served if "prefill" in pools.used else ():
        if not request.routed_prompt_tokens and not plan.workload.synthetic_prefill:
            raise ScenarioError(
                f"pools are set, but the prompt of request {request.id} was not recorded; expected"
                " workload.synthetic_prefill=true, or a trace with prompts."
            )


def check_resident(run: Run, where: str) -> None:
    """Raise ScenarioError unless all experts of a built replica are in its GPUs from the start: replicas load from one
    host memory, over links that they share, which runs of their own do not see."""
    held, parts = len(run.initial), run.ranks.parts
    wanted = len(run.layer_expert_bytes) * run.plan.experts * run.ranks.per_stage // parts
    if held < wanted:
        raise ScenarioError(
            f"pools.{where}: {held} of {wanted} experts of {run.scenario.model.name} are in GPU memory at the start;"
            " expected all, as pools do not share a host memory (policy/placement=popular, and room for all)."
        )
