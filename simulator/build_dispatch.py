"""Assembling what the implementation of gating adds to a run, if the pipeline role names one."""

from __future__ import annotations

from collections.abc import Iterable

from hwmodels import Device
from simulator.batching.source import StepSource
from simulator.dispatch import Dispatch
from simulator.dispatch.costs import DispatchedDense, RewrittenSteps, SequentialExperts
from simulator.model import ModelSpec
from simulator.plan import Plan, Step
from simulator.policies.pipeline.base import PipelinePolicy
from simulator.policies.scheduling.base import SchedulingPolicy
from simulator.runtime.costs import DenseTable, ExpertCosts
from simulator.scenario import Scenario, ScenarioError


def make_dispatch(
    pipeline: PipelinePolicy, scenario: Scenario, workers: int, decides: bool, remarks: list[str]
) -> Dispatch | None:
    """What the pipeline asks for, its remark appended to `remarks`; None if rows move by themselves.

    `decides`: gating or precision choose experts while the run goes on. Raises ScenarioError for what does not go
    together.
    """
    dispatch = pipeline.dispatch(scenario.model, workers)
    if dispatch is None:
        return None
    name = type(pipeline).__name__
    if scenario.tenants.count > 1:
        raise ScenarioError(
            f"policy/pipeline {name} serves one model; expected plain for the {scenario.tenants.count} instances."
        )
    if dispatch.uses_padding and decides:
        raise ScenarioError(
            f"policy/pipeline {name} pads what experts run, and policy/gating or policy/precision decide about it while"
            " the run goes on; expected one of the two."
        )
    remarks.append(dispatch.remark())
    return dispatch


def reserved_bytes(dispatch: Dispatch | None, plan: Plan, scheduling: SchedulingPolicy) -> int:
    """Activations of a routed layer in the largest step of a worker; steps that requests fill up may have
    `token_budget` tokens."""
    if dispatch is None:
        return 0
    return dispatch.activation_bytes(dispatch.most_tokens(plan, getattr(scheduling, "token_budget", None)))


def dispatched_source(source: StepSource, dispatch: Dispatch | None) -> StepSource:
    """Where workers take their steps from."""
    return source if dispatch is None else RewrittenSteps(source, dispatch)


def dispatched_steps(plan: Plan, dispatch: Dispatch | None) -> Iterable[Step]:
    """Steps known before the run, as experts will run them."""
    return plan if dispatch is None else map(dispatch.rewrite, plan)


def dispatched_costs(
    dense: DenseTable, model: ModelSpec, row_bytes: list[int], device: Device, dispatch: Dispatch | None
) -> tuple[DenseTable, ExpertCosts]:
    """Costs of a worker."""
    if dispatch is None:
        return dense, ExpertCosts(model, row_bytes, device)
    around = DispatchedDense(dense, dispatch, device)
    if not dispatch.sequential:
        return around, ExpertCosts(model, row_bytes, device)
    return around, SequentialExperts(model, row_bytes, device, dispatch.LAUNCHES)
