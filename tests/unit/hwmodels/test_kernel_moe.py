"""Expert kernels: loads counted by hand, limits in closed form, never faster than physics, never less for more work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.datasheet import datasheet
from hwmodels.kernels import kernels
from hwmodels.kernels.expert_loads import RULES, TILES, Loads, expert_loads
from hwmodels.kernels.moe import DTYPES, Moe

MODEL = Moe()
START = {name: parameter.start for name, parameter in MODEL.parameters.items()}
DEVICES = ("a100_sxm", "h100_sxm", "l40s", "b200_sxm", "rtx_pro_6000_server")
SOURCES = (
    "moe_torch_flow_cutlass",
    "moe_torch_flow_nongated",
    "deepgemm",
    "vllm_fp8moe_triton_tritonexperts",
    "marlin",
)
SHAPE = {
    "framework": "TRTLLM",
    "version": "1.3.0rc20",
    "kernel_source": "moe_torch_flow_cutlass",
    "moe_dtype": "bfloat16",
    "distribution": "balanced",
    "num_tokens": 64,
    "hidden_size": 4096,
    "inter_size": 1536,
    "topk": 8,
    "num_experts": 128,
    "moe_tp_size": 1,
    "moe_ep_size": 1,
}


def rows(**changes):
    """Columns of one row for each entry of the longest change."""
    count = max((len(value) for value in changes.values() if isinstance(value, list | np.ndarray)), default=1)
    columns = {}
    for name, value in (SHAPE | changes).items():
        column = np.array(value if isinstance(value, list | np.ndarray) else [value] * count)
        columns[name] = column.astype(object) if column.dtype.kind == "U" else column
    return columns


def seconds(device="h100_sxm", values=START, **changes):
    return MODEL.seconds(rows(**changes), datasheet(device), values)


def loads(tokens, topk, experts, ranks, exponent=0.0, rule="level", groups=1) -> Loads:
    one = [np.array([value]) for value in (tokens, topk, experts, ranks, exponent, RULES.index(rule), groups)]
    return expert_loads(*one)


@st.composite
def problems(draw, distributions=("balanced", "power_law_1.01", "power_law_1.2")):
    """A row apart from its tokens, a device, and parameters within their bounds."""
    experts = draw(st.sampled_from([8, 16, 60, 128, 256, 384, 512]))
    ranks = draw(st.sampled_from([rank for rank in (1, 2, 4, 8, 16, 32, 64, 128) if experts % rank == 0]))
    shape = {
        "num_experts": experts,
        "moe_ep_size": ranks,
        "topk": draw(st.sampled_from([topk for topk in (1, 2, 4, 6, 8, 10, 22) if topk <= experts])),
        "moe_tp_size": draw(st.sampled_from([1, 2, 8])),
        "hidden_size": draw(st.sampled_from([1024, 2880, 7168])),
        "inter_size": draw(st.sampled_from([512, 1856, 14336])),
        "moe_dtype": draw(st.sampled_from(sorted(DTYPES))),
        "kernel_source": draw(st.sampled_from(SOURCES)),
        "distribution": draw(st.sampled_from(distributions)),
    }
    unit = st.floats(0, 1)
    values = {name: p.low * (p.high / p.low) ** draw(unit) for name, p in MODEL.parameters.items()}
    return shape, draw(st.sampled_from(DEVICES)), draw(st.sampled_from([START, values]))


def grows(times):
    """Whether no entry is below the one before, apart from rounding."""
    return bool(np.all(np.diff(times) >= -1e-9 * times[1:]))


# ---- loads


def test_balanced_tokens_go_to_experts_in_strides():
    # 4 tokens, 2 of 4 experts, stride 2: token t has experts t and t + 2, so that each expert has 2 tokens
    whole, half = loads(4, 2, 4, 1), loads(4, 2, 4, 2)
    assert (whole.pairs[0], whole.active[0], whole.tiles[0, 0]) == (8, 4, 4)
    assert (half.pairs[0], half.active[0]) == (4, 2)


def test_one_balanced_token_has_one_expert_on_the_first_of_two_ranks():
    # k = 2, E = 8: stride 4, experts 0 and 4; rank 0 of 2 has experts 0 to 3
    assert (loads(1, 2, 8, 2).pairs[0], loads(1, 2, 8, 2).active[0]) == (1, 1)


def test_tiles_are_counted_whole():
    # 1000 tokens on each of 8 experts: ceil(1000 / 16) = 63, ceil(1000 / 32) = 32, ceil(1000 / 64) = 16, 8 of 128
    assert loads(4000, 2, 8, 1).tiles[:, 0].tolist() == [8 * 63, 8 * 32, 8 * 16, 8 * 8]


def test_limited_groups_put_every_token_on_the_first_four_experts():
    # 64 tokens, 8 of 256 experts, 8 groups of 32 of which 4 may be used: each token keeps its 4 choices in the first
    # half and fills up with experts 0 to 3; all pairs are on the first of two ranks
    limited = loads(64, 8, 256, 2, groups=8)
    assert limited.pairs[0] == pytest.approx(64 * 8)
    assert limited.active[0] == 128
    assert loads(64, 8, 256, 64, groups=8).pairs[0] == 4 * 64  # experts 0 to 3


@pytest.mark.parametrize("tokens", [1, 7, 64, 500, 16384])
@pytest.mark.parametrize(("topk", "experts"), [(1, 16), (8, 256), (22, 512)])
def test_a_single_rank_has_all_pairs_of_a_power_law(tokens, topk, experts):
    for exponent in (1.0, 1.01, 1.2):
        assert loads(tokens, topk, experts, 1, exponent).pairs[0] == pytest.approx(tokens * topk, rel=0.02)


def test_the_busiest_rank_of_a_power_law_has_more_than_its_share():
    for ranks, times in ((2, 1.05), (8, 1.2), (64, 2.0)):
        assert loads(4096, 8, 256, ranks, 1.2).pairs[0] > times * 4096 * 8 / ranks


def test_a_skewed_load_leaves_experts_idle():
    assert loads(64, 8, 256, 1, 1.2).active[0] < 0.9 * loads(64, 8, 256, 1).active[0]


def test_left_over_of_older_measurements_piles_up_on_one_rank():
    # one token, 8 of 256 experts on 16 ranks: popularities round to nothing, and the 8 pairs go to 8 ranks or to one
    assert [loads(1, 8, 256, 16, 1.01, rule).pairs[0] for rule in RULES] == pytest.approx([1, 8, 8])


# ---- closed forms


def test_few_tokens_cost_the_overhead():
    # L40S: 1 token, 1 expert of 2 · 3 · 64 · 64 bytes: less than 1 us of work beside the overhead
    values = START | {"ramp_s": 1e-8, "route_s": 1e-10, "expert_s": 1e-9, "pair_s": 1e-10}
    values |= {"launch_cycles": 2e-5 * 2.52e9, "step_cycles": 0.2}
    tiny = {"num_tokens": 1, "topk": 1, "num_experts": 1, "hidden_size": 64, "inter_size": 64}
    assert seconds("l40s", values, **tiny)[0] == pytest.approx(2e-5, rel=0.05)


def test_many_tokens_cost_their_flops_at_the_reached_peak():
    # 2 · 3 · 16384 · 16384 FLOPs for each of 2^20 pairs in full tiles of 128, each worth 128 + 32 rows of time
    values = START | {"compute": 0.5, "tile": 32.0, "overlap": 8.0, "pair_traffic": 0.05, "token_traffic": 0.05}
    large = {"num_tokens": 2**20, "topk": 1, "num_experts": 1, "hidden_size": 16384, "inter_size": 16384}
    expected = 6 * 16384**2 * 2**20 * (160 / 128) / (0.5 * 989e12)
    assert seconds(values=values, **large)[0] == pytest.approx(expected, rel=0.02)


def test_many_experts_with_one_token_cost_their_weights_at_the_reached_bandwidth():
    # 64 tokens, 8 of 256 experts, balanced: all 256 active; 256 · 3 · 7168 · 2048 weights of 2 bytes
    values = START | {"stream": 0.9, "overlap": 8.0, "expert_s": 1e-9}
    wide = {"num_tokens": 64, "num_experts": 256, "hidden_size": 7168, "inter_size": 2048}
    expected = 256 * 3 * 7168 * 2048 * 2 / (0.9 * 3.35e12)
    assert seconds(values=values, **wide)[0] == pytest.approx(expected, rel=0.03)


def test_experts_without_a_gate_have_two_matrices():
    large = {"num_tokens": 64, "num_experts": 256, "hidden_size": 8192, "inter_size": 8192}
    gated, plain = seconds(kernel_source=["moe_torch_flow", "moe_torch_flow_nongated"], **large)
    assert plain / gated == pytest.approx(2 / 3, rel=0.02)


def test_weights_that_fit_in_the_cache_are_read_faster_than_from_memory():
    # L40S, 8 experts of 3 · 4096 · 384 · 2 bytes: 75.5 of 100.7 MB of cache, 87 us from memory at 864 GB/s
    warm = seconds("l40s", num_tokens=8, topk=1, num_experts=8, inter_size=384)[0]
    assert warm < 8 * 3 * 4096 * 384 * 2 / 864e9


def test_triton_moves_rows_of_pairs_that_are_not_local():
    shape = {"num_tokens": 16384, "moe_ep_size": 64}
    cutlass, triton = seconds(kernel_source=["moe_torch_flow_cutlass", "vllm_x_triton_tritonexperts"], **shape)
    assert triton > 3 * cutlass


# ---- properties


@settings(max_examples=60, deadline=None)
@given(problems(), st.lists(st.integers(1, 70000), min_size=2, max_size=12))
def test_more_tokens_never_take_less(problem, tokens):
    shape, device, values = problem
    assert grows(seconds(device, values, num_tokens=sorted(tokens), **shape))


@settings(max_examples=40, deadline=None)
@given(problems(), st.integers(1, 20000), st.sampled_from(["hidden_size", "inter_size"]))
def test_wider_experts_never_take_less(problem, tokens, name):
    shape, device, values = problem
    shape = shape | {name: [512, 1024, 1536, 4096, 5120, 14336]}
    assert grows(seconds(device, values, num_tokens=tokens, **shape))


@settings(max_examples=40, deadline=None)
@given(problems(distributions=("balanced",)), st.integers(1, 20000))
def test_more_experts_never_take_less(problem, tokens):
    shape, device, values = problem
    shape = shape | {"topk": 8, "moe_ep_size": 1, "num_experts": [8, 16, 32, 64, 128, 256, 512]}
    assert grows(seconds(device, values, num_tokens=tokens, **shape))


@settings(max_examples=60, deadline=None)
@given(problems(), st.integers(1, 70000))
def test_never_faster_than_the_floor(problem, tokens):
    shape, device, values = problem
    table, sheet = rows(num_tokens=tokens, **shape), datasheet(device)
    floor = MODEL.floor(table, sheet)
    assert floor[0] > 0 or MODEL.seconds(table, sheet, values)[0] > 0
    assert MODEL.seconds(table, sheet, values)[0] >= floor[0]


def test_floor_is_flops_over_peak_or_weights_over_bandwidth():
    sheet = datasheet("h100_sxm")
    many = MODEL.floor(rows(num_tokens=16384), sheet)[0]
    assert many == pytest.approx(16384 * 8 * 6 * 4096 * 1536 / 989e12)
    few = MODEL.floor(rows(num_tokens=16), sheet)[0]
    assert few == pytest.approx((128 * 3 * 4096 * 1536 * 2 - 50 * 2**20) / 3.35e12)


def test_rows_together_are_as_rows_alone():
    tokens, ranks = [1, 3, 100, 100, 5000, 40000], [1, 8, 1, 2, 64, 128]
    routing = ["balanced", "power_law_1.2", "power_law_1.01", "balanced", "power_law_1.2", "balanced"]
    together = seconds(num_tokens=tokens, moe_ep_size=ranks, distribution=routing)
    alone = [
        seconds(num_tokens=t, moe_ep_size=r, distribution=d)[0] for t, r, d in zip(tokens, ranks, routing, strict=True)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


# ---- the interface


def test_is_found_among_the_kernels():
    assert isinstance(kernels()["moe"], Moe)
    assert len(TILES) == 4


def test_groups_name_engine_dtype_and_kind():
    sources = ["moe_torch_flow", "moe_torch_flow_nongated", "deepgemm", "vllm_fused_moe"]
    expected = ["cutlass", "nongated", "deepgemm", "fused_moe"]
    assert MODEL.group(rows(kernel_source=sources)).tolist() == [f"TRTLLM/bfloat16/{kind}" for kind in expected]


def test_an_unknown_group_falls_back_to_its_dtype_then_kind_then_engine():
    known = ["TRTLLM/bfloat16/nongated", "TRTLLM/fp8/cutlass", "VLLM/fp8/triton", "VLLM/nvfp4/trtllm"]
    assert MODEL.fallback("VLLM/fp8/cutlass", known) == "TRTLLM/fp8/cutlass"
    assert MODEL.fallback("TRTLLM/fp8/deepgemm", known) == "TRTLLM/fp8/cutlass"
    assert MODEL.fallback("VLLM/w4a16_mxfp4/marlin", known) == "VLLM/nvfp4/trtllm"
    assert MODEL.fallback("TRTLLM/fp8/cutlass", []) is None


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"moe_dtype": "fp3"}, "moe_dtype is none of"),
        ({"distribution": "uniform"}, "distribution is neither"),
        ({"distribution": "power_law_0"}, "distribution is neither"),
        ({"moe_ep_size": 3}, "moe_ep_size does not divide num_experts"),
        ({"topk": 200}, "topk exceeds num_experts"),
        ({"num_tokens": 0}, "is below 1 or missing"),
        ({"hidden_size": float("nan")}, "is below 1 or missing"),
    ],
)
def test_a_row_that_cannot_be_answered_says_why(change, reason):
    said = MODEL.reason(rows(**change), datasheet("h100_sxm"))[0]
    assert reason in said
    assert bool(said) == bool(reason)
