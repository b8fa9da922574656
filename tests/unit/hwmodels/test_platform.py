from pathlib import Path

import pytest
from omegaconf import OmegaConf

from hwmodels import Platform, PlatformError, operators, time_s

CONF = Path(__file__).parents[3] / "experiments/conf/platform"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
PROPOSED = {"a3d_moe", "elmoe_3d", "flash_conv", "flash_conv_plus", "fse_dp", "fse_dp_16", "h100_x4_ssd"}
PROPOSED |= {"h100_x32_ssd", "hbf", "hbf_plus", "hbm4", "hd_moe"}


def load(name):
    return Platform.from_mapping(OmegaConf.load(CONF / f"{name}.yaml"), where=f"{name}.yaml")


def small(**changes):
    """A gpu behind a switch, host memory, a drive; rates are round numbers."""
    fields = {
        "name": "small",
        "workers": ["gpu0"],
        "home": "dram",
        "devices": {
            "gpu0": {
                "kind": "gpu",
                "source": "made up",
                "peak_flop_per_s": {"bf16": 1e12},
                "memory_capacity_bytes": "1 GiB",
                "memory_read_bytes_per_s": 1e11,
            },
            "cpu": {"kind": "cpu", "source": "made up", "memory": "dram", "peak_flop_per_s": {"fp32": 1e11}},
            "dram": {
                "kind": "dram",
                "source": "made up",
                "memory_capacity_bytes": 100,
                "memory_read_bytes_per_s": 200.0,
                "memory_efficiency": {"copy": 0.5},
            },
            "ssd": {
                "kind": "ssd",
                "source": "made up",
                "memory_capacity_bytes": 1000,
                "memory_read_bytes_per_s": 10.0,
                "memory_efficiency": {"copy": 1.0},
            },
            "switch": {"kind": "switch", "source": "made up"},
        },
        "links": [
            link("uplink", "dram", "switch", 40.0, efficiency=0.5),
            link("pcie0", "switch", "gpu0", 30.0),
            link("nvme", "dram", "ssd", 15.0),
        ],
    }
    fields.update(changes)
    return Platform.from_mapping(fields, where="small.yaml")


def link(name, a, b, rate=1.0, **more):
    return {
        "name": name,
        "kind": "pcie",
        "a": a,
        "b": b,
        "bandwidth_bytes_per_s": rate,
        "source": "x",
        **more,
    }


@pytest.mark.parametrize("name", NAMES)
def test_every_shipped_platform_loads_and_reaches_its_workers(name):
    platform = load(name)
    assert platform.name == name
    for worker in platform.workers:
        assert platform.devices[worker].memory_read_bytes_per_s > 0
        storage = "ssd" if "ssd" in platform.devices else platform.home
        assert platform.hops(storage, worker)[-1][1] == platform.memory_of(worker).name


# Rates that publications state for their own machine: from, to, page-locked, bytes/s
STATED = {
    "jetson_agx_orin": ("ssd", "gpu0", True, 3.0e9),  # HOBBIT, 980 PRO
    "jetson_tx2_hdd": ("ssd", "gpu0", True, 0.05e9),  # EdgeMoE
    "jetson_tx2_ssd": ("ssd", "gpu0", True, 0.55e9),  # EdgeMoE, 860 EVO
    "rtx_4090_i9_14900k": ("dram", "gpu0", True, 23.0e9),  # ProMoE
    "rtx_a5000": ("dram", "gpu0", True, 24.0e9),  # MoE-Infinity
    "quadro_rtx_6000": ("dram", "gpu0", False, 7.0e9),  # Fiddler, framework copies
    "l4": ("dram", "gpu0", False, 7.0e9),
    "a100_xeon_6326": ("dram", "gpu0", False, 8.8e9),  # DAOP, framework copies
    "rtx_a6000_i9_10980xe": ("dram", "gpu0", False, 1.7e9),
}


@pytest.mark.parametrize("name", STATED)
def test_a_long_copy_runs_at_the_rate_that_was_published_for_the_machine(name):
    start, end, pinned, rate = STATED[name]
    assert 100e9 / load(name).copy_s(start, end, 100_000_000_000, pinned=pinned) == pytest.approx(rate, rel=0.005)


