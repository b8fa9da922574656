"""Operations of a model on a GPU whose engine has fitted kernel models."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import Device, floor_s, operators, split_s, time_s
from hwmodels.datasheet import datasheet, datasheet_names
from hwmodels.kernels import kernels
from hwmodels.kernels.moe import TILES
from hwmodels.predict import fitted
from simulator.runtime.costs import ExpertCosts
from tests.helpers import tiny_model


def gpu(name="a100_sxm", engine="VLLM", **changes):
    sheet = datasheet(name)
    keys = ("peak_flop_per_s", "memory_read_bytes_per_s", "memory_capacity_bytes")
    facts = {key: getattr(sheet, key) for key in keys}
    device = Device(kind="gpu", name="gpu0", source="made up", launch_overhead_s=4e-6, datasheet=name, engine=engine)
    return replace(device, **{**facts, **changes})


def cold(name):
    return replace(datasheet(name), l2_bytes=1)


def test_a_product_takes_what_its_kernel_model_says_with_a_cold_cache():
    work = operators.gemm(np.array([[1, 16], [256, 0]]), n=4096, k=2048, weight_bits=16, dtype="bf16")
    rows = {
        "framework": np.full(3, "VLLM", dtype=object),
        "gemm_dtype": np.full(3, "bfloat16", dtype=object),
        "m": np.array([1.0, 16.0, 256.0]),
        "n": np.full(3, 4096.0),
        "k": np.full(3, 2048.0),
    }
    values = fitted("gemm").groups["VLLM/bfloat16"]["devices"]["a100_sxm"]
    expected = kernels()["gemm"].seconds(rows, cold("a100_sxm"), values)
    assert time_s(work, gpu()).ravel() == pytest.approx([*expected, 0.0])


def test_balanced_experts_take_what_the_model_of_measured_layers_says():
    tokens, experts, k = 256, 16, 4
    rows = {
        "framework": ["VLLM"],
        "version": ["0.17.0"],
        "kernel_source": ["vllm_triton_moe"],
        "moe_dtype": ["bfloat16"],
        "distribution": ["balanced"],
        "num_tokens": [tokens],
        "hidden_size": [2048],
        "inter_size": [1024],
        "topk": [k],
        "num_experts": [experts],
        "moe_tp_size": [1],
        "moe_ep_size": [1],
    }
    rows = {name: np.array(value, dtype=object if isinstance(value[0], str) else float) for name, value in rows.items()}
    values = fitted("moe").groups["VLLM/bfloat16/triton"]["devices"]["h100_sxm"]
    (expected,) = kernels()["moe"].seconds(rows, cold("h100_sxm"), values)
    times = gpu("h100_sxm").kernels.experts(2048, 1024, 3, experts, 3 * 2048 * 1024 * 2, "bf16")
    load = tokens * k // experts
    tiles = np.array([[experts * -(-load // tile)] for tile in TILES], dtype=float)
    overhead, busy = times.seconds(*(np.array([float(n)]) for n in (tokens, tokens * k, experts)), tiles)
    assert overhead[0] + busy[0] == pytest.approx(expected)


@pytest.mark.parametrize("engine", ["VLLM", "TRTLLM"])
@pytest.mark.parametrize("name", datasheet_names())
def test_every_operation_is_answered_on_every_device(name, engine):
    device = gpu(name, engine)
    formats = [(16, 16, "bf16"), (8, 8, "fp8"), (4.25, 16, "bf16"), (4.5, 8, "fp4"), (4, 16, "bf16")]
    for bits, kv_bits, arithmetic in formats:
        model = tiny_model(2, 8, 2)
        model = replace(model, default_bits=bits, kv_bits=kv_bits, dtype=arithmetic, hidden=256)
        works = [*model.layer_dense_work(0, np.array([1, 1, 300]), np.array([1, 900, 300])), *model.head_work(1)]
        for work in works:
            overhead, busy = split_s(work, device)
            assert (overhead >= 0).all()
            assert (busy > 0).all()
            assert (overhead + busy >= floor_s(work, device)).all()
        total, split = ExpertCosts(model, [model.expert_bytes], device).together(0, (1, 3, 40))
        assert total == sum(split)
        assert split[0] > 0
    assert all(choice.origin.startswith(("fitted on", "from ")) for choice in device.kernels.choices.values())


def test_a_measured_device_has_its_own_parameters_its_kin_theirs_and_others_those_like_it():
    for name, origin in (("l40s", "fitted on l40s"), ("rtx_4090", "fitted on l40s"), ("t4", "from a100_sxm")):
        assert gpu(name).kernels.choice("gemm", "bfloat16").origin.startswith(origin)


def test_kernels_of_the_device_go_before_those_of_most_devices():
    assert gpu("h100_sxm").kernels.choice("attention_generation", "bfloat16+bfloat16").group.split("/")[1] == "fa3"
    assert gpu("l40s").kernels.choice("attention_generation", "bfloat16+bfloat16").group.split("/")[1] == "fa2"
    assert gpu("h100_sxm").kernels.choice("moe", "bfloat16").group == "VLLM/bfloat16/triton"


def test_bandwidth_of_the_platform_counts_not_that_of_the_datasheet():
    work = operators.gemm(1, n=16384, k=16384, weight_bits=16, dtype="bf16")
    fast = gpu(memory_read_bytes_per_s=2 * gpu().memory_read_bytes_per_s)
    assert time_s(work, fast) < 0.7 * time_s(work, gpu())


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 3000), min_size=2, max_size=12),
    st.integers(1, 11),
    st.sampled_from(["a100_sxm", "l40s", "b200_sxm", "t4"]),
)
def test_no_division_into_launches_takes_less_than_the_least(counts, cut, name):
    model = replace(tiny_model(2, 16, 4), hidden=512, expert_intermediate=256)
    costs = ExpertCosts(model, [model.expert_bytes] * 2, gpu(name))
    cut = min(cut, len(counts) - 1)
    least = costs.least_ps(0, counts)
    assert least <= costs.together(0, counts)[0] + 1  # rounded to a picosecond
    assert least <= costs.together(0, counts[:cut])[0] + costs.together(0, counts[cut:])[0] + 1
    assert costs.together(0, counts)[0] <= costs.together(0, [*counts[:-1], counts[-1] + 64])[0]
    ideal = ExpertCosts(model, [model.expert_bytes] * 2, gpu(name), ideal=True)
    assert ideal.together(0, counts)[0] <= least


def test_a_chunk_of_a_prompt_costs_less_than_the_prompt_and_the_chunks_together_more():
    device = gpu("h100_sxm")
    model = replace(tiny_model(2, 8, 2), hidden=1024)
    whole, first, second = (
        float(time_s(model.attention_work(0, new, length, phase="prefill"), device))
        for new, length in ((2000, 2000), (1000, 1000), (1000, 2000))
    )
    assert first < second < whole < first + second + 1e-5
