"""Figures of a batch that is always full, and of alternatives by energy, delay and area, against closed forms."""

from __future__ import annotations

import pytest

from experiments.compose import compose_config
from experiments.run import run_config
from experiments.validation.published.alternatives import WEIGHTS, break_even, edap, relative_edap
from experiments.validation.published.full_batch import latency_change, ratio, requests_per_s, tokens_per_s
from experiments.validation.published.runs import Run

SLOW = {"ttft_s": [1.0, 1.0, 2.0], "latency_s": [1.5, 3.0, 3.0], "decode_tokens": [5, 20, 10]}
FAST = {**SLOW, "latency_s": [1.25, 2.0, 2.0]}


def test_throughput_counts_from_the_end_of_the_prompts_that_were_under_way():
    runs = {name: Run((), name, requests=rows) for name, rows in (("slow", SLOW), ("fast", FAST))}
    assert tokens_per_s(runs, "slow") == pytest.approx((35 + 1) / 2)  # the third one's first token is of the window
    assert requests_per_s(runs, "slow", 9) == pytest.approx(2)
    assert ratio(runs, "fast", "slow") == pytest.approx(2)
    assert latency_change(runs, "fast", "slow") == pytest.approx(-0.5)


def test_every_step_of_a_window_serves_a_full_batch(tmp_path):
    listed = tmp_path / "full.yaml"
    listed.write_text(
        "requests: 60\nprompt_tokens: 20\ndecode_tokens: {kind: uniform, low: 5, high: 30}\n"
        "window: {in_flight: 8, steps: 24}\n"
    )
    overrides = ["model=tiny_moe", "trace=tiny_moe", f"workload.file={listed}", "workload.binding=resample"]
    overrides += ["policy/scheduling=continuous", "policy.scheduling.max_batch=8", "workload.synthetic_prefill=true"]
    steps = run_config(compose_config([*overrides, "reference=false"])).steps
    assert steps.requests[:-1].tolist() == [8] * (len(steps) - 1)
    assert len(steps) - 1 in (23, 24)


UNITS = {
    "slow": {"unit": ["duplex", "logic_die"], "area_mm2": [0.0, 0.0]},
    "wide": {"unit": ["duplex_bank_pim", "banks0"], "area_mm2": [10.0, 0.0]},
}


def test_a_product_costs_its_bits_and_operations_for_as_long_as_the_slower_of_both_takes():
    size_bytes = 2 * WEIGHTS
    joules = (8 * size_bytes * 1.81 + 2 * WEIGHTS * 0.23) / 1e12
    assert edap(["duplex", "logic_die"], 1, 100.0, [30.0, 20.0]) == pytest.approx(joules * size_bytes / 13408e9 * 1.5)


def test_arithmetic_at_one_operation_per_byte_loses_its_lead_by_bandwidth_as_vectors_are_more():
    assert relative_edap("wide", 1, 100.0, UNITS) < 1 == relative_edap("slow", 1, 100.0, UNITS)
    # four times the bandwidth: as quick at four vectors, and cheaper by the bit; at eight twice as slow
    assert relative_edap("wide", 4, 100.0, UNITS) < 1
    assert relative_edap("wide", 8, 100.0, UNITS) == 1
    assert break_even("slow", [1, 2, 4, 8, 16], 100.0, UNITS) == 8
    assert break_even("slow", [1, 2], 100.0, UNITS) == 0
