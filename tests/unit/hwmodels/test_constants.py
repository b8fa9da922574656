"""Constants of a platform: origins, spreads, scaling, draws."""

from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from hwmodels import Platform, operators, time_s
from hwmodels.constants import SPREAD, constants, drawn, scaled
from hwmodels.device import ORIGINS

CONF = Path(__file__).parents[3] / "experiments/conf/platform"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))


def load(name):
    return Platform.from_mapping(OmegaConf.load(CONF / f"{name}.yaml"), where=name)


@pytest.mark.parametrize("name", NAMES)
def test_every_constant_of_a_preset_has_an_origin_and_a_source(name):
    platform = load(name)
    for thing in (*platform.devices.values(), *platform.links):
        assert thing.origin.get("others"), thing.name
    for constant in constants(platform):
        assert constant.origin in ORIGINS, constant.name
        assert constant.source.strip(), constant.name
        if "kernel_scale" not in constant.name:
            assert constant.spread == SPREAD[constant.origin]


@pytest.mark.parametrize("name", NAMES)
def test_every_constant_can_be_scaled_and_nothing_else_changes(name):
    platform = load(name)
    before = {constant.name: constant.value for constant in constants(platform)}
    for constant in constants(platform):
        after = {c.name: c.value for c in constants(scaled(platform, {constant.name: 0.5}))}
        changed = {key for key in before if after[key] != before[key]}
        assert changed == ({constant.name} if constant.value is not None else set())
        if constant.value is not None:
            assert after[constant.name] == pytest.approx(0.5 * constant.value)


def test_an_efficiency_stays_at_most_one():
    assert scaled(load("rtx_3060"), {"pcie0.efficiency": 3.0}).links[0].efficiency == 1.0


def test_a_processor_computes_from_the_dram_that_was_scaled():
    platform = load("rtx_3060")
    slow = scaled(platform, {"dram.memory_read_bytes_per_s": 0.5})
    assert slow.device("cpu").memory_read_bytes_per_s == 0.5 * platform.device("cpu").memory_read_bytes_per_s


def test_a_kernel_model_can_be_scaled():
    work = operators.gemm(8, n=4096, k=4096, weight_bits=16, dtype="bf16")
    platform = load("rtx_3090")
    slow = scaled(platform, {"gpu0.kernel_scale.gemm": 1.5})
    assert time_s(work, slow.device("gpu0")) == pytest.approx(1.5 * time_s(work, platform.device("gpu0")))


def test_the_same_number_draws_the_same_machine_and_another_draws_another():
    platform = load("a100_host")
    time_s(operators.gemm(8, n=64, k=64, weight_bits=16, dtype="bf16"), platform.device("gpu0"))  # asks its kernels
    found = constants(platform)
    values = [
        {c.name: c.value for c in constants(drawn(platform, found, number, seed))}
        for number, seed in ((0, 0), (0, 0), (1, 0), (0, 1))
    ]
    assert values[0] == values[1]
    assert values[0]["pcie0.efficiency"] not in (values[2]["pcie0.efficiency"], values[3]["pcie0.efficiency"])
    assert values[0]["pcie0.bandwidth_bytes_per_s"] == 31.5e9  # a datasheet's limit is not drawn
    assert drawn(platform, found, 3).device("gpu0").draw == 4


def test_a_gpu_of_one_datasheet_is_the_same_machine_on_two_platforms_whoever_states_its_origin():
    preset = load("rtx_4090")
    box = Platform.from_mapping(OmegaConf.load(CONF.parents[2] / "examples/ndp_box.yaml"))
    sheet = {c.name: c.origin for c in constants(box)}
    assert sheet["gpu0.memory_read_bytes_per_s"] == sheet["gpu0.peak_flop_per_s"] == "datasheet"
    assert sheet["gpu0.launch_overhead_s"] == "assumed"  # its file's own
    launches = {drawn(platform, constants(platform), 5).device("gpu0").launch_overhead_s for platform in (box, preset)}
    assert len(launches) == 1
    assert launches != {preset.device("gpu0").launch_overhead_s}


def test_drawn_constants_spread_as_they_say():
    platform = load("rtx_3060")
    found = [c for c in constants(platform) if c.name == "pcie0.latency_s"]
    logs = [np.log(drawn(platform, found, number).links[0].latency_s / 1e-5) for number in range(400)]
    assert np.std(logs) == pytest.approx(SPREAD["assumed"], rel=0.15)
    assert abs(np.mean(logs)) < 0.04
