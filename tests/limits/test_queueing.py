"""Serving meets what queueing theory and the single-stream runtime say."""

from __future__ import annotations

import dataclasses
from functools import partial

import numpy as np
import pytest

from experiments.compose import compose_config
from experiments.run import scenario_from_config
from simulator.plan import Workload
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.policies.scheduling.continuous import Continuous
from simulator.result import simulate
from tests.golden.runs import RUNS
from tests.helpers import random_trace, run, steps_of, system, tiny_model, tiny_platform

MODEL = {"layers": 1, "experts": 4, "top_k": 2}


def one_at_a_time(folder, arrival_s, warmup=1):
    """Requests of one token on a server that takes one at a time; all ask for the same experts."""
    path = folder / "arrivals.csv"
    rows = [f"{at!r},0,1" for at in arrival_s]
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens", *rows]) + "\n")
    return run(
        tiny_model(**MODEL),
        random_trace(1, 1, 4, **MODEL),
        tiny_platform(),
        system(scheduling=partial(Continuous, max_batch=1)),
        Workload(file=str(path), warmup_requests=warmup),
        timeline=False,
    )


def service_s(folder):
    """How long a request takes whose experts are here."""
    return float(one_at_a_time(folder, [0.0, 1.0, 2.0]).requests.latency_s.iloc[-1])


@pytest.mark.parametrize("load", [0.4, 0.7])
def test_mean_waiting_time_is_that_of_md1(tmp_path, load):
    served_s, count = service_s(tmp_path), 6000
    gaps_s = np.random.default_rng(5).exponential(served_s / load, count)
    rows = one_at_a_time(tmp_path, (1.0 + np.cumsum(gaps_s)).tolist(), warmup=400).requests
    waits_s = rows.queued_s[~rows.warmup].to_numpy()
    expected_s = load * served_s / (2 * (1 - load))  # Pollaczek-Khinchine, deterministic service
    batches_s = waits_s[: len(waits_s) // 20 * 20].reshape(20, -1).mean(axis=1)
    error_s = batches_s.std(ddof=1) / np.sqrt(20)
    assert error_s < 0.15 * expected_s
    assert abs(waits_s.mean() - expected_s) < 3 * error_s


def test_every_waiting_time_follows_from_the_one_before(tmp_path):
    served_s = service_s(tmp_path)
    arrival_s = 1.0 + np.cumsum(np.random.default_rng(2).exponential(served_s / 0.9, 300))
    waits_s = one_at_a_time(tmp_path, arrival_s.tolist()).requests.queued_s.to_numpy()
    expected_s = waits_s[1]  # the first one loads the experts
    for n in range(1, len(waits_s) - 1):
        expected_s = max(0.0, expected_s + served_s - (arrival_s[n + 1] - arrival_s[n]))  # Lindley 1952
        assert waits_s[n + 1] == pytest.approx(expected_s, abs=1e-11 * len(waits_s))


@pytest.mark.parametrize("prompts", [False, True])
@pytest.mark.parametrize("roles", [{}, {"prediction": TransitionPrediction}])
def test_one_request_at_a_time_is_the_single_stream_run_exactly(roles, prompts):
    workload = Workload(requests=3, max_decode_tokens=140, synthetic_prefill=prompts)
    alone = dataclasses.replace(RUNS["gpt_oss_20b_on_rtx_3060_lru"], workload=workload, roles=roles)
    served = dataclasses.replace(alone, roles={**roles, "scheduling": partial(Continuous, max_batch=1)})
    assert steps_of(served.run()) == steps_of(alone.run())


def test_all_at_once_and_of_one_length_is_a_lockstep_batch_exactly():
    sizes = {"layers": 2, "experts": 6, "top_k": 2}
    trace = random_trace(4, 4, 9, prompt=3, **sizes)
    workload = Workload(requests=4, max_decode_tokens=6)
    choice = partial(run, tiny_model(**sizes), trace, tiny_platform(), timeline=False, cache_bytes=5 * 12288)
    lockstep = choice(system(), dataclasses.replace(workload, batch_size=4))
    assert steps_of(choice(system(scheduling=Continuous), workload)) == steps_of(lockstep)


@pytest.mark.parametrize("name", ["ktransformers", "moe_infinity", "pregated_moe", "sida_moe", "llama_cpp_ngl"])
def test_so_it_is_for_published_systems(name):
    short = ["workload.requests=2", "workload.max_decode_tokens=8", "workload.synthetic_prefill=true"]
    alone = [f"system={name}", "cache_gib=5", "reference=false", *short]
    served = [*alone, "policy/scheduling=continuous", "policy.scheduling.max_batch=1"]
    one, other = (simulate(scenario_from_config(compose_config(overrides))) for overrides in (alone, served))
    assert steps_of(other) == steps_of(one)
    assert other.layers.equals(one.layers)
