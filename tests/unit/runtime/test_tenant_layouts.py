"""Several instances on GPUs that share a model: what each holds, and experts dealt from the pool of all instances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from simulator.layout import Layout
from simulator.layout_choice import LayoutChoice
from simulator.model import ModelError
from simulator.model_attention import AttentionSpec
from simulator.plan import Workload
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.continuous import Continuous
from simulator.result import Result, simulate
from simulator.scenario import Scenario, Settings
from simulator.tenants.spec import Tenants
from tests.helpers import EXPERT_BYTES, random_trace, system, tiny_model, tiny_platform

LAYERS, EXPERTS = 2, 4
HEADS = {"full": AttentionSpec(heads=8, kv_heads=8, head_dim=4)}
MODEL = replace(tiny_model(LAYERS, EXPERTS, 2), attention=HEADS)
KV_BYTES, WORKSPACE_BYTES = 40960, 1000
PLATFORM = tiny_platform(4)


def serve(tenants: Tenants, layout: LayoutChoice | None, **settings) -> Result:
    roles = {"scheduling": lambda: Continuous(max_batch=8, token_budget=16), "placement": PopularFirst}
    held = {"workspace_bytes": WORKSPACE_BYTES, "kv_page_tokens": 4, "kv_cache_bytes": KV_BYTES, **settings}
    trace = random_trace(3, 8, 12, LAYERS, EXPERTS, 2, prompt=4)
    return simulate(
        Scenario(MODEL, trace, PLATFORM, system(**roles), Workload(), Settings(**held), layout=layout, tenants=tenants)
    )


@pytest.mark.parametrize("tenants", [Tenants(3, 1), Tenants(3, 1, deduplicate=False, merged_steps=False)])
def test_the_ledger_of_instances_is_that_of_all_gpus_and_each_holds_its_slice(tenants):
    result = serve(tenants, LayoutChoice(tp=4))
    part = Layout(4, 1, 4, 1).of(MODEL)
    pool = EXPERTS - 1 + 3 if tenants.deduplicate else 3 * EXPERTS
    (memory,) = result.run.memories
    assert memory.dense_bytes == 3 * part.dense_bytes
    assert memory.cache_bytes == LAYERS * pool * EXPERT_BYTES // 4
    of_all = {
        "dense_bytes": 4 * 3 * part.dense_bytes,
        "kv_cache_bytes": 4 * KV_BYTES,
        "workspace_bytes": 4 * tenants.engines * WORKSPACE_BYTES,
        "distinct_expert_bytes": LAYERS * pool * EXPERT_BYTES,
        "cache_bytes": LAYERS * pool * EXPERT_BYTES,
    }
    assert {name: result.summary[name] for name in of_all} == of_all


@pytest.mark.parametrize("room", [3, 12])
def test_one_gpu_stands_for_those_that_serve_the_same_instances(room):
    settings = {"cache_bytes": room * EXPERT_BYTES // 4}
    one, each = (serve(Tenants(2, 1), LayoutChoice(tp=4, mirrored=m), **settings) for m in (True, False))
    ends = [[record.end_ps for record in result.run.workers[0].records] for result in (one, each)]
    np.testing.assert_allclose(*ends, rtol=1e-7)  # rates are whole bytes/s
    for name in ("dense_bytes", "kv_cache_bytes", "workspace_bytes", "load_bytes", "cache_bytes", "tokens_per_expert"):
        assert one.summary[name] == each.summary[name], name


def test_distinct_experts_of_all_instances_are_dealt_whether_or_not_the_model_s_own_could_be():
    layout = LayoutChoice(gpus=3, attention_dp=3, moe_ep=3)
    result = serve(Tenants(3, 1), layout)  # 3 shared experts and 3 of one instance each
    mine = [[blob for blob, slot in enumerate(tier.slots) if slot is not None] for tier in result.run.tiers]
    assert sorted(blob for blobs in mine for blob in blobs) == list(range(LAYERS * 6))
    assert [len(blobs) for blobs in mine] == [LAYERS * 2] * 3
    with pytest.raises(ModelError, match=r"layout\.moe_ep is 4; expected a divisor of the 6 distinct experts"):
        serve(Tenants(3, 1), LayoutChoice(attention_dp=4, moe_ep=4))
    with pytest.raises(ModelError, match=r"layout\.moe_ep is 3; expected a divisor of the 4 distinct experts"):
        serve(Tenants(), layout)
