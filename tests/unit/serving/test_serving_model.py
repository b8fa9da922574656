"""Steps of a serving engine and the steady state that follows from them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from experiments.serving.models import find_model
from simulator.model import ModelError
from simulator.serving import Framework, Layout, Load, RequestCost, StepCost, answer, precision_of

BARE = Framework(waits=0.0, burst=0.0)


ONE = Layout()


@cache
def cost(name: str, layout: Layout = ONE, sheet: str = "b200_sxm", gemm: str = "") -> StepCost:
    spec = find_model(name)
    return StepCost(spec, sheet, "VLLM", layout, precision_of(spec, gemm, gemm))


def steady(requests: float, isl: float, osl: float, engine: Framework = BARE, tp: int = 2):
    layout = Layout(tp=tp, moe_tp=tp)
    return answer(RequestCost(cost("qwen3_30b_a3b", layout), isl, osl, engine.budget), Load(requests, isl, osl), engine)


def test_a_single_request_decodes_in_the_sum_of_its_parts():
    step, isl, osl = cost("qwen3_30b_a3b", Layout(tp=2, moe_tp=2)), 1000.0, 2000.0
    one = np.array([1.0])
    parts = sum(float(part[0]) for part in step.parts_s(one).values())
    alone = parts + float(step.head_s(one)[0]) + float(step.decode_s(one, np.array([isl + osl / 2]))[0])
    found = steady(1, isl, osl)
    assert found.tpot_s == pytest.approx(alone)
    assert found.ttft_s == pytest.approx(alone + RequestCost(step, isl, osl, 8192.0).prompt_s(1.0, isl), rel=0.02)


def test_engine_constants_add_to_a_step():
    engine = replace(BARE, step_s=1e-3, sequence_s=1e-4, request_s=0.5)
    added = steady(1, 1000, 2000, engine)
    plain = steady(1, 1000, 2000)
    assert added.tpot_s - plain.tpot_s == pytest.approx(1e-3 + 1e-4, rel=0.01)
    assert added.ttft_s - plain.ttft_s == pytest.approx(0.5 + 1e-3 + 1e-4, rel=0.01)


def test_more_requests_and_longer_prompts_take_longer():
    tpot = [steady(c, 2000, 1000).tpot_s for c in (1, 4, 16, 64, 256)]
    assert tpot == sorted(tpot)
    found = [steady(16, isl, 500) for isl in (128, 512, 2048, 8192)]
    for times in ([a.tpot_s for a in found], [a.ttft_s for a in found]):
        assert times == sorted(times)


def test_prompts_of_others_vanish_from_tpot_as_answers_grow():
    def interference(osl: float) -> float:
        cost_s = RequestCost(cost("qwen3_30b_a3b", Layout(tp=2, moe_tp=2)), 1000.0, osl, 8192.0)
        found = answer(cost_s, Load(8, 1000, osl), BARE)
        return found.tpot_s / cost_s.plain_s(found.decoding, BARE) - 1

    shares = [interference(osl) for osl in (100.0, 1e3, 1e4, 1e5)]
    assert shares[0] > 0.1
    assert shares == sorted(shares, reverse=True)
    assert shares[-1] < 1e-3


@pytest.mark.parametrize("phase", ["decode", "prefill"])
def test_tensor_parallelism_shortens_a_large_dense_model(phase):
    tokens = np.array([64.0 if phase == "decode" else 4096.0])
    times = [float(cost("llama_3_1_70b", Layout(tp=tp, moe_tp=tp)).tokens_s(tokens)[0]) for tp in (1, 2, 4, 8)]
    assert times == sorted(times, reverse=True)
    assert times[0] / times[-1] < 8  # messages, and kernels that do not shrink


def test_expert_parallelism_waits_for_the_busiest_rank():
    tokens = np.array([512.0])
    even = cost("deepseek_v3", Layout(tp=8, moe_tp=8), gemm="nvfp4").parts_s(tokens)["experts"]
    dealt = cost("deepseek_v3", Layout(tp=8, moe_ep=8), gemm="nvfp4").parts_s(tokens)["experts"]
    assert dealt[0] > even[0] / 4


def test_prompts_that_fill_the_budget_leave_fewer_sequences_decoding():
    engine = replace(BARE, budget=512.0)
    found = steady(256, 1024, 64, engine, tp=8)
    assert found.decoding <= 512 / (1 + 1024 / 63) + 1e-9
    assert found.share == pytest.approx(1.0)
    waiting = 256 / found.decoding * 63 * found.tpot_s - 63 * found.tpot_s  # Little
    assert found.ttft_s >= waiting * (1 - 1e-9)


def test_requests_without_room_for_their_cache_wait():
    step = cost("llama_3_1_70b", Layout(), gemm="fp8")
    row = RequestCost(step, 1000.0, 7000.0, 8192.0)
    inside, beyond = (answer(row, Load(c, 1000, 7000), BARE) for c in (row.room // 1, row.room * 2 // 1))
    assert beyond.tpot_s == pytest.approx(inside.tpot_s, rel=0.01)
    assert beyond.ttft_s > 1000 * inside.tpot_s


def test_prompts_in_steps_of_their_own_delay_nobody_when_all_keep_in_step():
    apart = replace(BARE, apart=True, burst=1.0)
    cost_s = RequestCost(cost("qwen3_30b_a3b", Layout(tp=2, moe_tp=2)), 1000.0, 200.0, apart.budget)
    found = answer(cost_s, Load(8, 1000, 200), apart)
    assert found.tpot_s == pytest.approx(cost_s.plain_s(found.decoding, apart))


def test_prompts_in_steps_of_their_own_leave_all_requests_decoding():
    """However long prompts are: nothing of a step's budget is lost to them, they only hold it up."""
    apart = replace(BARE, apart=True, budget=512.0)
    cost_s = RequestCost(cost("qwen3_30b_a3b", Layout(tp=2, moe_tp=2)), 4096.0, 3.0, apart.budget)
    found = answer(cost_s, Load(8, 4096, 3), apart)
    assert found.share > 8  # prompts take most steps
    assert found.tpot_s > found.share * cost_s.plain_s(1, apart)


