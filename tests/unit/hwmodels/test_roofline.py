import numpy as np
import pytest

from hwmodels import Device, PlatformError, floor_s, is_memory_bound, operators, time_s
from hwmodels.efficiency import DEFAULTS, efficiency
from hwmodels.roofline import peak_flop_per_s

GPU = Device(
    kind="gpu",
    source="made up",
    name="gpu0",
    peak_flop_per_s={"fp16": 100.0, "fp32": 50.0},
    memory_read_bytes_per_s=10.0,
    launch_overhead_s=1.0,
    compute_efficiency={"gemm": 0.5},
    memory_efficiency={"gemm": 0.8},
)


def work(flops, size_bytes, dtype="fp16", kind="gemm"):
    return operators.Work(kind, dtype, np.asarray(flops, float), np.asarray(size_bytes, float))


def test_time_is_overhead_plus_the_slower_of_compute_and_memory():
    # compute: 400 / (100 · 0.5) = 8 s; memory: 40 / (10 · 0.8) = 5 s, 80 / 8 = 10 s
    assert time_s(work([400, 400], [40, 80]), GPU) == pytest.approx([1 + 8, 1 + 10])
    assert is_memory_bound(work([400, 400], [40, 80]), GPU).tolist() == [False, True]


def test_the_floor_has_no_overhead_and_full_efficiency():
    assert floor_s(work([400, 400], [30, 80]), GPU) == pytest.approx([4.0, 8.0])  # 400/100, 80/10


def test_no_work_takes_no_time():
    assert time_s(work(0, 0), GPU) == 0.0


@pytest.mark.parametrize(
    ("dtype", "peak"), [("fp16", 100.0), ("bf16", 100.0), ("fp8", 100.0), ("int4", 100.0), ("mxfp4", 100.0)]
)
def test_a_missing_dtype_falls_back_along_the_chain(dtype, peak):
    assert peak_flop_per_s(GPU, dtype) == peak


def test_half_precision_becomes_fp32_where_there_is_none():
    avx = Device(kind="cpu", source="made up", name="cpu", peak_flop_per_s={"fp32": 7.0})
    assert peak_flop_per_s(avx, "bf16") == 7.0


def test_a_dtype_with_no_wider_one_on_the_device_is_refused():
    tensor_only = Device(kind="gpu", source="made up", name="gpu0", peak_flop_per_s={"fp8": 1.0})
    with pytest.raises(PlatformError, match="'gpu0' has no peak_flop_per_s for bf16"):
        peak_flop_per_s(tensor_only, "bf16")


def test_own_efficiency_wins_over_the_default_of_the_kind():
    assert efficiency(GPU, "gemm") == (0.5, 0.8)
    assert efficiency(GPU, "attention") == (
        DEFAULTS["gpu"][0]["attention"],
        DEFAULTS["gpu"][1]["attention"],
    )


def test_a_memory_does_not_compute():
    dram = Device(kind="dram", source="made up", name="dram", memory_read_bytes_per_s=1.0)
    assert efficiency(dram, "copy").memory == DEFAULTS["dram"][1]["copy"]
    with pytest.raises(PlatformError, match="'dram' of kind dram does not do 'gemm'"):
        time_s(work(1, 1), dram)


def test_a_matrix_product_counts_two_operations_per_weight_and_token():
    product = operators.gemm([0, 1, 3], n=2, k=3, weight_bits=16, dtype="bf16")
    assert product.flops.tolist() == [0, 12, 36]
    assert product.size_bytes.tolist() == [0, 12 + 10, 12 + 30]  # weights once; 5 values of 2 bytes a token


@pytest.mark.parametrize("window", [None, 1, 3, 5, 8, 100])
@pytest.mark.parametrize(("tokens", "kv_len"), [(0, 4), (1, 1), (1, 8), (4, 4), (4, 8), (8, 8)])
def test_causal_pairs_equal_the_count_query_by_query(tokens, kv_len, window):
    positions = range(kv_len - tokens + 1, kv_len + 1)
    expected = sum(min(position, window or position) for position in positions)
    assert operators.attended_pairs(tokens, kv_len, window) == expected


def test_without_causality_each_query_sees_all_keys_of_its_window():
    assert operators.attended_pairs(3, 10, None, causal=False) == 30
    assert operators.attended_pairs(3, 10, 4, causal=False) == 12


def test_attention_reads_the_cache_once_and_writes_one_entry_per_token():
    step = operators.attention(
        2, pairs=7, kv_read_tokens=5, heads=3, key_dim=4, value_dim=2, kv_token_bytes=10, dtype="bf16"
    )
    assert step.flops == 2 * 7 * 3 * (4 + 2)
    assert step.size_bytes == (5 + 2) * 10 + 2 * 3 * (4 + 2) * 2
