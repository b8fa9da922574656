"""What an expert cache costs the worker that keeps it: per look-up and per evicted byte, while loads flow."""

from __future__ import annotations

from dataclasses import replace

import pytest

from simulator.engine import to_ps
from simulator.policies.cache.lru import Lru
from tests.helpers import EXPERT_BYTES, random_trace, run, steps_of, system, tiny_model, tiny_phone, tiny_trace

LAYERS, EXPERTS = 2, 4
LOOKUP_S, EVICT_S_PER_BYTE = 3e-6, 1e-10


def phone(**costs):
    plain = tiny_phone()
    return replace(plain, devices={**plain.devices, "cpu": replace(plain.devices["cpu"], **costs)})


def simulate(trace, platform, experts_kept, **settings):
    size_bytes = experts_kept * EXPERT_BYTES
    return run(tiny_model(), trace, platform, system(cache=Lru), cache_bytes=size_bytes, **settings)


def test_a_look_up_costs_every_layer_the_same_when_all_is_there():
    trace = tiny_trace([[[(0, 1), (2, 3)]] * 3])  # three tokens, the same experts
    free, paid = (simulate(trace, platform, 8) for platform in (phone(), phone(cache_lookup_s=LOOKUP_S)))
    last, last_paid = free.records[-1], paid.records[-1]
    assert last.hits == last_paid.hits == 4
    added_ps = (last_paid.end_ps - last_paid.start_ps) - (last.end_ps - last.start_ps)
    assert added_ps == LAYERS * to_ps(LOOKUP_S) == last_paid.managed_ps == last_paid.waited_ps["management"]
    assert last_paid.busy_ps == last.busy_ps + added_ps


def test_evicted_bytes_cost_their_time_and_nothing_is_charged_while_there_is_room():
    trace = tiny_trace([[[(0, 1), (0, 1)], [(2, 3), (2, 3)], [(0, 1), (0, 1)]]])
    platform = phone(cache_evict_s_per_byte=EVICT_S_PER_BYTE)
    roomy, full = (simulate(trace, platform, kept).records for kept in (8, 4))
    assert [record.managed_ps for record in roomy] == [0, 0, 0]
    assert [record.evicted_bytes for record in full] == [0, 4 * EXPERT_BYTES, 4 * EXPERT_BYTES]
    assert [record.managed_ps for record in full] == [0, *[2 * round(2 * EXPERT_BYTES * EVICT_S_PER_BYTE * 1e12)] * 2]


def test_loads_flow_while_the_cache_is_managed():
    """Nothing is here, so that a layer's look-up hides wholly behind its loads, which take longer."""
    trace = tiny_trace([[[(0, 1), (2, 3)]]])
    free, paid = (simulate(trace, platform, 8).records[0] for platform in (phone(), phone(cache_lookup_s=LOOKUP_S)))
    assert to_ps(LOOKUP_S) < EXPERT_BYTES * 1000  # an expert takes longer at 1 GB/s
    assert paid.end_ps == free.end_ps
    assert paid.managed_ps == LAYERS * to_ps(LOOKUP_S)
    assert "management" not in paid.waited_ps


@pytest.mark.parametrize("seed", range(3))
def test_attribution_sums_and_single_stepping_agrees(seed):
    trace = random_trace(seed, 2, 12, LAYERS, EXPERTS, 2)
    platform = phone(cache_lookup_s=LOOKUP_S, cache_evict_s_per_byte=EVICT_S_PER_BYTE)
    result, stepwise = (simulate(trace, platform, 3, stepwise=single) for single in (False, True))
    assert steps_of(result) == steps_of(stepwise)
    for record in result.records:
        assert sum(record.waited_ps.values()) == record.end_ps - record.start_ps
        assert record.busy_ps <= record.end_ps - record.start_ps
    assert sum(record.managed_ps for record in result.records) > 0
