"""Figures of claims about throughput with streamed layers, for `metric: {python: ...}` (docs/validation/claims.md)."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from experiments.compose import compose_config
from experiments.run import scenario_from_config
from experiments.validation.published.runs import Run
from simulator.policies.pipeline.micro_batches import MicroBatches
from simulator.scenario import Scenario
from simulator.streaming.costs import MicroBatchCosts
from simulator.streaming.planner import Machine, search


def generated_per_s(runs: Mapping[str, Run], of: str = "cell") -> float:
    """Generated tokens over the time of prompts and decoding together, tokens/s: the throughput of FlexGen
    (arXiv 2303.06865) and MoE-Lightning (arXiv 2411.11217, section 5)."""
    summary = runs[of].summary
    return float(summary["decode_tokens"]) / float(summary["duration_s"])


def generated_ratio(runs: Mapping[str, Run], of: str, over: str) -> float:
    """`generated_per_s` of one run over that of another."""
    return generated_per_s(runs, of) / generated_per_s(runs, over)


def _scenario(platform: str, model: str) -> tuple[Scenario, MicroBatchCosts]:
    scenario = scenario_from_config(compose_config([f"platform={platform}", f"model={model}", f"trace={model}"]))
    machine, spec = scenario.platform, scenario.model
    cpu = machine.device(machine.cpu) if machine.cpu is not None else None
    sizes = [spec.expert_bytes] * spec.layers
    return scenario, MicroBatchCosts(spec, sizes, machine.device(machine.workers[0]), cpu)


def planned(platform: str, model: str, prompt_tokens: int, output_tokens: int, what: str) -> float:
    """What the search for micro-batches chooses: `what` is a field of `simulator.streaming.planner.Plan`."""
    scenario, costs = _scenario(platform, model)
    sizes = [scenario.model.expert_bytes] * scenario.model.layers
    machine = Machine.of(costs, scenario.platform, scenario.platform.workers[0], scenario.settings, sizes)
    return float(getattr(search(machine, MicroBatches(), prompt_tokens, output_tokens), what))


def copy_over_attention(platform: str, model: str, requests: int, context_tokens: int) -> float:
    """Time to copy the KV cache of a layer of so many requests to the GPU over that of their attention on the CPU."""
    scenario, costs = _scenario(platform, model)
    machine = scenario.platform
    new = np.ones((1, requests), dtype=np.int64)
    counts = np.zeros((1, 1, scenario.model.experts), dtype=np.int64)
    step = costs.costs(new, context_tokens * new, counts)
    copied_s = machine.copy_s(machine.home, machine.workers[0], int(step.cache_bytes[0, 0]))
    return copied_s / (int(step.host_ps[0, 0]) / 1e12)
