"""Keys and values that are written slower than they are read."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwmodels import Platform
from simulator.model import ModelSpec
from simulator.policies.placement.popular import PopularFirst
from tests.helpers import random_trace, run, shipped, system, tiny_model, tiny_platform


@pytest.mark.parametrize(("share", "latency_s"), [(1.0, 0.0), (0.5, 0.0), (0.01, 1e-4), (1.0, 1e-4)])
def test_a_token_takes_longer_by_its_keys_and_values(share, latency_s) -> None:
    model, trace, platform = tiny_model(2, 4, 2), random_trace(0, 1, 6, 2, 4, 2, prompt=3), tiny_platform()
    gpu = platform.device("gpu0")
    read = gpu.memory_read_bytes_per_s
    slower = replace(gpu, memory_write_bytes_per_s=share * read, memory_write_latency_s=latency_s)
    slow = replace(platform, devices={**platform.devices, "gpu0": slower})
    plain, made = (
        [r.end_ps - r.start_ps for r in run(model, trace, machine, system(placement=PopularFirst)).records]
        for machine in (platform, slow)
    )
    key_and_value = 2 * 2 * 16 * 2  # of 2 heads of 16, in two bytes
    for before, after, tokens in zip(plain, made, [3, 1, 1, 1], strict=True):
        longer_s = 2 * (tokens * key_and_value * (1 / (share * read) - 1 / read) + latency_s)  # of two layers
        assert after - before == pytest.approx(longer_s * 1e12, abs=4)


def test_flash_takes_the_ratio_of_rates_where_weights_bind() -> None:
    """One token of a model whose expert is large: 4.57 times as fast as conventional flash, pages and writes apart."""
    model = tiny_model(2, 4, 2, hidden=8192, expert_intermediate=65536)
    trace, took_s = random_trace(0, 1, 4, 2, 4, 2), {}
    for name in ("hbf", "hbf_plus", "flash_conv", "flash_conv_plus"):
        machine = Platform.from_mapping(shipped("platform", name), name)
        step = run(model, trace, machine, system(placement=PopularFirst)).records[-1]
        launches_s = 2 * machine.device("gpu0").memory_write_latency_s + step.waited_ps["overhead"] / 1e12
        took_s[name] = (step.end_ps - step.start_ps) / 1e12 - launches_s
    assert took_s["flash_conv"] / took_s["hbf"] == pytest.approx(11.2 / 2.45, rel=0.01)
    assert took_s["flash_conv_plus"] / took_s["hbf_plus"] == pytest.approx(12.8 / 2.8, rel=0.01)


def test_flash_holds_what_hbm_does_not() -> None:
    experts_bytes = {"hbm4": 288e9, "hbf": 3620e9}
    for name, capacity in experts_bytes.items():
        gpu = Platform.from_mapping(shipped("platform", name), name).device("gpu0")
        model = ModelSpec.from_mapping(shipped("model", "deepseek_v3"))
        assert (model.dense_bytes + model.parts()["routed_experts"][1] < gpu.memory_capacity_bytes) == (name == "hbf")
        assert gpu.memory_capacity_bytes == capacity
