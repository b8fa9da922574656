"""What rows demand of a device, for every kernel model: grows with the sizes, and no prediction is below the floor."""

import zlib

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.calibrate import MEASUREMENTS
from hwmodels.datasheet import datasheet, datasheet_names
from hwmodels.kernels import Communication, kernels

SIZES = {
    "moe": ("num_tokens", "hidden_size", "inter_size"),
    "gemm": ("m", "n", "k"),
    "attention_context": ("batch_size", "isl"),
    "attention_generation": ("batch_size", "step"),
    "mla_context": ("batch_size", "isl", "num_heads"),
    "mla_generation": ("batch_size", "step", "num_heads"),
    "collectives": ("message_size", "num_gpus"),
    "custom_allreduce": ("message_size", "num_gpus"),
    "expert_all_to_all": ("num_tokens", "hidden_size"),
    "deepep_low_latency_dispatch": ("num_token", "hidden_size", "num_topk"),
    "deepep_low_latency_combine": ("num_token", "hidden_size", "num_topk"),
}


def measured(kernel, count=120):
    """Some rows of the kernel's table, by its columns; of experts those whose loads just follow tokens."""
    table = pd.read_parquet(MEASUREMENTS / f"{kernel.table}.parquet")
    if kernel.name == "moe":
        table = table.query("distribution == 'balanced' and framework == 'TRTLLM'")
    table = table.sample(count, random_state=zlib.crc32(kernel.name.encode()), replace=True)
    return {str(name): table[name].to_numpy() for name in table.columns}


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kernel", kernels().values(), ids=lambda kernel: kernel.name)
def test_more_work_never_demands_less(kernel, data):
    rows = measured(kernel)
    sheet = datasheet(data.draw(st.sampled_from(datasheet_names())))
    more = dict(rows)
    for name in SIZES[kernel.name]:
        more[name] = rows[name] * data.draw(st.integers(1, 5), name)
    for less_work, more_work in zip(kernel.demand(rows, sheet), kernel.demand(more, sheet), strict=True):
        assert np.all(less_work >= 0)
        assert np.all(more_work >= less_work * (1 - 1e-12))


@settings(max_examples=25, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kernel", kernels().values(), ids=lambda kernel: kernel.name)
def test_no_prediction_is_below_the_floor_nor_the_floor_above_the_roofline(kernel, data):
    rows = measured(kernel)
    sheet = datasheet(data.draw(st.sampled_from(datasheet_names())))
    shares = data.draw(st.lists(st.floats(0, 1), min_size=len(kernel.parameters), max_size=len(kernel.parameters)))
    specs = zip(kernel.parameters.items(), shares, strict=True)
    values = {name: spec.low * (spec.high / spec.low) ** share for (name, spec), share in specs}
    compute_s, size_bytes = kernel.demand(rows, sheet)
    floor = kernel.floor(rows, sheet)
    assert np.all(kernel.seconds(rows, sheet, values) >= floor)
    assert np.all(floor <= np.maximum(compute_s, size_bytes / kernel.bandwidth(rows, sheet)) * (1 + 1e-12))
    assert np.all((compute_s == 0) == isinstance(kernel, Communication))


def test_a_product_demands_its_flops_and_each_matrix_once():
    # 2 · 100 · 200 · 300 FLOPs at 989 TFLOP/s; 300·200 weights, 100·300 activations, 100·200 results of 2 bytes
    rows = {"m": [100], "n": [200], "k": [300], "gemm_dtype": ["bfloat16"], "framework": ["VLLM"]}
    compute_s, size_bytes = kernels()["gemm"].demand({k: np.array(v) for k, v in rows.items()}, datasheet("h100_sxm"))
    assert compute_s[0] == pytest.approx(12e6 / 989e12)
    assert size_bytes[0] == 2 * (60000 + 30000 + 20000)


def test_messages_beyond_the_node_are_demanded_of_the_slower_link():
    # two nodes of 8: of 64 · 8 messages half stay near, less the own GPU's 1/16; a NIC is slower than NVLink
    rows = {"node_num": [1, 2], "hidden_size": [7168] * 2, "num_token": [64] * 2, "num_topk": [8] * 2}
    rows["num_experts"] = [256] * 2
    kernel, sheet = kernels()["deepep_low_latency_combine"], datasheet("h100_sxm")
    columns = {name: np.array(values) for name, values in rows.items()}
    message = 7168 * 2
    assert kernel.demand(columns, sheet)[1] == pytest.approx([64 * 8 * 7 / 8 * message, 64 * 8 / 2 * message])
    assert kernel.bandwidth(columns, sheet).tolist() == [sheet.peer_bytes_per_s, sheet.node_bytes_per_s]
