"""Prices: what is stated counts before a technology, that before what is inferred; every constant has its source."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hwmodels import Platform
from hwmodels.device import ORIGINS, Device, Link
from hwmodels.energy import (
    EnergyUnknown,
    background_w,
    flop_pj,
    link_pj_per_bit,
    memory_pj_per_bit,
    memory_technology,
    technologies,
)
from hwmodels.errors import PlatformError
from tests.helpers import CONF, shipped

GPU = Device(
    kind="gpu", name="gpu0", source="made up", datasheet="rtx_3090", peak_flop_per_s={"bf16": 1e12, "fp32": 5e11}
)
DRAM = Device(kind="dram", name="dram", source="made up", memory_capacity_bytes=100 * 10**9)
CPU = Device(kind="cpu", name="cpu", source="made up", peak_flop_per_s={"fp32": 2e12}, idle_power_w=30.0, tdp_w=170.0)
LINK = Link(name="pcie0", kind="pcie", a="dram", b="gpu0", bandwidth_bytes_per_s=1e9, source="made up")


def test_a_number_comes_before_a_technology_and_that_before_the_datasheet():
    named = replace(GPU, memory_technology="hbm3")
    stated = replace(named, memory_read_pj_per_bit=1.25, origin={"memory_read_pj_per_bit": "measured"})
    assert [memory_technology(device) for device in (GPU, named, stated)] == ["gddr6x", "hbm3", "hbm3"]
    prices = [memory_pj_per_bit(device) for device in (GPU, named, stated)]
    assert [price.value for price in prices] == [7.25, 3.59, 1.25]
    assert [price.technology for price in prices] == ["gddr6x", "hbm3", ""]
    assert prices[2].origin == "measured"
    assert memory_pj_per_bit(stated, write=True).value == 3.59
    assert flop_pj(GPU, "bf16").value == 0.16
    assert flop_pj(replace(GPU, process="45nm"), "fp32").value == 2.3
    assert flop_pj(replace(GPU, flop_pj={"bf16": 0.9}), "bf16").value == 0.9
    assert link_pj_per_bit(LINK).value == 6.0
    assert link_pj_per_bit(replace(LINK, technology="cxl")).technology == "cxl"
    assert link_pj_per_bit(replace(LINK, technology="cxl", pj_per_bit=9.0)).value == 9.0


def test_an_operation_costs_what_the_type_costs_in_which_it_is_computed():
    """No fp8 arithmetic: weights are widened to bf16."""
    assert flop_pj(GPU, "fp8").value == 0.16
    native = replace(GPU, peak_flop_per_s={**GPU.peak_flop_per_s, "fp8": 2e12})
    assert flop_pj(native, "fp8").value == 0.08


def test_a_cpu_without_a_price_pays_its_power_above_idle_at_its_peak():
    price = flop_pj(CPU, "bf16")  # (170 - 30) W / 2e12 FLOP/s
    assert price.value == pytest.approx(70.0)
    assert price.origin == "assumed"
    with pytest.raises(EnergyUnknown, match="flop_pj"):
        flop_pj(replace(CPU, tdp_w=0.0, idle_power_w=0.0), "bf16")


def test_background_is_idle_power_or_a_memorys_power_per_gb():
    assert background_w(CPU) == 30.0
    assert background_w(replace(DRAM, memory_technology="ddr5")) == pytest.approx(22.0)
    assert background_w(replace(DRAM, memory_technology="ddr5", idle_power_w=9.0)) == 9.0
    assert background_w(DRAM) == 0.0


def test_what_is_not_known_is_said():
    with pytest.raises(EnergyUnknown, match="device 'dram': no memory_technology is named"):
        memory_pj_per_bit(DRAM)
    flash = Device(kind="ssd", name="ssd", source="made up")
    assert memory_pj_per_bit(flash).value == 102.4
    with pytest.raises(EnergyUnknown, match="what a write of flash costs is not known"):
        memory_pj_per_bit(flash, write=True)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"memory_technology": "hbm9"}, "devices.gpu0.memory_technology' must be one of hbm2e"),
        ({"process": "1nm"}, "devices.gpu0.process' must be one of 7nm"),
        ({"memory_read_pj_per_bit": -1}, "memory_read_pj_per_bit' must not be negative, got -1"),
        ({"flop_pj": {"bf16": 0}}, "flop_pj.bf16' must be above zero, got 0"),
        ({"flop_pj": {"bf17": 1}}, "flop_pj' must be one of fp32"),
    ],
)
def test_a_platform_with_a_wrong_price_is_refused(change, words):
    platform = shipped("platform", "rtx_3060")
    platform["devices"]["gpu0"] |= change
    with pytest.raises(PlatformError) as error:
        Platform.from_mapping(platform, "box.yaml")
    assert words in str(error.value)
    assert "box.yaml" in str(error.value)


def test_a_link_of_no_known_technology_is_refused():
    platform = shipped("platform", "rtx_3060")
    platform["links"][0]["technology"] = "wire"
    with pytest.raises(PlatformError, match=r"links.pcie0.technology' must be one of pcie"):
        Platform.from_mapping(platform, "box.yaml")


def test_every_constant_has_an_origin_and_a_source_and_what_is_inferred_is_there():
    known = technologies()
    for group in ("memories", "links", "processes"):
        for name, entry in known[group].items():
            assert entry["origin"] in ORIGINS, name
            assert len(entry["source"]) > 10, name
            numbers = [value for key, value in entry.items() if "pj" in key or "_w_" in key]
            flat = [n for value in numbers for n in (value.values() if isinstance(value, dict) else [value])]
            assert flat, name
            assert min(flat) > 0, name
    inferred = known["inferred"]
    assert set(inferred["links"].values()) <= set(known["links"])
    assert set(inferred["kinds"].values()) <= set(known["memories"])
    for memory, process in inferred["datasheets"].values():
        assert memory in known["memories"]
        assert process in known["processes"]


def test_the_host_memory_of_every_shipped_platform_is_of_a_known_kind_or_lpddr4_or_not_described():
    without = []
    for path in sorted((CONF / "platform").glob("*.yaml")):
        platform = Platform.from_mapping(shipped("platform", path.stem))
        without += [path.stem for d in platform.devices.values() if d.kind == "dram" and not memory_technology(d)]
    proposed = ("a3d_moe", "duplex", "flash_conv", "fse_dp", "hbf", "hbm4", "hd_moe", "pimoe", "sieve", "stratum")
    assert [name for name in without if not name.startswith(proposed)] == ["raspberry_pi_4"]
