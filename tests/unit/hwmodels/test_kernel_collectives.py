"""Models of collectives and all-reduce: grow with the message, stay above the links, and have Hockney's limits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.datasheet import datasheet
from hwmodels.kernels.collectives import OPERATIONS, Collectives, CustomAllReduce

NCCL, CUSTOM = Collectives(), CustomAllReduce()
SHEETS = ("a100_sxm", "h100_sxm", "l40s", "b200_sxm")


def start(kernel):
    return {name: spec.start for name, spec in kernel.parameters.items()}


def rows(size, gpus, operation="all_reduce", dtype="bfloat16"):
    size, gpus = np.broadcast_arrays(np.atleast_1d(size), np.atleast_1d(gpus))
    text = {"op_name": operation, "nccl_dtype": dtype, "allreduce_dtype": dtype, "kernel_source": "TRTLLM"}
    return {"message_size": size, "num_gpus": gpus} | {
        key: np.full(len(size), value, dtype=object) for key, value in text.items()
    }


@settings(max_examples=150, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kernel", [NCCL, CUSTOM], ids=lambda kernel: kernel.name)
def test_a_longer_message_never_takes_less_time_nor_less_than_physics(kernel, data):
    specs = kernel.parameters
    shares = data.draw(st.lists(st.floats(0, 1), min_size=len(specs), max_size=len(specs)))
    drawn = {n: s.low * (s.high / s.low) ** share for (n, s), share in zip(specs.items(), shares, strict=True)}
    values = data.draw(st.sampled_from([start(kernel), drawn]))
    sheet = datasheet(data.draw(st.sampled_from(SHEETS)))
    sizes = np.sort(data.draw(st.lists(st.integers(1, 2**31), min_size=20, max_size=20)))
    given_rows = rows(sizes, data.draw(st.integers(2, 8)), data.draw(st.sampled_from(OPERATIONS)))
    seconds = kernel.seconds(given_rows, sheet, values)
    assert np.all(np.diff(seconds) >= -1e-12 * seconds[1:])
    assert np.all(seconds >= kernel.floor(given_rows, sheet))
    assert np.all(seconds > 0)


def test_a_huge_all_gather_sends_seven_eighths_over_the_fitted_share_of_the_links():
    # 2³³ bf16 on 8 GPUs: 17.2 GB · (7 + 0.4) / 8 at 0.75 of 450 GB/s
    seconds = NCCL.seconds(rows(2**33, 8, "all_gather"), datasheet("h100_sxm"), start(NCCL))[0]
    assert seconds == pytest.approx(2**34 * 7.4 / 8 / (0.75 * 450e9), rel=0.01)


def test_a_tiny_collective_takes_the_launch_and_its_steps():
    # 7 steps of 1 µs round a ring of 8, 14 for an all-reduce, 1 for alltoall, and 8000 cycles to launch
    times = [
        NCCL.seconds(rows(1, 8, op), datasheet("h100_sxm"), start(NCCL))[0]
        for op in ("all_gather", "all_reduce", "alltoall")
    ]
    assert times == pytest.approx([8000 / 1.98e9 + steps * 1e-6 for steps in (7, 14, 1)], rel=1e-3)


def test_eight_gpus_on_pcie_have_a_quarter_of_the_bandwidth_of_two_at_contention_one():
    # bytes sent per GPU: 7.4 / 8 against 1.4 / 2; bandwidth 1/4
    two, eight = NCCL.seconds(rows(2**33, [2, 8], "all_gather"), datasheet("l40s"), start(NCCL))
    assert eight / two == pytest.approx(4 * (7.4 / 8) / (1.4 / 2), rel=0.01)


def test_a_small_all_reduce_is_one_shot_and_a_large_one_is_handed_to_nccl():
    sheet, values = datasheet("a100_sxm"), start(CUSTOM)
    small = CUSTOM.seconds(rows(128, 8), sheet, values | {"copy": 0.01})[0]
    assert small == pytest.approx(8000 / 1.41e9 + 7 * 1e-6, rel=0.01)  # launch and one step to each of seven peers
    # 2³⁰ bf16: 2 · 7/8 and the own 0.4/8 of 2 GiB over 0.75 of 300 GB/s
    large = CUSTOM.seconds(rows(2**30, 8), sheet, values | {"copy": 0.01, "two_shot_share": 0.9})[0]
    assert large == pytest.approx(2**31 * 1.8 / (0.75 * 300e9), rel=0.02)


def test_an_eager_engine_waits_for_its_host():
    values = start(CUSTOM) | {"host_s": 1e-4}
    assert CUSTOM.seconds(rows(128, 2), datasheet("h100_sxm"), values)[0] == pytest.approx(1e-4, rel=0.01)


@pytest.mark.parametrize("kernel", [NCCL, CUSTOM], ids=lambda kernel: kernel.name)
def test_many_rows_at_once_are_each_as_alone(kernel):
    random = np.random.default_rng(0)
    many = rows(random.integers(1, 2**30, 40), random.integers(2, 9, 40))
    many["op_name"] = np.array(OPERATIONS * 10, dtype=object)
    together = kernel.seconds(many, datasheet("b200_sxm"), start(kernel))
    alone = [
        kernel.seconds({k: v[i : i + 1] for k, v in many.items()}, datasheet("b200_sxm"), start(kernel))[0]
        for i in range(40)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_an_unknown_implementation_falls_back_to_one_launched_alike():
    known = ["TRTLLM", "vLLM_custom_eager", "vLLM_custom_graph"]
    assert CUSTOM.fallback("sglang_eager", known) == "vLLM_custom_eager"
    assert CUSTOM.fallback("sglang_graph", known) == "vLLM_custom_graph"


def test_a_row_that_is_no_collective_says_why():
    assert NCCL.reason(rows(8, [2, 1]), datasheet("l40s")).tolist() == ["", "num_gpus must be at least 2"]
    assert "op_name 'gossip'" in NCCL.reason(rows(8, 2, "gossip"), datasheet("l40s"))[0]
