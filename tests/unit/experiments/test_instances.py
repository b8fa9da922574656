"""Measures of claims about several instances, beside the same by hand."""

from __future__ import annotations

import pytest

from experiments.compose import compose_config
from experiments.run import scenario_from_config
from experiments.validation.published.instances import (
    gate_share,
    instances_ratio,
    memory_of_instances,
    resident_instances,
)

REQUESTS, TOKENS = 4, 64
MIB = 2**20
COMMON = [
    *("model=tiny_moe", "trace=tiny_moe", "platform=rtx_3060", "tenants.unique_experts=4"),
    *(f"settings.workspace_bytes={2 * MIB}", "+platform.devices.gpu0.memory_capacity_bytes=64 MB"),
]
MOESAIC, SEPARATE = ([*COMMON, f"system={system}"] for system in ("moesaic", "separate_instances"))


@pytest.fixture(scope="module")
def parts() -> tuple[int, int, int]:
    """Bytes of all experts, of all other weights, of what an engine takes beside them."""
    scenario = scenario_from_config(compose_config(COMMON))
    model = scenario.model
    sizes = scenario.trace.meta.expert_bytes
    experts = sum(sizes) * model.experts
    return experts, model.dense_bytes, REQUESTS * model.kv_bytes(TOKENS) + 2 * MIB


def test_instances_fit_as_long_as_what_each_adds_has_room(parts):
    experts, dense, engine = parts
    shared = experts * 28 // 32
    by_hand = (64 * 10**6 - shared - engine) // (experts - shared + dense)
    assert resident_instances(MOESAIC, REQUESTS, TOKENS) == by_hand > 4
    alone = 64 * 10**6 // (experts + dense + engine)
    assert resident_instances(SEPARATE, REQUESTS, TOKENS) == alone > 1
    half = [*SEPARATE, "policy/gating=resident", "policy/slots=expert_share", "policy.slots.spare=0"]
    fits = resident_instances(half, REQUESTS, TOKENS, share=0.5)
    assert fits == 64 * 10**6 // (experts // 2 + dense + engine) > alone
    assert instances_ratio(MOESAIC, SEPARATE, REQUESTS, TOKENS) == by_hand / alone


def test_memory_of_instances_is_the_sum_of_what_is_shared_and_what_each_adds(parts):
    experts, dense, engine = parts
    shared = experts * 28 // 32
    found = memory_of_instances(MOESAIC, 3, REQUESTS, TOKENS)
    assert found == shared + 3 * (experts - shared + dense) + engine
    assert memory_of_instances(SEPARATE, 2, REQUESTS, TOKENS) == 2 * (experts + dense + engine)


def test_a_gate_for_all_takes_a_smaller_share_than_a_gate_for_each():
    few = ["model=tiny_moe", "trace=tiny_moe", "workload.requests=8", "workload.max_decode_tokens=4"]
    each, fused = (gate_share([*few, "system=moesaic", f"tenants.fused_gate={flag}"]) for flag in ("false", "true"))
    assert 0 < fused < each / 2 < 0.5
