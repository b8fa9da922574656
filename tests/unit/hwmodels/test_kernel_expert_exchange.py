"""Models of the exchange of tokens with experts: grow with tokens, width and top-k; above the links; closed forms."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels.datasheet import datasheet
from hwmodels.kernels.expert_exchange import KERNELS

ENGINE, DISPATCH, COMBINE = KERNELS
SHEETS = ("h100_sxm", "b200_sxm", "l40s")


def start(kernel):
    return {name: spec.start for name, spec in kernel.parameters.items()}


def rows(tokens, hidden=7168, topk=8, experts=256, nodes=1, backend="deepep_ll", phase="dispatch", dtype="bfloat16"):
    arrays = np.broadcast_arrays(*(np.atleast_1d(x) for x in (tokens, hidden, topk, experts, nodes)))
    tokens, hidden, topk, experts, nodes = arrays
    text = {"framework": "vLLM", "comm_backend": backend, "phase": phase, "comm_dtype": dtype}
    return {
        "num_tokens": tokens,
        "num_token": tokens,
        "hidden_size": hidden,
        "topk": topk,
        "num_topk": topk,
        "num_experts": experts,
        "node_num": nodes,
        "ep_size": 8 * nodes,
    } | {key: np.full(len(tokens), value, dtype=object) for key, value in text.items()}


@settings(max_examples=100, deadline=None)
@given(data=st.data())
@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_more_traffic_never_takes_less_time_nor_less_than_physics(kernel, data):
    specs = kernel.parameters
    shares = data.draw(st.lists(st.floats(0, 1), min_size=len(specs), max_size=len(specs)))
    drawn = {n: s.low * (s.high / s.low) ** share for (n, s), share in zip(specs.items(), shares, strict=True)}
    values = data.draw(st.sampled_from([start(kernel), drawn]))
    sheet = datasheet(data.draw(st.sampled_from(SHEETS)))
    axis, most = data.draw(st.sampled_from([("tokens", 100_000), ("hidden", 16384), ("topk", 16)]))
    sizes = {"tokens": data.draw(st.integers(1, 70000)), "nodes": data.draw(st.sampled_from([1, 2, 8]))}
    sizes[axis] = np.sort(data.draw(st.lists(st.integers(1, most), min_size=10, max_size=10)))
    backend = data.draw(st.sampled_from(["deepep_ll", "deepep_ht"]))
    given_rows = rows(**sizes, backend=backend, phase=data.draw(st.sampled_from(["dispatch", "combine"])))
    seconds = kernel.seconds(given_rows, sheet, values)
    assert np.all(np.diff(seconds) >= -1e-12 * seconds[1:])
    assert np.all(seconds >= kernel.floor(given_rows, sheet))
    assert np.all(seconds > 0)


def test_a_large_combine_sends_seven_eighths_of_its_messages_over_the_links():
    # 10⁶ tokens · 8 · 7/8 messages of 14,336 bytes at 0.6 of 450 GB/s, with warps that keep up
    values = start(COMBINE) | {"warp_rate": 1e13}
    seconds = COMBINE.seconds(rows(1_000_000), datasheet("h100_sxm"), values)[0]
    assert seconds == pytest.approx(1e6 * 7 * 14336 / (0.6 * 450e9), rel=0.01)


def test_across_two_nodes_the_network_decides():
    # half of 8 · 10⁶ messages of 14,336 bytes leave by one NIC at 0.85 of 50 GB/s
    values = start(COMBINE) | {"warp_rate": 1e13}
    seconds = COMBINE.seconds(rows(1_000_000, nodes=2), datasheet("h100_sxm"), values)[0]
    assert seconds == pytest.approx(4e6 * 14336 / (0.85 * 50e9), rel=0.02)


def test_a_single_token_takes_the_launch_and_the_signals_of_all_experts():
    # 20000 cycles at 1980 MHz and 256 · 20 ns; 7 messages of 7,392 bytes at 270 GB/s take 0.2 µs more
    assert DISPATCH.seconds(rows(1), datasheet("h100_sxm"), start(DISPATCH))[0] == pytest.approx(15.4e-6, rel=0.005)


def test_high_throughput_sends_a_token_once_to_each_gpu_and_no_faster_than_it_copies():
    # 8 of 256 experts lie on 8 · (1 − (7/8)⁸) = 5.251 of 8 GPUs, 7/8 of them others; 300 GB/s copied, 450 GB/s linked
    values = start(ENGINE) | {"routed_s": 1e-14, "token_s": 1e-12}
    seconds = ENGINE.seconds(rows(1_000_000, backend="deepep_ht"), datasheet("h100_sxm"), values)[0]
    assert seconds == pytest.approx(1e6 * 8 * (1 - (7 / 8) ** 8) * 7 / 8 * 14336 / 300e9, rel=0.01)


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda kernel: kernel.name)
def test_many_rows_at_once_are_each_as_alone(kernel):
    random = np.random.default_rng(0)
    many = rows(random.integers(1, 60000, 40), topk=random.integers(1, 9, 40), nodes=random.integers(1, 5, 40))
    many["comm_backend"] = np.array(["deepep_ll", "deepep_ht"] * 20, dtype=object)
    together = kernel.seconds(many, datasheet("b200_sxm"), start(kernel))
    alone = [
        kernel.seconds({k: v[i : i + 1] for k, v in many.items()}, datasheet("b200_sxm"), start(kernel))[0]
        for i in range(40)
    ]
    np.testing.assert_allclose(together, alone, rtol=1e-12)


def test_an_unknown_kernel_falls_back_to_one_of_its_kind_in_the_same_phase():
    known = ["vLLM/deepep_ht/combine", "vLLM/deepep_ht/dispatch", "vLLM/deepep_ll/combine"]
    assert ENGINE.fallback("SGLANG/other_ht/combine", known) == "vLLM/deepep_ht/combine"
    assert ENGINE.fallback("SGLANG/other_ll/combine", known) == "vLLM/deepep_ll/combine"
    assert ENGINE.fallback("SGLANG/other_ll/dispatch", known) == "vLLM/deepep_ht/dispatch"


def test_a_row_that_is_no_exchange_says_why():
    assert DISPATCH.reason(rows([1, 0]), datasheet("h100_sxm")).tolist() == ["", "num_token must be above zero"]
    assert "phase 'both'" in ENGINE.reason(rows(1, phase="both"), datasheet("h100_sxm"))[0]
