"""Foreign formats become traces, and their faults become one clear sentence."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import Trace, TraceError
from traces.importers import find_importer, import_trace, list_importers
from traces.importers.phone_route_csv import read_accesses, read_route_header

EXTRA_DATA = os.environ.get("MOESIM_EXTRA_DATA")

# request, position, phase, layer, slot, expert, weight: request 3 has 2 tokens, request 5 one; layers 2 and 4
LONG_ROWS = [
    (3, 10, 0, 2, 0, 7, 0.75),
    (3, 10, 0, 2, 1, 1, 0.25),
    (3, 10, 0, 4, 0, 2, 0.5),
    (3, 10, 0, 4, 1, 3, 0.5),
    (3, 11, 1, 2, 0, 6, 1.0),
    (3, 11, 1, 4, 0, 5, None),
    (3, 11, 1, 4, 1, 0, None),
    (5, 0, -1, 2, 0, 1, 0.5),
    (5, 0, -1, 2, 1, 2, 0.5),
]
LONG_META = {
    "model": "org/Mixtral-8x7B-v0.1",
    "num_experts": "8",
    "top_k": "2",
    "licence": "MIT",
    "note": "toy",
}


def long_file(path: Path, rows=LONG_ROWS, meta=LONG_META, drop=(), guesses=None, boolean_phase=False) -> Path:
    names = ["request", "position", "phase", "layer", "slot", "expert", "weight"]
    columns = {name: list(values) for name, values in zip(names, zip(*rows, strict=True), strict=True)}
    if boolean_phase:
        columns["phase"] = [phase == 1 for phase in columns["phase"]]
    columns |= guesses or {}
    table = pa.table({name: values for name, values in columns.items() if name not in drop})
    pq.write_table(table.replace_schema_metadata(meta), path)
    return path


def imported(source: Path, **options) -> Trace:
    return import_trace(source, source.with_name("out.parquet"), **options)


def refused(source: Path, **options) -> str:
    with pytest.raises(TraceError) as caught:
        imported(source, **options)
    assert not source.with_name("out.parquet").exists()
    return str(caught.value)


# long tables


def test_a_long_table_becomes_dense_arrays_with_empty_slots_marked(tmp_path) -> None:
    trace = imported(long_file(tmp_path / "long.parquet"))
    first, second = trace.request(0), trace.request(1)
    assert trace.meta.layers == (2, 4)
    assert (first.id, first.positions.tolist(), first.phases.tolist()) == (3, [10, 11], [0, 1])
    assert first.experts.tolist() == [[[7, 1], [2, 3]], [[6, -1], [5, 0]]]
    nan = math.nan
    np.testing.assert_array_equal(first.weights, np.float32([[[0.75, 0.25], [0.5, 0.5]], [[1, nan], [nan, nan]]]))
    assert (second.id, second.phases.tolist(), second.experts.tolist()) == (5, [-1], [[[1, 2], [-1, -1]]])


def test_the_metadata_of_a_long_table_is_kept_and_known_models_get_their_names(tmp_path) -> None:
    meta = imported(long_file(tmp_path / "long.parquet")).meta
    assert (meta.model, meta.num_experts, meta.top_k, meta.native_top_k) == ("mixtral_8x7b", 8, 2, 2)
    assert (meta.licence, meta.source) == ("MIT", "long.parquet")
    assert meta.notes == "toy; model as recorded: org/Mixtral-8x7B-v0.1; 3 of 12 slots have no row and are empty"
    assert meta.rank_known
    assert meta.has_weights


def test_options_replace_what_a_file_records(tmp_path) -> None:
    options = {"model": "m", "dataset": "d", "licence": "l", "origin": "o", "notes": "n", "native_top_k": 4}
    meta = imported(long_file(tmp_path / "long.parquet"), **options).meta
    assert (meta.model, meta.dataset, meta.licence, meta.source, meta.notes) == ("m", "d", "l", "o", "n")
    assert meta.native_top_k == 4


def test_only_wanted_requests_are_kept_under_their_ids(tmp_path) -> None:
    source = long_file(tmp_path / "long.parquet")
    assert [request.id for request in imported(source, requests=[5])] == [5]
    source.with_name("out.parquet").unlink()
    assert refused(source, requests=[5, 6]) == "long.parquet: request 6 is wanted but the file does not hold it."


def test_a_file_of_request_descriptions_beside_the_table_gives_tasks_and_dataset(tmp_path) -> None:
    entries = [
        {"request": 3, "dataset": "mmlu", "category": "law"},
        {"request": 5, "dataset": "gpqa", "domain": "physics"},
    ]
    (tmp_path / "long.requests.json").write_text(json.dumps(entries))
    trace = imported(long_file(tmp_path / "long.parquet"))
    assert [info.task for info in trace.requests] == ["law", "physics"]
    assert trace.meta.dataset == "gpqa, mmlu"


def test_a_configuration_boolean_phases_and_guesses_are_understood(tmp_path) -> None:
    config = json.dumps({"model_type": "olmoe", "num_experts": 8, "num_experts_per_tok": 2})
    described = json.dumps([{"request": 3, "domain": "bible"}])
    # at layer 2, for the next layer: experts 4, 5 at position 10 and expert 6 at position 11; none at layer 4
    guesses = {"guess1": [4, 5, -1, -1, 6, -1, -1]}
    source = long_file(
        tmp_path / "long.parquet",
        rows=LONG_ROWS[:7],
        meta={"model": config, "requests": described},
        guesses=guesses,
        boolean_phase=True,
    )
    trace = imported(source, model="tiny")
    request = trace.request(0)
    assert (trace.meta.model, trace.meta.num_experts, trace.meta.top_k) == ("tiny", 8, 2)
    assert (trace.meta.guess_distances, trace.meta.guess_width) == (1, 2)
    assert request.phases.tolist() == [0, 1]
    assert request.guesses.tolist() == [[[[4, 5]], [[-1, -1]]], [[[6, -1]], [[-1, -1]]]]
    assert trace.requests[0].task == "bible"


def test_sorted_ids_without_weights_have_no_known_rank(tmp_path) -> None:
    ascending = [(0, 0, 1, 0, slot, expert, None) for slot, expert in enumerate((2, 5))]
    descending = [(0, 0, 1, 0, slot, expert, None) for slot, expert in enumerate((5, 2))]
    sorted_ids = imported(long_file(tmp_path / "a.parquet", rows=ascending))
    assert (sorted_ids.meta.rank_known, sorted_ids.meta.has_weights) == (False, False)
    assert imported(long_file(tmp_path / "b.parquet", rows=descending)).meta.rank_known


def test_rising_weights_have_no_known_rank(tmp_path) -> None:
    rows = [(0, 0, 1, 0, 0, 5, 0.25), (0, 0, 1, 0, 1, 2, 0.75)]
    assert not imported(long_file(tmp_path / "a.parquet", rows=rows)).meta.rank_known


def test_a_request_that_spans_read_batches_is_put_together(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("traces.importers.long_parquet._BATCH_ROWS", 2)
    source = long_file(tmp_path / "long.parquet")
    small = imported(source).meta.digest
    monkeypatch.undo()
    assert imported(source).meta.digest == small


def replaced(row: int, **values) -> list[tuple]:
    names = ["request", "position", "phase", "layer", "slot", "expert", "weight"]
    rows = list(LONG_ROWS)
    rows[row] = tuple(values.get(name, old) for name, old in zip(names, rows[row], strict=True))
    return rows


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rows": replaced(1, slot=0)}, "request 3, field 'slot': two rows fill the same slot"),
        ({"rows": replaced(1, slot=2)}, "field 'slot' must be below the top_k 2"),
        ({"rows": replaced(1, slot=-1)}, "request 3, field 'slot': values must be from 0 to 1"),
        ({"rows": replaced(1, expert=8)}, "request 3, field 'expert': values must be from -1 to 7"),
        (
            {"rows": replaced(1, expert=7)},
            "request 3, field 'experts': the experts of one token and layer must diff",
        ),
        (
            {"rows": replaced(1, phase=1)},
            "request 3, field 'phase': all rows of a token must have the same phase",
        ),
        ({"rows": replaced(0, position=-1)}, "request 3, field 'position': values must be from 0"),
        (
            {"rows": replaced(0, request=5)},
            "request 5, field 'request': the rows of a request must stand together",
        ),
        (
            {"rows": replaced(0, weight=-1.0)},
            "request 3, field 'weights': values must be finite and not negative",
        ),
        ({"meta": {"model": "x"}}, "metadata field 'num_experts' is missing"),
        ({"meta": {"num_experts": "many"}}, "metadata field 'num_experts' must be an integer, not 'many'"),
        ({"meta": {"model": "{", "num_experts": "8"}}, "field 'model' must be valid JSON"),
        ({"meta": {"num_experts": "8", "requests": "{}"}}, "field 'requests' must be a list of objects"),
        ({"meta": {"num_experts": "8", "native_top_k": "1"}}, "at most the model's native top-k 1, not 2"),
        (
            {"drop": ("slot",)},
            "long.parquet: the file's format is not one that can be imported (known formats: es",
        ),
    ],
)
def test_faults_of_a_long_table_are_refused_and_leave_no_file(tmp_path, change, complaint) -> None:
    message = refused(long_file(tmp_path / "long.parquet", **change))
    assert message.startswith("long.parquet: ")
    assert complaint in message


# phone routes

ROUTE = """\
# route_trace v1
# model=/sdcard/Qwen3-30B-A3B-Q4_K_M.gguf arch=qwen3moe n_layer=2 n_expert=16 n_expert_used=2
# layer=0 expert_bytes=100 dense_bytes=10
# layer=1 expert_bytes=200 dense_bytes=20
turn,phase,step,layer,slot,expert,weight,residency,expert_bytes
0,0,0,0,0,3,0.6,0,100
0,0,0,0,1,1,0.4,0,100
0,0,1,0,0,3,0.7,0,0
0,0,1,0,1,2,0.3,0,100
0,0,1,1,0,0,0.9,0,200
0,0,1,1,1,1,0.1,0,200
0,1,2,0,0,1,0.5,1,0
0,1,2,0,1,0,0.5,0,100
0,1,2,1,0,2,0.8,0,200
0,1,2,1,1,1,0.2,1,0
"""


def route_file(path: Path, text: str = ROUTE) -> Path:
    path.write_text(text)
    return path


def test_a_phone_route_becomes_a_trace_with_the_size_of_each_layers_experts(tmp_path) -> None:
    trace = imported(route_file(tmp_path / "x.route.csv"))
    meta, request = trace.meta, trace.request(0)
    assert (meta.model, meta.num_experts, meta.top_k, meta.native_top_k) == ("qwen3_30b_a3b", 16, 2, 8)
    assert (meta.layers, meta.expert_bytes) == ((0, 1), (100, 200))
    assert request.positions.tolist() == [0, 1, 2]
    assert request.phases.tolist() == [0, 0, 1]
    # the first prompt token was not computed in the last layer
    assert request.experts.tolist() == [[[3, 1], [-1, -1]], [[3, 2], [0, 1]], [[1, 0], [2, 1]]]
    assert request.weights[0, 0].tolist() == pytest.approx([0.6, 0.4])
    assert np.isnan(request.weights[0, 1]).all()


def test_the_recorded_accesses_keep_the_files_order(tmp_path) -> None:
    path = route_file(tmp_path / "x.route.csv")
    accesses = read_accesses(path)
    assert accesses["position"].tolist() == [0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert accesses["expert"].tolist() == [3, 1, 3, 2, 0, 1, 1, 0, 2, 1]
    assert accesses["residency"].tolist() == [0, 0, 0, 0, 0, 0, 1, 0, 0, 1]
    assert accesses["expert_bytes"].tolist() == [100, 100, 0, 100, 200, 200, 0, 100, 200, 0]
    assert read_route_header(path).dense_bytes == (10, 20)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("# model=", "# modell=", "line 2 must give model, arch, n_layer, n_expert and n_expert_used"),
        ("# layer=1", "# Layer=1", "line 4 must give layer, expert_bytes and dense_bytes"),
        ("# layer=1 expert_bytes=200 dense_bytes=20\n", "", "must describe 2 layers (n_layer), not 1"),
        (",slot,", ",place,", "must be a complete CSV table with the columns turn,phase,step,layer,slot"),
        ("0,1,2,1,1,1,0.2,1,0\n", "0,1,2,1,1\n", "must be a complete CSV table with the columns"),
        ("0,1,2,1,1,1,0.2,1,0\n", "0,1,2,1,1,x,0.2,1,0\n", "must be a complete CSV table with the columns"),
        ("0,1,2,1,1,1,0.2,1,0\n", "0,1,2,1,1,,0.2,1,0\n", "column 'expert' must have a number in every row"),
        (ROUTE[ROUTE.index("0,0,0") :], "", "there must be at least one row below the header"),
        (
            "0,1,2,1,1,1,",
            "0,1,2,7,1,1,",
            "request 0, field 'layer': every row must name one of the model's routed",
        ),
        ("0,1,2,1,1,1,", "0,1,2,1,1,16,", "request 0, field 'expert': values must be from -1 to 15"),
        ("n_expert_used=2", "n_expert_used=1", "request 0, field 'slot': values must be from 0 to 0"),
    ],
)
def test_faults_of_a_phone_route_are_refused(tmp_path, old, new, complaint) -> None:
    message = refused(route_file(tmp_path / "x.route.csv", ROUTE.replace(old, new)))
    assert message.startswith("x.route.csv: ")
    assert complaint in message


# the choice of importer


def test_importers_are_found_in_the_folder_and_chosen_by_content(tmp_path) -> None:
    assert [module.__name__ for module in list_importers()] == [
        "traces.importers.esft_text",
        "traces.importers.layer_lists_jsonl",
        "traces.importers.long_parquet",
        "traces.importers.phone_route_csv",
        "traces.importers.simllm_jsonl",
        "traces.importers.stratamoe_json",
        "traces.importers.vllm_arrays",
        "traces.importers.vllm_responses",
    ]
    # names that mislead on purpose
    long_table, route = long_file(tmp_path / "a.csv"), route_file(tmp_path / "b.parquet")
    assert find_importer(long_table).__name__ == "traces.importers.long_parquet"
    assert find_importer(route).__name__ == "traces.importers.phone_route_csv"


@pytest.mark.parametrize("content", [b"", b"PAR", b"{}", b"hello\n", b"\xff\xfe"])
def test_an_unknown_format_is_refused(tmp_path, content) -> None:
    path = tmp_path / "x.bin"
    path.write_bytes(content)
    message = refused(path)
    assert message.startswith("x.bin: the file's format is not one that can be imported")
    assert (
        "(known formats: esft_text, layer_lists_jsonl, long_parquet, phone_route_csv, simllm_jsonl, stratamoe_json, "
        in message
    )


def test_a_missing_source_is_refused(tmp_path) -> None:
    assert "there is no such file to import" in refused(tmp_path / "none.csv")


# published files that are not shipped


@pytest.mark.skipif(EXTRA_DATA is None, reason="needs MOESIM_EXTRA_DATA")
def test_deepseek_v2_lite_has_26_routed_layers_after_a_dense_one(tmp_path) -> None:
    source = Path(EXTRA_DATA or "") / "traces/per_token/deepseek-v2-lite_esft_intent.parquet"
    trace = import_trace(source, tmp_path / "out.parquet")
    meta = trace.meta
    assert (meta.model, meta.num_experts, meta.top_k, meta.native_top_k) == ("deepseek_v2_lite", 64, 6, 6)
    assert meta.layers == tuple(range(1, 27))
    # 8,222 tokens in 127 samples, 6 experts in each of 26 layers: 1,282,632 rows in the source
    assert len(trace) == 127
    assert sum(info.prefill_tokens for info in trace.requests) == 8222
    assert sum(int((request.experts >= 0).sum()) for request in trace) == 1_282_632
    # the source's first row
    assert trace.request(0).experts[0, 0].tolist() == [57, 60, 26, 56, 8, 11]
    assert trace.request(0).weights[0, 0, 0] == np.float32(0.1787)


@pytest.mark.skipif(EXTRA_DATA is None, reason="needs MOESIM_EXTRA_DATA")
def test_the_tiny_olmoe_trace_brings_two_guesses_and_its_domains(tmp_path) -> None:
    source = Path(EXTRA_DATA or "") / "traces/per_token/tiny_olmoe.parquet"
    trace = import_trace(source, tmp_path / "out.parquet", model="tiny_olmoe")
    assert (trace.meta.guess_distances, trace.meta.guess_width, trace.meta.top_k) == (2, 4, 4)
    assert {(info.prefill_tokens, info.decode_tokens) for info in trace.requests} == {(96, 64)}
    assert len({info.task for info in trace.requests}) == 10
    # its description: of the next layer's experts .61 to .90 are guessed, according to the layer
    hits = [
        (request.guesses[:, :-1, 0, :, None] == request.experts[:, 1:, None, :]).any(-1).mean() for request in trace
    ]
    assert 0.6 < float(np.mean(hits)) < 0.9