def test_guesses_ahead_divide_a_longer_step_by_what_is_accepted():
    cost_s = RequestCost(cost("deepseek_v3", Layout(tp=8, moe_tp=8), gemm="nvfp4"), 16.0, 2000.0, 8192.0)
    plain = answer(cost_s, Load(4, 16, 2000), BARE)
    none = answer(cost_s, Load(4, 16, 2000), replace(BARE, drafts=3.0, accepted=1.0))
    good = answer(cost_s, Load(4, 16, 2000), replace(BARE, drafts=3.0, accepted=2.5))
    assert plain.tpot_s < none.tpot_s < 2.5 * plain.tpot_s  # four times the tokens, but mostly the same weights
    assert good.tpot_s == pytest.approx(none.tpot_s / 2.5, rel=0.01)
    busy = [answer(cost_s, Load(512, 16, 2000), e).tpot_s for e in (BARE, replace(BARE, drafts=3.0, accepted=2.5))]
    assert busy[1] / busy[0] > good.tpot_s / plain.tpot_s  # guessing pays less where a step is full


def test_a_norm_over_all_heads_costs_a_message_where_these_lie_on_several_gpus():
    full = find_model("minimax_m2_5")
    kind = full.attention["full"]
    none = replace(full, attention={"full": replace(kind, qk_norm="none")})
    precision = precision_of(full, "fp8", "fp8")

    def messages(spec, layout):
        return StepCost(spec, "b200_sxm", "VLLM", layout, precision).parts_s(np.array([16.0]))["messages"][0]

    added = messages(full, Layout(tp=4, moe_tp=4)) - messages(none, Layout(tp=4, moe_tp=4))
    assert 62 * 1e-6 < added < 62 * 20e-6  # one small all-reduce for each of 62 layers
    apart = Layout(attention_dp=4, moe_ep=4)
    assert messages(full, apart) == messages(none, apart)


def test_mxfp4_experts_run_as_nvfp4_ones_where_engines_have_kernels_for_narrow_activations():
    def group(sheet):
        step = cost("gpt_oss_20b", ONE, sheet, "fp4")
        step.parts_s(np.array([8.0]))
        return next(choice.group for (kernel, _), choice in step.kernels.choices.items() if kernel == "moe")

    assert "nvfp4" in group("b200_sxm")
    assert "mxfp4" in group("h100_sxm")
    assert "mxfp4" in group("rtx_5090")


def test_every_part_grows_with_its_tokens():
    step = cost("gpt_oss_120b", Layout(tp=2, moe_tp=2))
    times = step.tokens_s(np.array([1.0, 3.0, 10.0, 100.0, 5000.0, 40000.0, 80000.0]))
    assert np.all(np.diff(times) > 0)
    assert times[-1] == pytest.approx(2 * times[-2])  # beyond the table, in proportion


def test_a_layout_must_hold_its_experts():
    with pytest.raises(ModelError, match=r"moe_ep must divide the 128 experts, got 3"):
        cost("qwen3_30b_a3b", Layout(tp=3, moe_ep=3))
    with pytest.raises(ModelError, match=r"moe_tp \* moe_ep must be the 4 GPUs of attention, got 2 \* 1"):
        cost("qwen3_30b_a3b", Layout(tp=4, moe_tp=2))
    with pytest.raises(ModelError, match="tp must be at least 1"):
        Layout(tp=0)


def test_precision_is_that_of_the_published_weights():
    block = precision_of(find_model("deepseek_v3"), "fp8", "fp8")
    assert (block.gemm, block.experts, block.cache) == ("fp8_block", "fp8_block", "fp8")
    mxfp4 = precision_of(find_model("gpt_oss_120b"), "nvfp4", "nvfp4")
    assert (mxfp4.gemm, mxfp4.experts) == ("bfloat16", "w4a16_mxfp4")
    plain = precision_of(find_model("llama_3_1_8b"))
    assert (plain.gemm, plain.cache) == ("bfloat16", "bfloat16")
    assert precision_of(find_model("llama_3_1_8b"), "fp8", "fp8").gemm == "fp8"
    with pytest.raises(ModelError, match="precision 'fp3' is not one of"):
        precision_of(find_model("llama_3_1_8b"), "fp3")
