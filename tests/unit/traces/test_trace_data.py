"""The shipped traces are what their README says, and what their sources published about them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from traces import DATA_FOLDER, data_path, open_trace
from traces.data.make import main, select_requests

ROOT = Path(__file__).parents[3]
REFERENCE = ROOT / "tests" / "reference" / "data"
SHIPPED = sorted(path.name for path in DATA_FOLDER.glob("*.parquet"))


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_traces_have_the_content_their_digest_says_and_a_licence(name) -> None:
    meta = open_trace(data_path(name), verify=True).meta
    assert meta.licence == "Apache-2.0"
    assert "@" in meta.source
    assert name in (DATA_FOLDER / "README.md").read_text(encoding="utf-8")
    assert name in (DATA_FOLDER / "NOTICE").read_text(encoding="utf-8")


def test_shipped_traces_are_small_and_each_has_a_configuration() -> None:
    assert sum(path.stat().st_size for path in DATA_FOLDER.iterdir() if path.is_file()) < 8_000_000
    configured = {}
    for path in (ROOT / "experiments" / "conf" / "trace").glob("*.yaml"):
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
        configured[document.get("path")] = (path.stem, document.get("name"))
    for name in SHIPPED:
        assert configured[name] == (name.removesuffix(".parquet"),) * 2


def test_the_gpt_oss_trace_is_long_varied_and_knows_its_context_lengths() -> None:
    trace = open_trace(data_path("gpt_oss_20b.parquet"))
    meta, lengths = trace.meta, [info.tokens for info in trace.requests]
    assert (meta.model, len(meta.layers), meta.num_experts, meta.top_k) == ("gpt_oss_20b", 24, 32, 4)
    assert (len(trace), sum(lengths), min(lengths), max(lengths)) == (40, 13_350, 41, 511)
    assert len({info.task for info in trace.requests}) == 40
    assert all(info.decode_tokens == info.tokens and info.first_position > 100 for info in trace.requests)
    # published as a softmax over the four, in bfloat16 (8 bits of mantissa)
    assert np.allclose(trace.request(0).weights.sum(axis=-1), 1.0, atol=4 * 2**-8)


def test_the_rule_of_selection_takes_short_and_long_in_turn() -> None:
    described = [
        {"request": 0, "category": "b", "repetition": False, "routed_tokens": 5},
        {"request": 1, "category": "a", "repetition": True, "routed_tokens": 1},
        {"request": 2, "category": "a", "repetition": False, "routed_tokens": 9},
        {"request": 3, "category": "a", "repetition": False, "routed_tokens": 4},
        {"request": 4, "category": "b", "repetition": False, "routed_tokens": 5},
        {"request": 5, "category": "b", "repetition": False, "routed_tokens": 2},
    ]
    # "a" gives the shortest that does not loop, 3; "b" the longest, 0 and 4, of which the lower id
    assert select_requests(described, 2) == [0, 3]


@pytest.mark.parametrize(
    ("name", "layers", "mean_distinct", "fewest", "most", "repeated"),
    [("qwen3_30b_a3b_phone", 48, 64, 33, 107, 0.380), ("gemma_4_26b_a4b_phone", 30, 67, 52, 97, 0.357)],
)
def test_the_phone_traces_show_the_locality_published_with_them(
    name, layers, mean_distinct, fewest, most, repeated
) -> None:
    """BigMoeOnEdge, docs/bench-data/2026-07-15-route-trace/findings.md: distinct experts per layer in decode,
    and the part of a token's experts that the token before used."""
    request = open_trace(data_path(f"{name}.parquet")).request(0)
    decode = request.experts[request.phases == 1]
    assert decode.shape == (128, layers, 6)
    distinct = [len(np.unique(decode[:, layer])) for layer in range(layers)]
    assert (round(float(np.mean(distinct))), min(distinct), max(distinct)) == (mean_distinct, fewest, most)
    overlap = (decode[1:, :, :, None] == decode[:-1, :, None, :]).any(axis=-1).mean()
    assert round(float(overlap), 3) == pytest.approx(repeated, abs=0.0011)


def test_qwens_prefill_holds_only_the_last_prompt_token_in_the_last_layer() -> None:
    request = open_trace(data_path("qwen3_30b_a3b_phone.parquet")).request(0)
    missing = (request.experts < 0).all(axis=-1)
    assert missing.sum() == 27
    assert missing[:27, -1].all()


def test_olmoe_ids_are_sorted_so_their_rank_is_unknown() -> None:
    trace = open_trace(data_path("olmoe_1b_7b.parquet"))
    assert (trace.meta.num_experts, trace.meta.top_k, trace.meta.rank_known) == (64, 8, False)
    assert not trace.meta.has_weights
    assert (np.diff(trace.request(0).experts, axis=-1) > 0).all()


@pytest.mark.parametrize(("tag", "name"), [("qwen", "qwen3_30b_a3b_phone"), ("gemma", "gemma_4_26b_a4b_phone")])
def test_the_recorded_accesses_and_the_trace_are_of_the_same_run(tag, name) -> None:
    trace = open_trace(data_path(f"{name}.parquet"))
    request, table = trace.request(0), pq.read_table(REFERENCE / f"{tag}-accesses.parquet")
    rows = {column: table.column(column).to_numpy() for column in table.column_names}
    assert list(rows) == ["position", "phase", "layer", "slot", "expert", "residency", "expert_bytes"]
    assert np.array_equal(request.experts[rows["position"], rows["layer"], rows["slot"]], rows["expert"])
    assert len(rows["expert"]) == (request.experts >= 0).sum()
    # in decode a miss, and nothing else, reads the expert's bytes
    decode, sizes = rows["phase"] == 1, np.asarray(trace.meta.expert_bytes)[rows["layer"]]
    assert np.array_equal(rows["expert_bytes"][decode], np.where(rows["residency"] == 0, sizes, 0)[decode])
    assert not rows["residency"][~decode].any()


@pytest.mark.parametrize(("tag", "seconds_per_token"), [("qwen", 0.177), ("gemma", 0.201)])
def test_the_recorded_times_add_up(tag, seconds_per_token) -> None:
    lines = (REFERENCE / f"{tag}.metrics").read_text(encoding="utf-8").splitlines()
    columns = lines[0].split(",")
    rows = np.array([line.split(",") for line in lines[1:] if not line.startswith("#")], dtype=float)
    column = {name: rows[:, index] for index, name in enumerate(columns)}
    assert len(rows) == 128
    assert column["wall_ms"].mean() / 1000 == pytest.approx(seconds_per_token, abs=0.0006)
    parts = column["compute_ms"] + column["stall_ms"] + column["mgmt_ms"]
    assert np.allclose(parts, column["wall_ms"], atol=0.01)


@pytest.mark.skipif("MOESIM_EXTRA_DATA" not in os.environ, reason="needs MOESIM_EXTRA_DATA")
def test_the_recipe_makes_the_shipped_traces_again(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("traces.data.make.DATA_FOLDER", tmp_path)
    main([os.environ["MOESIM_EXTRA_DATA"], "--reference", str(tmp_path)])
    for name in sorted(set(SHIPPED) - {"tiny_moe.parquet"}):  # that one is captured, see experiments/tiny_moe
        # the content; bytes agree only with the same version of pyarrow
        assert open_trace(tmp_path / name).meta == open_trace(data_path(name)).meta
    for tag in ("qwen", "gemma"):
        made, kept = (pq.read_table(folder / f"{tag}-accesses.parquet") for folder in (tmp_path, REFERENCE))
        assert made.equals(kept)
