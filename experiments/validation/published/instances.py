"""Figures of claims about several instances of a model on one machine, for `metric: {python: ...}`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.validation.published.machine import one_gpu, scenario_of
from simulator.build import Run, build
from simulator.result import simulate
from simulator.scenario import Scenario, ScenarioError
from simulator.tenants.dense import Gateless

MOST = 256  # instances


def _smallest(overrides: Sequence[Any]) -> Scenario:
    """The system with one token to serve: what it holds is not changed by that."""
    return scenario_of([*overrides, "workload.requests=1", "workload.max_decode_tokens=1"])


def _built(scenario: Scenario, count: int, requests: int, tokens: int, share: float = 1.0) -> Run | None:
    """A run of so many instances, each of whose engines has KV cache for `requests` of `tokens`; None if less than this
    share of its experts is resident from the start."""
    tenants = replace(scenario.tenants, count=count)
    _, shares = one_gpu(scenario)
    kv_bytes = tenants.engines * requests * shares.kv_bytes(tokens)  # on each GPU
    settings = replace(scenario.settings, kv_cache_bytes=kv_bytes)
    try:
        run = build(replace(scenario, tenants=tenants, settings=settings))
    except ScenarioError:  # the rest alone does not fit
        return None
    return run if len(run.initial) >= share * len(run.tiers[0].sizes) else None


def resident_instances(overrides: Sequence[Any], requests: int, tokens: int, share: float = 1.0) -> int:
    """The most instances that a machine holds with all or a share of their experts, by the simulator's ledger.

    Every engine has KV cache for `requests` of `tokens` each, and a workspace (settings.workspace_bytes).
    """
    scenario = _smallest(overrides)
    fits, too_many = 0, 1
    while too_many <= MOST and _built(scenario, too_many, requests, tokens, share) is not None:
        fits, too_many = too_many, 2 * too_many
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        if _built(scenario, middle, requests, tokens, share) is not None:
            fits = middle
        else:
            too_many = middle
    return fits


def instances_ratio(ours: Sequence[Any], rival: Sequence[Any], requests: int, tokens: int) -> float:
    """How many times as many instances the first system holds."""
    return resident_instances(ours, requests, tokens) / resident_instances(rival, requests, tokens)


def memory_of_instances(overrides: Sequence[Any], count: int, requests: int, tokens: int) -> float:
    """Bytes that so many instances take on all GPUs together: experts, other weights, KV cache and workspace."""
    run = _built(_smallest(overrides), count, requests, tokens)
    if run is None:
        raise ScenarioError(f"{count} instances do not fit the machine; expected fewer.")
    held = sum(m.dense_bytes + m.kv_bytes + m.workspace_bytes + m.cache_bytes for m in run.memories)
    return float(run.ranks.each * held)


def gate_share(overrides: Sequence[Any]) -> float:
    """Share of the steps in which all requests decode that the gates take: their products and the choice of experts."""
    scenario = scenario_of(overrides)
    result = simulate(scenario)
    device = scenario.platform.device(scenario.platform.workers[0])
    _, shares = one_gpu(scenario)
    gates = Gateless(shares.part, device)
    instance_of = {request.id: request.instance for request in result.run.plan.served}
    gate_s = total_s = 0.0
    for record in result.records:
        if record.prefill:
            continue
        tokens = np.bincount([instance_of[request] for request in record.requests])
        counts = [int(count) for count in tokens if count]
        if scenario.tenants.count > 1 and scenario.tenants.fused_gate:
            step_s = gates.gate_s(sum(counts), len(counts)).sum()
        else:
            step_s = sum(gates.gate_s(count).sum() for count in counts)
        gate_s += float(step_s) * result.run.plan.layers
        total_s += (record.end_ps - record.start_ps) / 1e12
    return gate_s / total_s
