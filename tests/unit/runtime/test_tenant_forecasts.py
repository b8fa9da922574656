"""Forecasts of several instances: each names experts of its own model, from its own tokens."""

from __future__ import annotations

from functools import partial
from typing import ClassVar

import numpy as np
import pytest

from simulator.plan import Workload
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prediction.periodic import PeriodicForecast
from simulator.policies.scheduling.continuous import Continuous
from simulator.result import simulate
from simulator.scenario import Scenario, Settings
from simulator.tenants.spec import Tenants
from tests.helpers import random_trace, system, tiny_model, tiny_platform

LAYERS, EXPERTS, INSTANCES = 3, 8, 3
APART = {"deduplicate": False, "merged_steps": False, "fused_gate": False}


class Listening(PredictionPolicy):
    """Names expert 0 of the next layer, and notes what it was shown."""

    by_step = True
    seen: ClassVar[list[tuple[int, int, list[int], np.ndarray]]] = []

    def bind(self, context):
        self.layers, self.experts = context.layers, context.experts

    def expect(self, layer, routing):
        self.seen.append((id(self), layer, routing.requests, routing.ids(layer)))
        return [(layer + 1) % self.layers * self.experts], None


def serve(prediction, tenants):
    trace = random_trace(5, 12, 6, LAYERS, EXPERTS, 2, prompt=3)
    roles = {"prediction": prediction, "gating": partial(ResidentOnly, coming=True), "placement": PopularFirst}
    roles["scheduling"] = partial(Continuous, max_batch=8, token_budget=16)
    settings = Settings(workspace_bytes=0, kv_page_tokens=4)
    workload = Workload(requests=6)
    return simulate(
        Scenario(
            tiny_model(LAYERS, EXPERTS, 2), trace, tiny_platform(), system(**roles), workload, settings, tenants=tenants
        )
    )


@pytest.mark.parametrize("how", [APART, {"unique_experts": 2}])
def test_each_instance_forecasts_by_its_own_numbers_from_its_own_requests(how):
    Listening.seen.clear()
    run = serve(Listening, Tenants(INSTANCES, **how)).run
    by_policy: dict[int, set[int]] = {}
    for policy, _, requests, ids in Listening.seen:
        by_policy.setdefault(policy, set()).update(requests)
        assert ids.max(initial=-1) < EXPERTS
        assert len(ids) >= len(requests)
        assert ids.min(initial=0) >= 0  # its own tokens name no expert of another instance
    of = {request.id: request.instance for request in run.plan.served}
    assert sorted(map(sorted, by_policy.values())) == [
        sorted(number for number, instance in of.items() if instance == which) for which in range(INSTANCES)
    ]


def test_each_engine_names_its_share_whatever_the_others_serve():
    named = serve(partial(PeriodicForecast, share=0.5, period=2), Tenants(INSTANCES, **APART)).run
    forecaster = named.workers[0]._forecaster
    blobs, _ = forecaster.expect(0, named.workers[0]._routing)
    pool = INSTANCES * EXPERTS
    assert {blob // pool for blob in blobs} == {1}
    assert np.bincount(np.array(blobs) % pool // EXPERTS).tolist() == [EXPERTS // 2] * INSTANCES
