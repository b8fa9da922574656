"""Which measured devices speak for one that was not measured."""

import math
from dataclasses import replace

import pytest

from hwmodels.datasheet import datasheet, datasheet_names
from hwmodels.kernels import kernels
from hwmodels.likeness import likeness, mean_values

FASTER_THAN_THEIR_CLOCK = {"b200_sxm", "b300_sxm", "gb200", "h100_sxm", "h200_sxm"}  # peaks at another clock
MEASURED = [datasheet(name) for name in ("a100_sxm", "b200_sxm", "h100_sxm", "l40s")]


def test_a_device_counts_most_for_its_twin_and_shares_sum_to_one():
    for kernel in kernels().values():
        for sheet in MEASURED:
            shares = likeness(kernel, replace(sheet, name="twin"), MEASURED)
            assert max(shares.values()) == pytest.approx(shares[sheet.name])
            assert sum(shares.values()) == pytest.approx(1)


def test_kernels_written_for_synchronous_matrix_products_speak_for_each_other():
    shares = likeness(kernels()["mla_generation"], datasheet("rtx_pro_6000_server"), MEASURED)
    assert shares["l40s"] > shares["a100_sxm"] > 10 * (shares["h100_sxm"] + shares["b200_sxm"])


def test_of_links_only_their_kind_counts():
    kernel = kernels()["collectives"]
    assert likeness(kernel, datasheet("rtx_pro_6000_server"), MEASURED)["l40s"] > 0.9
    nvlink = likeness(kernel, datasheet("h200_sxm"), MEASURED)
    assert nvlink["a100_sxm"] == nvlink["h100_sxm"] == nvlink["b200_sxm"] > 10 * nvlink["l40s"]


def test_a_far_device_is_still_answered():
    far = replace(datasheet("l40s"), name="far", memory_read_bytes_per_s=1.0)
    assert sum(likeness(kernels()["gemm"], far, MEASURED).values()) == pytest.approx(1)


@pytest.mark.parametrize("name", sorted(set(datasheet_names()) - FASTER_THAN_THEIR_CLOCK))
def test_the_peak_of_a_datasheet_is_its_multiprocessors_at_their_clock(name):
    sheet = datasheet(name)
    per_cycle = sheet.peak("bf16") / sheet.sms / sheet.clock_hz  # a power of two, by architecture
    assert per_cycle == pytest.approx(2 ** round(math.log2(per_cycle)), rel=0.02)
    assert 500 <= per_cycle <= 2100


@pytest.mark.parametrize("name", sorted(kernels()))
def test_a_launch_takes_cycles_so_that_twice_the_clock_halves_it(name):
    kernel, slow = kernels()[name], datasheet("l40s")
    values = {key: spec.start for key, spec in kernel.parameters.items()}
    assert kernel.launch_s(slow, values) == pytest.approx(values["launch_cycles"] / 2.52e9)
    assert kernel.launch_s(replace(slow, clock_hz=2 * slow.clock_hz), values) == pytest.approx(
        kernel.launch_s(slow, values) / 2
    )


def test_parameters_are_averaged_as_logarithms():
    assert mean_values([{"launch_s": 1e-6}, {"launch_s": 4e-6}], [0.5, 0.5]) == pytest.approx({"launch_s": 2e-6})
    assert mean_values([{"share": 0.3}, {"share": 0.9}], [1.0, 0.0]) == pytest.approx({"share": 0.3})
