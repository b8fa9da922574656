"""Spoilt files: whatever is done to a shipped file, it loads or ends in one sentence of the right class."""

import copy
import math
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from hwmodels import Platform, PlatformError, operators, time_s
from simulator.model import ModelError, ModelSpec

CONF = Path(__file__).parents[3] / "experiments/conf"
READERS = {"platform": (Platform, PlatformError), "model": (ModelSpec, ModelError)}
FILES = [path for group in READERS for path in sorted((CONF / group).glob("*.yaml"))]
PLAIN = {path: OmegaConf.to_container(OmegaConf.load(path)) for path in FILES}
DELETE = object()


def places(node, path=()):
    """Every place in nested mappings and lists, as a path of keys."""
    items = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in items:
        yield (*path, key)
        yield from places(value, (*path, key))


def put(node, path, value):
    """A copy with `value` at `path`, or without it."""
    changed = copy.deepcopy(node)
    parent = changed
    for key in path[:-1]:
        parent = parent[key]
    if value is DELETE:
        del parent[path[-1]]
    else:
        parent[path[-1]] = value
    return changed


def assert_one_sentence(error, where):
    text = str(error)
    assert text.startswith(f"{where}: ")
    assert text.endswith((".", "?"))
    assert "\n" not in text
    assert "field" in text


def read(group, mapping):
    """Reads and uses what was read; returns None if it was refused properly."""
    reader, error_class = READERS[group]
    try:
        found = reader.from_mapping(mapping, where="spoilt.yaml")
    except error_class as error:
        assert_one_sentence(error, "spoilt.yaml")
        return None
    if isinstance(found, Platform):
        work = operators.gemm(1, 5, 2, 16, "fp32")
        for worker in found.workers:
            if "fp32" in found.devices[worker].peak_flop_per_s:
                assert 0 < time_s(work, found.devices[worker]) < math.inf
            assert all(rate > 0 for _, rate in found.media(found.home, worker))
    else:
        assert (found.expert_bytes > 0) == (found.experts > 0)
        assert found.total_params >= found.active_params() > 0
        assert (0 < found.top_k <= found.experts) or found.experts == found.top_k == 0
        assert all(layer < found.layers for layer in found.moe_layers)
        for work in found.layer_dense_work(0, 1, 10):
            assert work.size_bytes >= 0
    return found


ODD = st.one_of(
    st.sampled_from(
        [DELETE, None, True, -1, 0, -0.5, 1e30, 10**30, math.nan, math.inf, -math.inf, "", " ", "x", "3 GB"]
    ),
    st.sampled_from(["4 us", "5 W", "-1 GB/s", "nan", "${name}", "???", [], {}, [1], ["x"], {"x": 1}, [[]], [{}]]),
    st.integers(-5, 300),
    st.floats(),
    st.text(max_size=8),
)