def test_host_memory_has_the_bandwidth_that_was_published_for_the_machine():
    assert load("rtx_2080_i9_10900x").devices["cpu"].memory_read_bytes_per_s == 102e9  # llama.cpp, a user's table
    assert load("rtx_5090").devices["cpu"].memory_read_bytes_per_s == 153.6e9  # NVIDIA, pipelined sharding
    dram = load("dual_xeon_8452y").devices["dram"]  # KTransformers: 220 GB/s within each of two sockets
    assert dram.memory_read_bytes_per_s * dram.memory_efficiency["copy"] == pytest.approx(2 * 220e9, rel=0.001)


def test_a_processor_with_matrix_units_runs_experts_no_faster_than_was_measured():
    # KTransformers on a Xeon 8452Y: 21.3 TFLOP/s in bf16 per socket; 1024 tokens are far beyond its memory's bound
    work = operators.expert(1024, 7168, 2048, 3, 3 * 7168 * 2048 * 2, "bf16")
    device = load("dual_xeon_8452y").devices["cpu"]
    assert work.flops / time_s(work, device) == pytest.approx(2 * 21.3e12, rel=0.01)


@pytest.mark.parametrize("name", NAMES)
def test_a_gpu_with_memory_of_its_own_has_a_host_and_one_that_shares_it_has_none(name):
    platform = load(name)
    if platform.units or platform.workers == ("fpga",) or name in PROPOSED:
        pytest.skip("a proposed device or an accelerator, whose publication describes no host")
    gpus = [worker for worker in platform.workers if platform.devices[worker].kind == "gpu"]
    shared = "ssd" in platform.devices and any(platform.hops("ssd", gpu) == [("ssd", gpu)] for gpu in gpus)
    assert (platform.home, platform.cpu) == (("ssd", None) if shared or not gpus else ("dram", "cpu"))


def test_a_copy_occupies_memories_and_links_with_their_achievable_rates():
    assert small().media("dram", "gpu0") == [
        ("dram", 200.0 * 0.5),
        ("uplink:down", 40.0 * 0.5),
        ("pcie0:down", 30.0),
    ]


def test_the_way_back_uses_the_other_direction_of_each_link():
    names = [name for name, _ in small().media("gpu0", "ssd")]
    assert names == ["pcie0:up", "uplink:up", "dram", "nvme:down", "ssd"]


def test_hops_end_where_bytes_rest_in_host_memory():
    platform = small()
    assert platform.hops("ssd", "gpu0") == [("ssd", "dram"), ("dram", "gpu0")]
    assert platform.hops("dram", "gpu0") == [("dram", "gpu0")]
    assert platform.hops("ssd", "cpu") == [("ssd", "dram")]
    assert platform.hops("dram", "cpu") == []
    assert platform.media("dram", "cpu") == []


def test_a_cpu_computes_from_the_memory_it_names():
    platform = small()
    assert platform.memory_of("cpu").name == "dram"
    assert platform.memory_of("gpu0").name == "gpu0"
    assert platform.devices["cpu"].memory_read_bytes_per_s == 200.0
    assert platform.cpu == "cpu"


def test_a_cpu_which_is_the_worker_is_not_also_the_helper():
    phone = load("oneplus_15r")
    assert (phone.workers, phone.cpu, phone.home) == (("cpu",), None, "ssd")


def test_the_route_has_least_latency_then_fewest_links_then_the_first_name():
    links = [
        link("b", "dram", "gpu0", latency_s=1e-6),
        link("a", "dram", "gpu0", latency_s=1e-6),
        link("c", "dram", "gpu0", 1e12, latency_s=2e-6),
        link("d", "dram", "switch", latency_s=0.5e-6),
        link("e", "switch", "gpu0", latency_s=0.5e-6),
        link("nvme", "dram", "ssd"),
    ]
    platform = small(links=links)
    assert [found.name for found in platform.route("dram", "gpu0")] == ["a"]


