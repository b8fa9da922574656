"""Tables of costs on a GPU whose engine has fitted kernel models."""

from dataclasses import replace

import numpy as np
import pytest

from hwmodels import Platform, operators, time_s
from simulator.engine import PS_PER_S
from simulator.plan import Block
from simulator.runtime.costs import DenseCosts, ExpertCosts
from tests.helpers import tiny_model

GPU = {
    "kind": "gpu",
    "source": "made up",
    "datasheet": "l40s",
    "engine": "VLLM",
    "launch_overhead_s": "4 us",
}
BOX = {
    "name": "box",
    "workers": ["gpu0"],
    "home": "dram",
    "devices": {
        "gpu0": GPU,
        "dram": {
            "kind": "dram",
            "memory_capacity_bytes": "64 GiB",
            "memory_read_bytes_per_s": "80 GB/s",
            "source": "made up",
        },
    },
    "links": [
        {"name": "pcie0", "kind": "pcie", "a": "dram", "b": "gpu0", "bandwidth_bytes_per_s": 3e10, "source": "made up"}
    ],
}


@pytest.fixture(scope="module")
def gpu():
    return Platform.from_mapping(BOX).device("gpu0")


def model():
    return replace(tiny_model(2, 8, 2), hidden=1024, vocab=32000)


def seconds(model, works, device):
    return sum(float(time_s(work, device)) for work in works)


def test_a_decoded_token_costs_the_sum_of_its_kernels(gpu):
    spec = model()
    block = Block(False, [[1], [1]], [[500], [501]])
    (first, *_), _ = DenseCosts(spec, gpu).table(block)
    works = [spec.embedding_work(1), *spec.layer_dense_work(0, 1, 500)]
    assert first[0] / PS_PER_S == pytest.approx(seconds(spec, works, gpu), rel=1e-6)


def test_a_batch_attends_in_one_launch_over_the_mean_length(gpu):
    spec = model()
    alike, mixed = (
        DenseCosts(spec, gpu).table(Block(False, [[1, 1, 1]], [kv]))[0][1][0] for kv in ([600] * 3, [300, 600, 900])
    )
    assert mixed == alike  # the same number of cached tokens
    one = DenseCosts(spec, gpu).table(Block(False, [[1]], [[600]]))[0][1][0]
    assert one < mixed < 3 * one


def test_prompts_of_a_batch_count_by_their_squares(gpu):
    spec = replace(model(), hidden=256)
    even, uneven = (
        DenseCosts(spec, gpu)._layer(0, Block(True, [n], [n]), None, np.array([float(sum(n))])).sum()
        for n in ([4000, 4000], [1000, 7000])
    )
    assert uneven > even


def test_resident_experts_in_one_launch_cost_less_than_one_by_one(gpu):
    costs = ExpertCosts(model(), [10**6] * 2, gpu)
    together, (launch, _, _) = costs.together(0, (1, 1, 1))
    assert together < 3 * costs.together(0, (1,))[0]
    assert 0 < launch < together
    assert costs.single(3)[0][3] == (together, costs.together(0, (1, 1, 1))[1])
    assert costs.together(0, ()) == (0, (0, 0, 0))


@pytest.mark.parametrize("engine", ["VLLM", ""])
def test_the_first_experts_of_a_layer_cost_what_each_of_these_launches_does(gpu, engine):
    spec = model()
    costs = ExpertCosts(spec, [spec.expert_bytes] * 2, replace(gpu, engine=engine))
    for tokens in ([], [1], [40, 7, 7, 1], [1, 300, 2]):
        asked = [costs.together(1, tokens[:count])[0] for count in range(len(tokens) + 1)]
        assert list(costs.firsts_ps(1, tokens)) == asked


def test_an_expert_of_more_bytes_takes_longer(gpu):
    spec = replace(model(), expert_intermediate=1024)
    sizes = [round(spec.expert_params * bits / 8) for bits in (13, 14, 16)]  # all by the kernels of 16 bits
    times = [ExpertCosts(spec, [size], gpu).together(0, (1, 1))[0] for size in sizes]
    assert times[2] - times[1] == pytest.approx(2 * (times[1] - times[0]), rel=0.05)


def test_widths_that_a_kernel_was_not_measured_for_fall_back_to_the_roofline(gpu):
    work = operators.attention(1, 100, 100, 8, 64, 64, 100, "bf16")  # no shape: no kernel model
    overhead = gpu.launch_overhead_s
    assert time_s(work, gpu) > overhead
    assert gpu.kernels.seconds(work) is None


def test_a_launch_costs_the_same_whatever_was_asked_before(gpu):
    """Equal tiles and pairs do not make equal launches: one even, one with a token alone."""
    spec = replace(model(), experts=16, top_k=8)
    even, uneven = [(24,) * 4, (17, 31, 24, 24)], [(17, 31, 24, 24), (24,) * 4]
    found = []
    for order in (even, uneven):
        costs = ExpertCosts(replace(spec), [spec.expert_bytes], gpu)  # a copy has tables of its own
        found.append({asked: costs.together(0, asked) for asked in order})
    assert found[0] == found[1]
    assert costs.together(0, (31, 24, 17, 24)) == found[0][(17, 31, 24, 24)]
