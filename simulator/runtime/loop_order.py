"""Experts whose weights a worker reads several times in a layer, because it takes tokens window by window."""

from __future__ import annotations

from collections.abc import Sequence

from simulator.policies.pipeline.base import PipelinePolicy
from simulator.policies.pipeline.token_windows import TokenWindows
from simulator.routing import Routing
from simulator.scenario import Scenario, ScenarioError
from simulator.visits import visits


class LoopOrder:
    """Of one worker. again: by phase and layer, visits of experts beyond the first of each in a step."""

    def __init__(self, policy: TokenWindows, routing: Routing, layers: int, experts: int) -> None:
        self._policy, self._routing, self._experts = policy, routing, experts
        self.again = [[0] * layers for _ in range(2)]

    def served(self, prefill: bool, layer: int, blobs: Sequence[int]) -> list[int]:
        """Tokens of each visit of these experts of a layer, and count the visits."""
        found = visits(self._routing.ids(layer), self._experts, self._policy.window, self._policy.queue)
        served = [tokens for blob in blobs for tokens in found[blob % self._experts]]
        self.again[prefill][layer] += len(served) - len(blobs)
        return served


def make_loop_order(pipeline: PipelinePolicy, scenario: Scenario, routing: Routing, workers: int) -> LoopOrder | None:
    """The loop order of the one worker, if the pipeline names one. Raises ScenarioError for what does not fit it."""
    if not isinstance(pipeline, TokenWindows):
        return None
    system = scenario.system
    others = {
        "one worker": workers == 1,
        "policy/scheduling=lockstep": system.scheduling().lockstep,
        "policy/gating=routed": not system.gating().chooses,
        "policy/precision=stored": len(system.precision().bits) == 1,
        "policy/execution without a host CPU": not system.execution().uses_cpu,
        "one instance": scenario.tenants.count == 1,
    }
    for needed, there in others.items():
        if not there:
            raise ScenarioError(
                f"policy/pipeline TokenWindows counts visits of experts on one worker; expected {needed}."
            )
    model = scenario.model
    return LoopOrder(pipeline, routing, len(model.moe_layers), model.experts)