@settings(max_examples=250, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(data=st.data())
def test_a_file_spoilt_anywhere_loads_or_ends_in_one_sentence(data):
    path = data.draw(st.sampled_from(FILES))
    mapping = PLAIN[path]
    for _ in range(data.draw(st.integers(1, 2))):
        place = data.draw(st.sampled_from(list(places(mapping))))
        mapping = put(mapping, place, data.draw(ODD))
        if not mapping:
            break
    read(path.parent.name, mapping)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_renamed_key_is_refused(data):
    path = data.draw(st.sampled_from(FILES))
    keys = [p for p in places(PLAIN[path]) if isinstance(p[-1], str) and not is_free(p)]
    place = data.draw(st.sampled_from(keys))
    mapping = put(PLAIN[path], (*place[:-1], f"{place[-1]}_x"), 1)
    assert read(path.parent.name, put(mapping, place, DELETE)) is None


def is_free(place):
    """Keys which the author of a file chooses."""
    return len(place) == 2 and place[0] in ("devices", "attention")


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_field_with_a_unit_refuses_another_unit(path):
    for place in places(PLAIN[path]):
        if str(place[-1]).endswith(("_bytes", "_s", "_w")) and not isinstance(place[-1], int):
            assert read(path.parent.name, put(PLAIN[path], place, "3 parsec")) is None, place


GPU = ("devices", "gpu0")
NO_SHEET = {"kind": "gpu", "source": "made up", "peak_flop_per_s": {"bf16": 1e12}, "memory_capacity_bytes": 2**30}
NO_SHEET["memory_read_bytes_per_s"] = 1e9
PLATFORM_MUST_REFUSE = {
    "no name": (("name",), DELETE, "'name' is missing"),
    "blank name": (("name",), " ", "'name' must not be empty"),
    "no devices": (("devices",), DELETE, "'devices' is missing"),
    "no worker": (("workers",), [], "'workers' must name at least one gpu or cpu"),
    "unknown worker": (("workers",), ["gpu7"], "'workers' must name a device of kind gpu or cpu, got 'gpu7'"),
    "worker twice": (("workers",), ["gpu0", "gpu0"], "'workers' must not name a device twice"),
    "memory as worker": (("workers",), ["dram"], "'workers' must name a device of kind gpu or cpu"),
    "one worker as text": (("workers",), "gpu0", "'workers' must be a list, got 'gpu0'"),
    "home on a gpu": (("home",), "gpu0", "'home' must name a device of kind dram or ssd, got 'gpu0'"),
    "unknown home": (("home",), "tape", "'home' must name a device"),
    "unknown cpu": (("cpu",), "gpu0", "'cpu' must name a device of kind cpu"),
    "unknown key": (("colour",), "red", "unknown field 'colour'"),
    "unknown device key": ((*GPU, "tpd_w"), 3, "unknown field 'devices.gpu0.tpd_w'; did you mean 'tdp_w'?"),
    "no source": ((*GPU, "source"), DELETE, "'devices.gpu0.source' is missing"),
    "blank source": ((*GPU, "source"), "", "'devices.gpu0.source' must not be empty"),
    "kind": ((*GPU, "kind"), "tpu", "'devices.gpu0.kind' must be one of gpu, cpu, ndp, dram, ssd, switch"),
    "no kind": ((*GPU, "kind"), DELETE, "'devices.gpu0.kind' is missing"),
    "other name": ((*GPU, "name"), "gpu1", "'devices.gpu0.name' must be 'gpu0' or left out"),
    "negative capacity": ((*GPU, "memory_capacity_bytes"), -1, "memory_capacity_bytes' must not be negative"),
    "no capacity": (("devices", "dram", "memory_capacity_bytes"), DELETE, "capacity_bytes' is required"),
    "zero bandwidth": ((*GPU, "memory_read_bytes_per_s"), 0, "memory_read_bytes_per_s' is required"),
    "nan bandwidth": ((*GPU, "memory_read_bytes_per_s"), math.nan, "must be a finite number, got nan"),
    "infinite power": ((*GPU, "tdp_w"), math.inf, "must be a finite number, got inf"),
    "wrong unit": ((*GPU, "tdp_w"), "3 GB", "'devices.gpu0.tdp_w': '3 GB' has the wrong unit"),
    "negative latency": ((*GPU, "launch_overhead_s"), "-1 us", "launch_overhead_s' must not be negative"),
    "no peaks": ((*GPU, "peak_flop_per_s"), {}, "peak_flop_per_s' is required"),
    "unknown dtype": ((*GPU, "peak_flop_per_s"), {"fp7": 1}, "peak_flop_per_s' must be one of fp32"),
    "zero peak": ((*GPU, "peak_flop_per_s"), {"bf16": 0}, "bf16' must be above zero, got 0"),
    "idle above full": ((*GPU, "idle_power_w"), 1000, "idle_power_w' must not be above tdp_w"),
    "efficiency above 1": ((*GPU, "compute_efficiency"), {"elementwise": 1.5}, "must be above 0 and at most 1"),
    "efficiency beside an engine": ((*GPU, "memory_efficiency"), {"gemm": 0.5}, "does nothing beside an engine"),
    "unknown engine": ((*GPU, "engine"), "vllm", "'devices.gpu0.engine' must be one of VLLM, TRTLLM, got 'vllm'"),
    "engine without datasheet": (("devices", "gpu0"), {**NO_SHEET, "engine": "VLLM"}, "engine' needs a datasheet"),
    "unknown datasheet": ((*GPU, "datasheet"), "voodoo2", "datasheet' must name a datasheet (a100_40, a100_sxm"),
    "datasheet of a cpu": (("devices", "cpu", "datasheet"), "l40s", "datasheet' and 'engine' are only for a gpu"),
    "unknown operation": ((*GPU, "compute_efficiency"), {"fft": 0.5}, "must be one of gemm"),
    "memory of a gpu": ((*GPU, "memory"), "dram", "'devices.gpu0.memory' is only for a cpu"),
    "cpu on flash": (("devices", "cpu", "memory"), "ssd", "memory' must name a dram, got 'ssd'"),
    "link to nowhere": (("links", 0, "b"), "gpu7", "'links.pcie0.b' must name a device, got 'gpu7'"),
    "link to itself": (("links", 0, "b"), "dram", "must be another device than 'dram'"),
    "link without source": (("links", 0, "source"), DELETE, "'links[0].source' is missing"),
    "link without rate": (("links", 0, "bandwidth_bytes_per_s"), DELETE, "bandwidth_bytes_per_s' is missing"),
    "link at rate 0": (("links", 0, "bandwidth_bytes_per_s"), 0, "must be above zero, got 0"),
    "link over 100 %": (("links", 0, "efficiency"), 1.2, "must be above 0 and at most 1, got 1.2"),
    "link kind": (("links", 0, "kind"), "rope", "kind' must be one of pcie, cxl, nvlink, bus, network"),
    "same link name": (("links", 1, "name"), "pcie0", "'links.name' must be unique, 'pcie0' is taken"),
    "link named as device": (("links", 1, "name"), "dram", "must be unique, 'dram' is taken"),
    "worker cut off": (("links",), [], "'links' must connect the worker 'gpu0' with the home 'dram'"),
    "null device": (("devices", "gpu0"), None, "'devices.gpu0': expected a mapping of fields, got None"),
    "table on dram": (
        ("devices", "dram", "read_bytes_per_s_table"),
        [{"request_bytes": 1, "active_requests": 1, "bytes_per_s": 1}],
        "read_bytes_per_s_table' is only for an ssd",
    ),
    "table with holes": (
        ("devices", "ssd", "read_bytes_per_s_table"),
        [{"request_bytes": n, "active_requests": n, "bytes_per_s": 1} for n in (1, 2)],
        "must give each pair of active_requests and request_bytes exactly once",
    ),
}

MODEL_MUST_REFUSE = {
    "unknown key": (("topk",), 2, "unknown field 'topk'; did you mean 'top_k'?"),
    "no source": (("source",), DELETE, "'source' is missing"),
    "top_k above experts": (("top_k",), 33, "'top_k' must be at most experts (32), got 33"),
    "top_k zero": (("top_k",), 0, "'top_k' must be at least 1, got 0"),
    "top_k as fraction": (("top_k",), 2.5, "'top_k' must be a whole number, got 2.5"),
    "experts as text": (("experts",), "many", "'experts' must be a whole number, got 'many'"),
    "negative layers": (("layers",), -3, "'layers' must be at least 1, got -3"),
    "too many layers": (("layers",), 10**12, "'layers' must be at most 10000"),
    "bits zero": (("experts_bits",), 0, "'experts_bits' must be above 0 and at most 64, got 0"),
    "bits nan": (("experts_bits",), math.nan, "'experts_bits' must be a finite number"),
    "bits as truth": (("expert_bias",), "maybe", "'expert_bias' must be true or false, got 'maybe'"),
    "ffn matrices": (("ffn_matrices",), 4, "'ffn_matrices' must be 2 (plain) or 3 (gated), got 4"),
    "dtype": (("dtype",), "fp12", "'dtype' must be one of"),
    "no MoE layer": (("moe_every",), 25, "'moe_every' leaves no MoE layer"),
    "dense layers without width": (("first_dense_layers",), 1, "'dense_intermediate' must be above zero"),
    "width of no layer": (("dense_intermediate",), 64, "'dense_intermediate' must be left out"),
    "no attention": (("attention",), {}, "'attention' must describe at least one kind"),
    "attention as text": (("attention", "full"), "mha", "'attention.full': expected a mapping of fields"),
    "unknown attention": (("attention_pattern",), ["full", "sliding", "none"], "got 'none'"),
    "unused attention": (("attention_pattern",), ["full"], "must use every kind under attention"),
    "no pattern": (("attention_pattern",), [], "must use every kind under attention"),
    "heads": (
        ("attention", "full", "kv_heads"),
        7,
        "'attention.full.kv_heads' must divide heads (64), got 7",
    ),
    "window": (("attention", "full", "window"), 0, "'attention.full.window' must be at least 1"),
    "qk_norm": (("attention", "full", "qk_norm"), "some", "qk_norm' must be one of none, head, full"),
    "half an MLA": (("attention", "full", "q_lora_rank"), 8, "q_lora_rank' must be left out"),
    "mixed MLA": (
        ("attention", "full", "kv_lora_rank"),
        8,
        "'attention.full.rope_head_dim' must be at least 1",
    ),
    "unknown attention key": (("attention", "full", "head"), 8, "unknown field 'attention.full.head'"),
}

CASES = [
    pytest.param(group, name, *case, id=f"{group}: {label}")
    for group, name, table in (
        ("platform", "rtx_3060", PLATFORM_MUST_REFUSE),
        ("model", "gpt_oss_20b", MODEL_MUST_REFUSE),
    )
    for label, case in table.items()
]


@pytest.mark.parametrize(("group", "name", "place", "value", "says"), CASES)
def test_this_is_refused_and_the_message_says_so(group, name, place, value, says):
    mapping = put(PLAIN[CONF / group / f"{name}.yaml"], place, value)
    reader, error_class = READERS[group]
    with pytest.raises(error_class) as caught:
        reader.from_mapping(mapping, where="spoilt.yaml")
    assert_one_sentence(caught.value, "spoilt.yaml")
    assert says in str(caught.value)


@pytest.mark.parametrize("thing", [None, 3, "text", [1], {1: 2}])
@pytest.mark.parametrize("group", READERS)
def test_what_is_no_mapping_of_fields_is_refused(group, thing):
    assert read(group, thing) is None
