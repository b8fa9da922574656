"""Figures of MoE-Deploy (arXiv 2303.06182) that no run gives: dense baseline, activation memory, share of the busiest.

For `metric: {python: ...}` of claims/serving/moe_deploy.yaml; each takes the overrides of a run and simulates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from experiments.compose import compose_config
from experiments.run import plain, scenario_from_config
from experiments.validation.published.runs import Run
from hwmodels import Platform
from simulator.build import build
from simulator.dispatch.work import INDEX
from simulator.engine import PS_PER_S
from simulator.model import ModelSpec
from simulator.plan import Block, Plan
from simulator.policies import PolicyContext
from simulator.runtime.costs import DenseCosts
from simulator.scenario import Scenario

LOGIT_BYTES = 6  # a row of logits in half precision and its copy in fp32, of which fairseq takes the softmax


def scenario(overrides: Sequence[str]) -> Scenario:
    """The parts of a run."""
    return scenario_from_config(plain(compose_config([*overrides, "reference=false"])))


def dense_step_s(overrides: Sequence[str], requests: int, tokens: int, kv_tokens: int, layer_s: float = 0.0) -> float:
    """Seconds of a step of the dense model beside the routed one (every layer with its dense block), on one worker.

    `requests` process `tokens` new tokens each and then have a context of `kv_tokens`; `layer_s` is added per layer.
    """
    config = plain(compose_config([*overrides, "reference=false"]))
    model, platform = ModelSpec.from_mapping(config["model"]), Platform.from_mapping(config["platform"])
    model = replace(model, experts=0, top_k=0, expert_intermediate=0, native_top_k=0)
    costs = DenseCosts(model, platform.device(platform.workers[0]))
    block = Block(tokens > 1, [[tokens] * requests], [[kv_tokens] * requests])
    return sum(part[0] for part in costs.table(block)[0]) / 1e12 + layer_s * model.layers


def activation_bytes(overrides: Sequence[str], tokens: int) -> float:
    """Activation memory of a worker of so many tokens: its routed layer by the same forms that a run reserves, and the
    logits of all of them, LOGIT_BYTES each."""
    return _activation_bytes(scenario(overrides), tokens)


def most_batch(overrides: Sequence[str], tokens: int, step: int = 8) -> float:
    """Largest batch of a worker, a multiple of `step`, of sequences of `tokens` tokens whose activations fit its memory
    beside its dense weights and its share of the experts."""
    parts = scenario(overrides)
    model, platform = parts.model, parts.platform
    device = platform.memory_of(platform.workers[0])
    fixed = model.dense_bytes + model.parts()["routed_experts"][1] / len(platform.workers)
    batch = 0
    while fixed + _activation_bytes(parts, (batch + step) * tokens) <= device.memory_capacity_bytes:
        batch += step
    return float(batch)


def _activation_bytes(parts: Scenario, tokens: int) -> float:
    dispatch = parts.system.pipeline().dispatch(parts.model, len(parts.platform.workers))
    assert dispatch is not None
    return float(dispatch.activation_bytes(tokens) + LOGIT_BYTES * tokens * parts.model.vocab)


def busiest_share(overrides: Sequence[str], largest: bool = True) -> float:
    """Share of a layer's rows that go to the worker with most of them: largest over steps and layers, or the mean."""
    parts = scenario(overrides)
    workers, layers, experts = len(parts.platform.workers), len(parts.model.moe_layers), parts.model.experts
    plan = Plan(parts.trace, parts.workload)
    placement = parts.system.placement()
    placement.bind(PolicyContext(layers, experts, parts.trace.meta.top_k, [], training=plan.training))
    owners = np.array([[placement.owner(layer, e, workers) for e in range(experts)] for layer in range(layers)]).ravel()
    found = []
    for step in plan:
        for blobs, counts in step.groups:
            if blobs:
                rows = np.bincount(owners[blobs], weights=counts or [1] * len(blobs), minlength=workers)
                found.append(rows.max() / rows.sum())
    return float(max(found) if largest else np.mean(found))


def announcement_s(overrides: Sequence[str]) -> float:
    """Seconds of an all-to-all of sizes in which all workers send at once and nothing else is under way."""
    run = build(scenario(overrides))
    size = INDEX * -(-run.scenario.model.experts // len(run.workers))
    lanes = [lane for lane in run.fabric.lanes if lane.category == "all_to_all"]
    peers = len(run.workers) - 1  # a worker's port carries a message to each of them
    return max(lane.latency_ps / PS_PER_S + peers * size / lane.best_rate_at(size) for lane in lanes)


def throughput_gain(runs: Mapping[str, Run], ours: Sequence[str], baseline: Sequence[str], key: str) -> float:
    """The best of some runs over the best of others, by `key` of their summaries."""
    best, rival = (max(float(runs[name].summary[key]) for name in names) for names in (ours, baseline))
    return best / rival
