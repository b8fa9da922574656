"""Devices that compute where a memory is, as platform files; what protocols leave of a link."""

import copy

import pytest
import yaml

from hwmodels import Platform
from hwmodels.errors import PlatformError
from hwmodels.protocol import payload_share
from tests.helpers import CONF

BOX = yaml.safe_load((CONF.parents[1] / "examples" / "ndp_box.yaml").read_text())


def box(**changes):
    """The example, with values at dotted paths changed ("devices.near.macs"); links by number."""
    made = copy.deepcopy(BOX)
    for path, value in changes.items():
        *way, last = path.split("__")
        node = made
        for key in way:
            node = node[int(key) if key.isdigit() else key]
        node[last] = value
    return Platform.from_mapping(made, where="box.yaml")


def test_a_unit_takes_what_it_leaves_out_from_its_memory():
    platform = box()
    near, module = platform.device("near"), platform.device("module")
    assert near.memory_read_bytes_per_s == module.memory_read_bytes_per_s == 512e9
    assert near.peak_flop_per_s == {"fp16": 2 * 2048 * 1e9}
    assert (platform.units, platform.cpu, platform.home) == (("near",), None, "module")
    assert box(devices__module__internal_bytes_per_s="2 TB/s").device("near").memory_read_bytes_per_s == 2e12


def test_a_link_carries_what_its_protocol_leaves():
    platform = box()
    share = 64 / 80 * 64 / 68  # a slot of headers for each line of four; 64 of a flit's 68 bytes
    assert platform.media("module", "gpu0")[-1] == ("cxl0:down", 32e9 * share)
    assert payload_share("cxl.io") == payload_share("pcie") == 256 / 276
    assert payload_share("cxl.mem", 256) == 64 / 80 * 240 / 256
    assert payload_share("pcie", 0, 4096) > payload_share("pcie", 0, 128)
    assert payload_share("") == 1.0


REFUSED = {
    "devices.near.memory' must name a dram or gpu, got 'disk'": {"devices__near__memory": "disk"},
    "devices.near.memory_read_bytes_per_s' must be at most": {"devices__near__memory_read_bytes_per_s": "600 GB/s"},
    "devices.near.macs' goes with clock_hz": {"devices__near__clock_hz": 0},
    "in place of peak_flop_per_s": {"devices__near__peak_flop_per_s": {"fp16": 1e12}},
    "devices.near.memory_capacity_bytes' is that of the memory": {"devices__near__memory_capacity_bytes": 1},
    "devices.module.area_mm2' is only for an ndp": {"devices__module__area_mm2": 1.0},
    "devices.module.internal_bytes_per_s' must be at least": {"devices__module__internal_bytes_per_s": 1.0},
    "devices.near.internal_bytes_per_s' is only for a gpu or dram": {"devices__near__internal_bytes_per_s": 1.0},
    "devices.near.reuse_flop_per_byte' must not be negative": {"devices__near__reuse_flop_per_byte": -1.0},
    "links.cxl0.protocol' must be one of": {"links__0__protocol": "cxl"},
    "links.cxl0.flit_bytes' must be 68 or 256": {"links__0__flit_bytes": 64},
    "go with a protocol": {"links__0__protocol": ""},
    "field 'units' must name an ndp": {"units": ["gpu0"]},
    "must not name a device twice": {"units": ["near", "near"]},
}


@pytest.mark.parametrize("message", REFUSED)
def test_what_cannot_be_is_refused_in_one_sentence(message):
    with pytest.raises(PlatformError) as refused:
        box(**REFUSED[message])
    text = str(refused.value)
    assert message in text
    assert (text.startswith("box.yaml: "), text.count("\n")) == (True, 0)


def test_a_unit_over_neither_home_nor_a_workers_memory_is_refused():
    other = {"kind": "dram", "memory_capacity_bytes": 1, "memory_read_bytes_per_s": "1 TB/s", "source": "made up"}
    with pytest.raises(PlatformError, match="'near' computes from 'other'; expected the home of the experts"):
        box(devices__other=other, devices__near__memory="other")


def test_a_unit_for_each_gpu_computes_from_the_memory_of_its_number():
    node = yaml.safe_load((CONF / "platform" / "duplex_8.yaml").read_text())
    platform = Platform.from_mapping(node, "duplex_8.yaml")
    assert [platform.memory_of(f"logic_die{i}").name for i in range(8)] == [f"gpu{i}" for i in range(8)]
    node["devices"]["logic_die"]["count"] = 9
    with pytest.raises(PlatformError, match=r"logic_die8\.memory' must name a dram or gpu, got 'gpu8'"):
        Platform.from_mapping(node, "duplex_8.yaml")
