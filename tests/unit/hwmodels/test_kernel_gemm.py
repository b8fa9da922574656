"""The model of dense products: grows with m, n and k, stays above physics, and has the limits that one works out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.datasheet import datasheet
from hwmodels.kernels.gemm import DTYPES, Gemm

GEMM = Gemm()
START = {name: spec.start for name, spec in GEMM.parameters.items()}
SHEETS = ("a100_sxm", "h100_sxm", "l40s", "b200_sxm", "rtx_pro_6000_server")
SIZES = st.integers(1, 70000)


def rows(m, n, k, dtype="bfloat16", framework="TRTLLM"):
    m, n, k = np.broadcast_arrays(*(np.atleast_1d(np.asarray(x, dtype=np.int64)) for x in (m, n, k)))
    text = np.full(len(m), dtype, dtype=object)
    return {"m": m, "n": n, "k": k, "gemm_dtype": text, "framework": np.full(len(m), framework, dtype=object)}


@st.composite
def parameters(draw):
    """Any values within the bounds of the fit."""
    shares = draw(st.lists(st.floats(0, 1), min_size=len(START), max_size=len(START)))
    specs = GEMM.parameters.items()
    return {name: spec.low * (spec.high / spec.low) ** share for (name, spec), share in zip(specs, shares, strict=True)}


@settings(max_examples=150, deadline=None)
@given(
    values=st.one_of(st.just(START), parameters()),
    sheet=st.sampled_from(SHEETS),
    dtype=st.sampled_from(sorted(DTYPES)),
    framework=st.sampled_from(["TRTLLM", "VLLM"]),
    shape=st.tuples(SIZES, SIZES, SIZES),
    axis=st.integers(0, 2),
    more=st.lists(SIZES, min_size=20, max_size=20),
)
def test_a_larger_product_never_takes_less_time_nor_less_than_physics(
    values, sheet, dtype, framework, shape, axis, more
):
    sizes = [np.full(20, size) for size in shape]
    sizes[axis] = np.sort(more)
    given_rows = rows(*sizes, dtype=dtype, framework=framework)
    seconds = GEMM.seconds(given_rows, datasheet(sheet), values)
    assert np.all(np.diff(seconds) >= -1e-12 * seconds[1:])
    assert np.all(seconds >= GEMM.floor(given_rows, datasheet(sheet)))
    assert np.all(np.isfinite(seconds))
    assert np.all(seconds > 0)


def test_a_huge_product_runs_at_the_fitted_share_of_the_peak():
    # 2 · 131072³ FLOP at 0.7 of 989 TFLOP/s; tiles' prologue costs 100 of 131072 steps, memory less than a hundredth
    side, sheet = 131072, datasheet("h100_sxm")
    seconds = GEMM.seconds(rows(side, side, side), sheet, START)[0]
    assert seconds == pytest.approx(2 * side**3 / (989e12 * 0.7), rel=0.02)


def test_a_tiny_product_takes_the_launch():
    # a tile: 64 of k for 2 · 4096 outputs, 100 for 2 · 512 at 0.7 · 989 TFLOP/s / 132 are 0.12 µs beside 5000 cycles
    seconds = GEMM.seconds(rows(1, 32, 32), datasheet("h100_sxm"), START)[0]
    assert seconds == pytest.approx(5000 / 1.98e9 + 0.12e-6, rel=0.01)


def test_a_long_stream_of_weights_runs_at_the_fitted_share_of_the_bandwidth():
    # one token by 65536² weights in bf16: 8.6 GB at 0.85 of 3350 GB/s
    seconds = GEMM.seconds(rows(1, 65536, 65536), datasheet("h100_sxm"), START | {"overlap": 8.0})[0]
    assert seconds == pytest.approx(2 * 65536**2 / (0.85 * 3350e9), rel=0.03)


def test_weights_that_fit_the_cache_are_read_faster_only_while_their_copies_fit():
    # six copies of 8 MiB of weights fit 96 MiB of L2, of 40 MiB they do not; DRAM would take 9.7 and 48.5 µs
    sheet = datasheet("l40s")
    small, large = GEMM.seconds(rows(1, [2048, 10240], 2048), sheet, START | {"l2_share": 1.0, "launch_cycles": 1.0})
    assert small < 0.6 * 9.7e-6
    assert large > 48.5e-6


def test_one_tile_more_than_the_gpu_has_processors_costs_a_second_wave():
    # 12 × 11 tiles of 128×256 fill an H100 once; smaller tiles cost as much, splits of k are too dear
    values = START | {"split_s": 1e-2, "overlap": 8.0, "small_tile": 128 * 256}
    full, more = GEMM.seconds(rows([128 * 12, 128 * 12 + 1], 256 * 11, 8192), datasheet("h100_sxm"), values)
    assert more / full == pytest.approx(2.0, rel=0.02)


def test_many_rows_at_once_are_each_as_alone():
    random = np.random.default_rng(0)
    names = np.array(sorted(DTYPES), dtype=object)[random.integers(0, len(DTYPES), 50)]
    many = {key: random.integers(1, 20000, 50) for key in ("m", "n", "k")}
    many |= {"gemm_dtype": names, "framework": np.array(["TRTLLM", "VLLM"] * 25, dtype=object)}
    together = GEMM.seconds(many, datasheet("b200_sxm"), START)
    alone = [
        GEMM.seconds({key: value[i : i + 1] for key, value in many.items()}, datasheet("b200_sxm"), START)[0]
        for i in range(50)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_a_group_that_was_not_measured_falls_back_to_its_dtype_then_to_the_nearest():
    known = ["TRTLLM/bfloat16", "TRTLLM/fp8", "TRTLLM/int4_wo", "VLLM/bfloat16", "VLLM/fp8_block/DeepGemm"]
    assert GEMM.fallback("SGLANG/fp8", known) == "TRTLLM/fp8"
    assert GEMM.fallback("VLLM/float16", known) == "VLLM/bfloat16"
    assert GEMM.fallback("VLLM/fp8_block/Marlin", known) == "VLLM/fp8_block/DeepGemm"
    assert GEMM.fallback("VLLM/int8_wo", known) == "TRTLLM/int4_wo"
    assert GEMM.fallback("VLLM/nvfp4", known) == "TRTLLM/fp8"


def test_a_row_that_is_no_product_says_why():
    given_rows = rows([4, 0], 128, 128)
    assert GEMM.reason(given_rows, datasheet("l40s")).tolist() == ["", "m must be above zero"]
    assert "gemm_dtype 'fp3'" in GEMM.reason(rows(4, 4, 4, dtype="fp3"), datasheet("l40s"))[0]
