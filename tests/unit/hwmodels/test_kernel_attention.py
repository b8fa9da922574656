"""Attention and latent attention: monotone, bounded, and right in their limits."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.datasheet import datasheet
from hwmodels.kernels.attention import KERNELS as ATTENTION
from hwmodels.kernels.mla import KERNELS as MLA

KERNELS = (*ATTENTION, *MLA)
CONTEXT, GENERATION, MLA_CONTEXT, MLA_GENERATION = KERNELS
SHEETS = ("a100_sxm", "b200_sxm", "h100_sxm", "l40s")
SOURCES = (("TRTLLM", "torch_flow"), ("VLLM", "vllm_flash_attn_fa2"), ("VLLM", "vllm_flash_attn_fa3"))


def rows_of(count, **columns):
    base = {
        "framework": "TRTLLM",
        "kernel_source": "torch_flow",
        "batch_size": 4,
        "isl": 512,
        "step": 511,
        "num_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "attn_dtype": "bfloat16",
        "mla_dtype": "bfloat16",
        "kv_cache_dtype": "bfloat16",
        "window_size": 0.0,
    }
    return {name: np.broadcast_to(np.asarray(columns.get(name, value)), count) for name, value in base.items()}


def start(kernel):
    return {name: spec.start for name, spec in kernel.parameters.items()}


@st.composite
def values_of(draw, kernel):
    shares = draw(st.lists(st.floats(0, 1), min_size=len(kernel.parameters), max_size=len(kernel.parameters)))
    specs = kernel.parameters.items()
    return {n: s.low * (s.high / s.low) ** share for (n, s), share in zip(specs, shares, strict=True)}


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_more_requests_or_tokens_never_take_less_and_nothing_is_below_the_floor(kernel, data):
    values = data.draw(st.one_of(st.just(start(kernel)), values_of(kernel)))
    sheet = datasheet(data.draw(st.sampled_from(SHEETS)))
    engine, source = data.draw(st.sampled_from(SOURCES))
    kv_heads = data.draw(st.sampled_from([1, 2, 8]))
    fixed = {
        "framework": engine,
        "kernel_source": source,
        "num_key_value_heads": kv_heads,
        "num_heads": kv_heads * data.draw(st.sampled_from([1, 4, 6, 16, 64])),
        "head_dim": data.draw(st.sampled_from([64, 128, 256])),
        "kv_cache_dtype": data.draw(st.sampled_from(["bfloat16", "fp8"])),
        "window_size": data.draw(st.sampled_from([math.nan, 0.0, 128.0, 8192.0])),
    }
    many = np.unique(np.round(np.geomspace(1, 60_000, 120)).astype(int))
    for name in ("batch_size", "isl", "step"):
        if name in kernel.columns:
            rows = rows_of(len(many), **fixed, **{name: many})
            seconds = kernel.seconds(rows, sheet, values)
            assert np.all(np.isfinite(seconds))
            assert np.all(np.diff(seconds) >= -1e-9 * seconds[1:]), name
            assert np.all(seconds >= kernel.floor(rows, sheet))


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_a_row_alone_takes_what_it_takes_among_others(kernel):
    random = np.random.default_rng(0)
    rows = rows_of(
        50,
        batch_size=random.integers(1, 256, 50),
        isl=random.integers(1, 16384, 50),
        step=random.integers(1, 131071, 50),
        kv_cache_dtype=random.choice(["bfloat16", "fp8"], 50),
    )
    sheet = datasheet("h100_sxm")
    together = kernel.seconds(rows, sheet, start(kernel))
    alone = [kernel.seconds({k: v[i : i + 1] for k, v in rows.items()}, sheet, start(kernel))[0] for i in range(50)]
    assert together.tolist() == pytest.approx(alone, rel=1e-12)


def test_a_long_prompt_runs_at_the_reached_share_of_the_peak():
    sheet, length, dim = datasheet("h100_sxm"), 2**20, 128
    values = start(CONTEXT) | {"exp_s": 1e-13, "wave": 0.01, "tile_s": 1e-9, "compute": 0.5, "power": 8.0}
    rows = rows_of(1, batch_size=1, isl=length, num_heads=32, head_dim=dim)
    flops = 4 * dim * 32 * length * (length + 1) / 2
    assert CONTEXT.seconds(rows, sheet, values)[0] == pytest.approx(flops / (0.5 * 989e12), rel=0.02)


def test_a_large_cache_is_read_at_the_reached_share_of_the_bandwidth():
    sheet = datasheet("h100_sxm")
    values = start(GENERATION) | {"memory": 0.8, "compute": 1.0, "power": 8.0, "unit_s": 1e-9, "head_s": 1e-10}
    rows = rows_of(1, batch_size=256, step=32767, num_heads=8, num_key_value_heads=8)
    size_bytes = 256 * 32768 * 8 * 2 * 128 * 2  # requests, tokens, KV heads, K and V, dim, bf16
    assert GENERATION.seconds(rows, sheet, values)[0] == pytest.approx(size_bytes / (0.8 * 3350e9), rel=0.02)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_almost_no_work_takes_the_launch(kernel):
    low = {name: spec.low for name, spec in kernel.parameters.items()}
    rates = [name for name in ("compute", "memory", "stream_cycle_bytes", "l2_cycle_bytes") if name in low]
    high = {name: kernel.parameters[name].high for name in rates}
    values = low | high | {"launch_cycles": 19800.0}  # 10 µs at 1980 MHz
    rows = rows_of(1, batch_size=1, isl=1, step=1, num_heads=1, num_key_value_heads=1)
    assert kernel.seconds(rows, datasheet("h100_sxm"), values)[0] == pytest.approx(1e-5, rel=0.05)


def test_a_window_bounds_what_is_attended_to():
    # length 1000, window 100: 100 · 101 / 2 pairs while it fills, then 900 · 100
    work = CONTEXT.work(rows_of(1, isl=1000, window_size=100.0), datasheet("h100_sxm"))
    assert work.pairs()[0] == 100 * 101 / 2 + 900 * 100


def test_an_fp8_latent_cache_helps_only_where_kernels_read_it():
    rows = rows_of(2, batch_size=512, step=8191, num_heads=16, kv_cache_dtype=np.array(["bfloat16", "fp8"]))
    for name, ratio in (("l40s", 1.0), ("h100_sxm", 0.5)):
        wide, narrow = MLA_GENERATION.work(rows, datasheet(name)).token_bytes
        assert narrow / wide == ratio


def test_groups_name_engine_kernel_and_dtypes():
    sources = np.array(["torch_flow", "torch_flow", "vllm_flash_attn_fa3", "vllm_flashinfer_fidecode", "new"])
    engines = np.array(["TRTLLM", "TRTLLM", "VLLM", "VLLM", "VLLM"])
    heads = np.array([32, 512, 32, 32, 32])  # 4, then 64 query heads per KV head
    rows = rows_of(5, framework=engines, kernel_source=sources, num_heads=heads)
    assert [name.split("/")[:2] for name in GENERATION.group(rows)] == [
        ["TRTLLM", "trtllm"],
        ["TRTLLM", "mmha"],
        ["VLLM", "fa3"],
        ["VLLM", "flashinfer"],
        ["VLLM", "other"],
    ]


def test_an_unknown_group_takes_the_nearest_dtypes_then_engine():
    known = ["TRTLLM/trtllm/bfloat16+fp8", "VLLM/fa3/bfloat16+bfloat16", "VLLM/triton/bfloat16+fp8"]
    assert CONTEXT.fallback("VLLM/other/bfloat16+bfloat16", known) == known[1]
    assert CONTEXT.fallback("SGLANG/fa3/bfloat16+fp8", known) == known[0]
    assert CONTEXT.fallback("VLLM/fa3/bfloat16+bfloat16", []) is None


def test_what_cannot_be_answered_says_why():
    rows = rows_of(3, batch_size=np.array([1, 0, 1]), kv_cache_dtype=np.array(["fp8", "fp8", "int3"]))
    reasons = CONTEXT.reason(rows, datasheet("h100_sxm"))
    assert reasons[0] == ""
    assert reasons[1] == "column 'batch_size' must be above zero"
    assert "kv_cache_dtype" in reasons[2]
