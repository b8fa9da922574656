"""Figures of claims on serving: memory, batches, queues, for `metric: {python: ...}` (docs/validation/claims.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from experiments.validation.published.machine import one_gpu, scenario_of
from experiments.validation.published.runs import Run
from simulator.result import simulate
from simulator.runtime.shares import Shares
from simulator.scenario import Scenario


def free_bytes(scenario: Scenario, resident_share: float) -> int:
    """What dense weights, workspace and a share of the experts leave of one GPU's memory, as in a run."""
    _, shares = one_gpu(scenario)
    room = scenario.platform.memory_of(scenario.platform.workers[0]).memory_capacity_bytes
    experts = round(resident_share * _experts_bytes(scenario, shares))
    return room - shares.dense_bytes(0) - scenario.settings.workspace_bytes - experts


def batch_beside(overrides: Sequence[Any], resident_share: float, full_batch: int) -> float:
    """Requests that fit with a share of the experts resident, if so many fit with all: context is what fills memory.

    Each request takes free / full_batch of what the full model leaves, the most it can.
    """
    scenario = scenario_of(overrides)
    return float(free_bytes(scenario, resident_share) * full_batch // free_bytes(scenario, 1.0))


def memory_bytes(overrides: Sequence[Any], resident_share: float, batch: int, context_tokens: int) -> float:
    """Weights, workspace and KV cache of a batch, on all GPUs that share them (layout.tp) together."""
    scenario = scenario_of(overrides)
    ranks, shares = one_gpu(scenario)
    experts = round(resident_share * _experts_bytes(scenario, shares))
    held = shares.dense_bytes(0) + experts + scenario.settings.workspace_bytes + batch * shares.kv_bytes(context_tokens)
    return float(len(ranks.gpus) * held)


def _experts_bytes(scenario: Scenario, shares: Shares) -> int:
    """All experts, or where they are cut a GPU's slices of them."""
    model = scenario.model
    return shares.slice_bytes(model.expert_bytes) * model.experts * len(model.moe_layers)


def sorted_share(runs: Mapping[str, Run], key: str, within: float = 0.0) -> float:
    """Of neighbouring runs, in the order in which they stand, the share in which `key` does not rise by more than the
    relative error `within`: 1 is monotone."""
    values = [float(run.summary[key]) for run in runs.values()]
    return float(np.mean([after <= before * (1 + within) for before, after in pairwise(values)]))


def last_gain(runs: Mapping[str, Run], key: str) -> float:
    """Of what `key` falls from the first run to the last, the share that the last step brings."""
    values = [float(run.summary[key]) for run in runs.values()]
    return (values[-2] - values[-1]) / (values[0] - values[-1]) if values[0] != values[-1] else 0.0


def percentile_change(runs: Mapping[str, Run], of: str, over: str, percent: float, column: str = "latency_s") -> float:
    """A percentile over the requests of one run, over that of another, less 1."""
    one, other = (float(np.percentile(np.asarray(runs[n].requests[column], dtype=float), percent)) for n in (of, over))
    return one / other - 1


def experts_per_step(overrides: Sequence[Any]) -> float:
    """Distinct experts that a layer runs in a step, mean over steps and layers of a run made here."""
    run = simulate(scenario_of(overrides))
    asked = run.steps[["hits", "late", "loads", "on_cpu"]].to_numpy().sum()
    return float(asked / (len(run.steps) * len(run.run.layer_expert_bytes)))


def here_or_coming_gap(runs: Mapping[str, Run], of: str, over: str) -> float:
    """By how much one run found more of the experts asked for in memory or on their way than another."""

    def share(name: str) -> float:
        summary = runs[name].summary
        return float(summary["hit_rate"]) + float(summary["late_rate"])

    return share(of) - share(over)
