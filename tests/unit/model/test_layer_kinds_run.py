"""Models with recurrent layers, chosen keys and shared caches run, and cost what their parts cost."""

import pytest

from hwmodels import Platform
from simulator.plan import Workload
from simulator.runtime.costs import DenseCosts
from tests.helpers import EXPERT_BYTES, random_trace, run, shipped, tiny_model, tiny_platform

LATENT = {"heads": 4, "kv_lora_rank": 8, "q_lora_rank": 6, "head_dim": 4, "rope_head_dim": 2, "value_head_dim": 3}
PLAIN = {"heads": 2, "kv_heads": 2, "head_dim": 16}
KINDS = {
    "sparse": {**LATENT, "index_heads": 2, "index_head_dim": 4, "index_top_k": 3},
    "state": {"state_values": 64, "in_width": 40, "out_width": 16, "conv_channels": 16, "conv_kernel": 4},
    "own": {**PLAIN, "output_gate": True, "value_head_dim": 8},
    "shared": {**PLAIN, "shared_kv": True},
}
MODEL = tiny_model.__wrapped__(layers=4, attention=KINDS, attention_pattern=list(KINDS))
DEVICES = {
    "roofline": tiny_platform().devices["gpu0"],
    "engine": Platform.from_mapping(shipped("platform", "a100_host"), "a100_host").devices["gpu0"],
}


class Steps:
    """Two steps: a prompt of 8 tokens beside two that decode, and three that decode."""

    request_tokens = ((8, 1, 1), (1, 1, 1))
    kv_tokens = ((8, 40, 499), (9, 41, 500))
    mixed = True
    samples = None


def test_a_batch_runs_to_its_end():
    trace = random_trace(1, requests=3, tokens=6, layers=4, experts=4, top_k=2, prompt=3)
    done = run(MODEL, trace, tiny_platform(), workload=Workload(batch_size=3), cache_bytes=6 * EXPERT_BYTES)
    assert len(done.requests) == 3
    assert (done.steps.latency_s > 0).all()


@pytest.mark.parametrize("name", DEVICES)
def test_every_kind_of_layer_has_a_cost_on_every_kind_of_device(name):
    rows = DenseCosts(MODEL, DEVICES[name]).table(Steps)
    assert len(rows) == 2
    for row in rows:
        assert len(row) == 5  # four routed layers and the tail
        for total_ps, parts in row:
            assert total_ps == sum(parts) > 0
