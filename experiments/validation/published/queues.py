"""Figures of claims on serving: memory, batches, queues, for `metric: {python: ...}` (docs/validation/claims.md)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np

from experiments.compose import compose_config
from experiments.run import plain, scenario_from_config
from experiments.validation.published.runs import Run
from simulator.result import simulate
from simulator.scenario import Scenario


def _scenario(overrides: Sequence[str]) -> Scenario:
    return scenario_from_config(plain(compose_config([*overrides, "reference=false"])))


def free_bytes(scenario: Scenario, resident_share: float) -> int:
    """What dense weights, workspace and a share of the experts leave of a worker's memory, as in a run."""
    model, worker = scenario.model, scenario.platform.workers[0]
    experts = model.expert_bytes * model.experts * len(model.moe_layers)
    room = scenario.platform.memory_of(worker).memory_capacity_bytes
    return room - model.dense_bytes - scenario.settings.workspace_bytes - round(resident_share * experts)


def batch_beside(overrides: Sequence[str], resident_share: float, full_batch: int) -> float:
    """Requests that fit with a share of the experts resident, if so many fit with all: context is what fills memory.

    Each request takes free / full_batch of what the full model leaves, the most it can.
    """
    scenario = _scenario(overrides)
    return float(free_bytes(scenario, resident_share) * full_batch // free_bytes(scenario, 1.0))


def memory_bytes(overrides: Sequence[str], resident_share: float, batch: int, context_tokens: int, ranks: int) -> float:
    """Weights, workspace and KV cache of a batch on all ranks together; the overrides give one rank's part."""
    scenario = _scenario(overrides)
    model = scenario.model
    experts = round(resident_share * model.expert_bytes * model.experts * len(model.moe_layers))
    kv = batch * model.kv_bytes(context_tokens)
    return float(ranks * (model.dense_bytes + experts + scenario.settings.workspace_bytes + kv))


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


def experts_per_step(overrides: Sequence[str]) -> float:
    """Distinct experts that a layer runs in a step, mean over steps and layers of a run made here."""
    run = simulate(_scenario(overrides))
    asked = run.steps[["hits", "late", "loads", "on_cpu"]].to_numpy().sum()
    return float(asked / (len(run.steps) * len(run.run.layer_expert_bytes)))


def here_or_coming_gap(runs: Mapping[str, Run], of: str, over: str) -> float:
    """By how much one run found more of the experts asked for in memory or on their way than another."""

    def share(name: str) -> float:
        summary = runs[name].summary
        return float(summary["hit_rate"]) + float(summary["late_rate"])

    return share(of) - share(over)