def test_two_gpus_share_the_uplink_and_meet_over_the_bridge():
    platform = load("two_rtx_3090")
    down = [[name for name, _ in platform.media("dram", gpu)] for gpu in platform.workers]
    assert down == [["dram", "uplink:down", "pcie0:down"], ["dram", "uplink:down", "pcie1:down"]]
    assert [name for name, _ in platform.media("gpu0", "gpu1")] == ["nvlink0:down"]


def test_the_graph_has_devices_as_nodes_and_links_as_edges():
    graph = small().graph
    assert set(graph.nodes) == {"gpu0", "cpu", "dram", "ssd", "switch"}
    assert graph.edges["dram", "switch", "uplink"]["link"].effective_bytes_per_s == 20.0


def test_home_may_be_the_drive():
    assert small(home="ssd").home == "ssd"


def test_a_drive_without_a_table_reads_at_its_sequential_rate():
    assert small().devices["ssd"].read_bandwidth(3, 4096) == 10.0


def test_a_drives_rate_is_bilinear_in_log2_and_clamped():
    points = [
        {"active_requests": a, "request_bytes": s, "bytes_per_s": r}
        for a, s, r in [(1, 1024, 10.0), (1, 4096, 30.0), (4, 1024, 50.0), (4, 4096, 90.0)]
    ]
    devices = OmegaConf.to_container(OmegaConf.load(CONF / "rtx_3060.yaml"))
    devices["devices"]["ssd"]["read_bytes_per_s_table"] = points
    drive = Platform.from_mapping(devices).devices["ssd"]
    assert drive.read_bandwidth(1, 4096) == 30.0
    assert drive.read_bandwidth(2, 2048) == pytest.approx(45.0)  # middle of 20 (one) and 70 (four)
    assert drive.read_bandwidth(100, 1) == 50.0
    assert drive.read_bandwidth(0, 1 << 40) == 30.0


def test_the_phones_flash_gives_back_the_measured_points():
    flash = load("oneplus_15r").devices["ssd"]
    assert flash.read_bandwidth(4, 1 << 20) == pytest.approx(2235.3 * 2**20)
    assert flash.read_bandwidth(2, 128 * 1024) == pytest.approx(953.6 * 2**20)


def test_quantities_in_presets_are_si():
    gpu = load("rtx_3060").devices["gpu0"]
    assert gpu.memory_capacity_bytes == 12 * 2**30
    assert gpu.peak_flop_per_s["bf16"] == 25.5e12
    assert gpu.launch_overhead_s == 4e-6
    assert gpu.tdp_w == 170.0


def test_unknown_devices_are_named_in_the_error():
    with pytest.raises(PlatformError, match="platform 'small' has no device 'gpu7'"):
        small().route("dram", "gpu7")


def test_devices_without_a_route_are_named_in_the_error():
    platform = small(links=[link("pcie0", "dram", "gpu0")])
    with pytest.raises(PlatformError, match="no route from 'ssd' to 'gpu0'"):
        platform.media("ssd", "gpu0")


def test_a_copy_takes_its_latencies_and_its_bytes_at_the_slowest_rate():
    platform = load("rtx_3060")
    size = 10**9
    assert platform.copy_s("dram", "gpu0", size) == pytest.approx(10e-6 + size / (31.5e9 * 0.8))
    assert platform.copy_s("dram", "gpu0", size, pinned=False) == pytest.approx(10e-6 + size / (31.5e9 * 0.29))
    to_host = 80e-6 + size / min(7.0e9 * 0.9, 7.88e9 * 0.95)
    assert platform.copy_s("ssd", "gpu0", size) == pytest.approx(to_host + platform.copy_s("dram", "gpu0", size))
    assert platform.copy_s("dram", "dram", size) == 0.0


def test_a_drive_with_a_table_reads_by_request_size_and_depth():
    phone = load("oneplus_15r")
    one, eight = (phone.copy_s("ssd", "cpu", 128 * 2**10, active_requests=n) for n in (1, 8))
    assert one == pytest.approx(128 * 2**10 / (701.7 * 2**20))
    assert eight == pytest.approx(128 * 2**10 / (1858.8 * 2**20))
