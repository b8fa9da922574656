"""Accelerators that read an expert's weights once per layer, or for every window of tokens again."""

import io
from contextlib import redirect_stderr

import numpy as np
import pytest

from experiments.cli import main
from experiments.compose import compose_config
from experiments.run import run_config, scenario_from_config
from simulator.visits import visits

IMAGE = ("model=m3vit_tiny", "trace=m3vit_tiny", "platform=zcu102", "workload.requests=1", "reference=false")
PRICED = ("+platform.devices.fpga.flop_pj={bf16: 1.0}", "+platform.devices.card.memory_read_pj_per_bit=1")


def test_visits_by_hand():
    ids = np.array([[0, 1], [0, 2], [1, 0], [0, -1]])
    assert visits(ids, 4) == {0: [4], 1: [2], 2: [1]}  # expert by expert
    assert visits(ids, 4, window=1) == {0: [1] * 4, 1: [1, 1], 2: [1]}  # token by token
    assert visits(ids, 4, window=2) == {0: [2, 2], 1: [1, 1], 2: [1]}
    assert visits(ids, 4, queue=3) == {0: [3, 1], 1: [2], 2: [1]}
    assert visits(ids, 4, window=3, queue=2) == {0: [2, 1, 1], 1: [2], 2: [1]}
    assert visits(np.zeros((0, 2), dtype=int), 4, 1) == {}


@pytest.mark.parametrize("seed", range(5))
def test_every_choice_is_served_once_and_smaller_windows_and_queues_never_read_less(seed):
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((37, 8)), axis=1)[:, :3]
    last = 10**9
    for window in (1, 2, 4, 8, 37, None):  # each a multiple of the one before, or all
        found = visits(ids, 8, window)
        assert {e: sum(parts) for e, parts in found.items()} == {e: int((ids == e).sum()) for e in range(8)}
        reads = sum(map(len, found.values()))
        assert reads <= last
        assert reads <= sum(map(len, visits(ids, 8, window, queue=2).values()))
        last = reads
    assert last == 8
    assert sum(map(len, visits(ids, 8, 1).values())) == ids.size


def run(*overrides):
    return run_config(compose_config([*IMAGE, *overrides]))


def test_token_by_token_costs_one_read_for_each_choice_in_time_and_energy():
    """By hand: an expert reads 2 · 192 · 384 weights of 16 bits and its biases at 85 % of 9.6 GB/s; for one token its
    product is quicker than that, so each choice takes its bytes. Expert by expert, an expert takes the longer of its
    bytes and its products at 153.6 GFLOP/s."""
    size = 2 * (2 * 192 * 384 + 384 + 192)
    vectors = 2 * (2 * 192 + 2 * 384)
    rate = 0.85 * 9.6e9
    config = compose_config([*IMAGE, "system=edge_moe"])
    experts = scenario_from_config(config).trace.request(0).experts
    counts = np.array([np.bincount(experts[:, layer].ravel(), minlength=16) for layer in range(6)])
    tokens_s = experts.size * (size + vectors) / rate
    experts_s = np.where(
        counts > 0, np.maximum((size + counts * vectors) / rate, counts * 4 * 192 * 384 / 153.6e9), 0
    ).sum()
    one, other = run("system=token_by_token", *PRICED), run("system=edge_moe", *PRICED)
    difference = one.summary["ttft_mean_s"] - other.summary["ttft_mean_s"]
    assert difference == pytest.approx(tokens_s - experts_s, rel=1e-6)
    read = [
        r.energy.query("part == 'experts' and by == 'read' and phase == 'prefill'").amount.sum() for r in (one, other)
    ]
    assert read[0] - read[1] == (experts.size - (counts > 0).sum()) * size


def test_without_bounds_it_is_the_plain_pipeline():
    plain, unbounded = run("system=on_demand_lru"), run("policy/pipeline=token_windows", "policy.pipeline.window=null")
    assert plain.steps.equals(unbounded.steps)


def test_stepwise_gives_the_same():
    assert run("system=token_by_token").steps.equals(run("system=token_by_token", "settings.stepwise=true").steps)


def test_an_image_is_one_prefill_without_a_kv_cache():
    result = run("system=edge_moe")
    assert len(result.steps) == 1
    assert scenario_from_config(compose_config([*IMAGE])).model.kv_bytes(129) == 0


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (("policy.pipeline.window=0",), "policy.pipeline.window is 0; expected at least 1"),
        (("policy/scheduling=continuous",), "expected policy/scheduling=lockstep"),
        (("platform=two_rtx_3090",), "expected one worker"),
        (("policy/execution=near_all",), "policy/pipeline TokenWindows has none; expected plain"),
        (("model.encoder_layers=13",), "'encoder_layers' must be at most layers (12), got 13"),
    ],
)
def test_what_does_not_go_together_ends_in_a_sentence(overrides, said, tmp_path):
    err = io.StringIO()
    with redirect_stderr(err):
        code = main(["run", "--quiet", *IMAGE, "system=token_by_token", f"out={tmp_path / 'run'}", *overrides])
    assert (code, err.getvalue().count("\n")) == (2, 1), err.getvalue()
    assert said in err.getvalue()
