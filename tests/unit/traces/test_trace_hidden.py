"""Norms of hidden states and embeddings of requests in a trace file."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import DATA_FOLDER, RequestTrace, TraceError, TraceMeta, TraceWriter, open_trace

WIDTH = 2


@pytest.fixture
def rich(tmp_path: Path, meta: TraceMeta, make_request: Callable[..., RequestTrace]) -> Path:
    """Requests 7 and 2 with norms 0, 1, 2, … by token and layer, and embeddings (id, -0.5)."""
    path = tmp_path / "rich.parquet"
    with TraceWriter(path, dataclasses.replace(meta, has_norms=True, embedding_width=WIDTH)) as writer:
        for request, tokens in ((7, 4), (2, 6)):
            norms = np.arange(3 * tokens, dtype=np.float32).reshape(tokens, 3)
            embedding = np.array([request, -0.5], dtype=np.float32)
            writer.write(dataclasses.replace(make_request(request, tokens), norms=norms, embedding=embedding))
    return path


def written_again(path: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """The file with its first request changed past the checks."""
    file = pq.ParquetFile(path)
    groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
    damaged = path.with_name("damaged.parquet")
    with pq.ParquetWriter(damaged, groups[0].schema) as writer:
        for group in (change(groups[0]), *groups[1:]):
            writer.write_table(group)
        writer.add_key_value_metadata({b"moesim.trace": file.metadata.metadata[b"moesim.trace"]})
    return damaged


def with_embedding(rows: list[list[float]]) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index, field = table.schema.get_field_index("embedding"), table.schema.field("embedding")
        return table.set_column(index, field, pa.array(rows, type=field.type))

    return change


def test_embeddings_are_read_without_the_rest_and_belong_to_the_requests(rich) -> None:
    trace = open_trace(rich, verify=True)
    assert trace.embeddings().tolist() == [[7, -0.5], [2, -0.5]]
    assert trace.request(1).norms[5].tolist() == [15, 16, 17]
    assert trace.request(1).embedding.tolist() == [2, -0.5]
    assert not trace.request(1).norms.flags.writeable
    assert not trace.request(1).embedding.flags.writeable


def test_on_disk_the_embedding_stands_in_the_first_row_of_its_request_alone(rich) -> None:
    lengths = [len(row) for row in pq.read_table(rich, columns=["embedding"])["embedding"].to_pylist()]
    assert lengths == [WIDTH, *[0] * 11, WIDTH, *[0] * 17]


def test_a_trace_is_of_the_first_version_that_has_all_it_holds(rich, toy_trace) -> None:
    def document(path: Path) -> dict:
        return json.loads(pq.ParquetFile(path).metadata.metadata[b"moesim.trace"])

    new, old = document(rich), document(toy_trace)
    assert (new["format_version"], old["format_version"]) == (2, 1)
    assert set(new) - set(old) == {"has_norms", "embedding_width"}


def test_shipped_traces_are_of_version_1_and_written_again_give_the_same_bytes(tmp_path) -> None:
    for name in ("olmoe_1b_7b", "qwen3_30b_a3b_phone"):
        path = DATA_FOLDER / f"{name}.parquet"
        trace = open_trace(path, verify=True)
        with TraceWriter(tmp_path / path.name, trace.meta) as writer:
            for info, request in zip(trace.requests, trace, strict=True):
                assert request.norms is request.embedding is None
                writer.write(request, info.task)
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
        assert trace.embeddings().shape == (len(trace), 0)


def test_the_digest_of_version_2_has_two_more_fields_and_arrays(tmp_path, meta, make_request) -> None:
    path = tmp_path / "x.parquet"
    request = dataclasses.replace(
        make_request(7, 1), norms=np.ones((1, 3), np.float32), embedding=np.full(WIDTH, 2, np.float32)
    )
    with TraceWriter(path, dataclasses.replace(meta, has_norms=True, embedding_width=WIDTH)) as writer:
        writer.write(request)
    content = (
        b'{"embedding_width":2,"expert_bytes":[10,10,20],"guess_distances":0,"guess_width":0,"has_norms":true,'
        b'"has_probabilities":false,"has_weights":true,"layers":[1,3,4],"native_top_k":2,"num_experts":8,'
        b'"rank_known":true,"top_k":2}\n{"id":7,"shapes":{"embedding":[2],"experts":[1,3,2],"norms":[1,3],"phases":[1],'
        b'"positions":[1],"weights":[1,3,2]},"task":null}\n'
    )
    for array in (request.positions, request.phases, request.experts, request.weights):
        content += array.tobytes()
    content += np.float32([1, 1, 1, 2, 2]).tobytes()
    assert open_trace(path).meta.digest == hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize(
    ("rows", "complaint"),
    [
        ([[], [1.0, 2.0], *[[]] * 10], "it must stand in the first row of the request alone"),
        ([[1.0, 2.0], [1.0, 2.0], *[[]] * 10], "it must stand in the first row of the request alone"),
        ([[1.0], *[[]] * 11], "expected"),
        ([[], *[[]] * 11], "expected"),
    ],
)
def test_an_embedding_out_of_place_is_refused_wherever_it_is_read(rich, rows, complaint) -> None:
    trace = open_trace(written_again(rich, with_embedding(rows)))
    for read in (lambda: trace.request(0), trace.embeddings):
        with pytest.raises(TraceError, match=f"request 7, field 'embedding': {complaint}"):
            read()
    assert trace.request(1).id == 2


def test_another_embedding_is_found_by_the_digest(rich) -> None:
    path = written_again(rich, with_embedding([[7.0, 0.5], *[[]] * 11]))
    assert open_trace(path).embeddings()[0].tolist() == [7, 0.5]
    with pytest.raises(TraceError, match="metadata field 'digest' must be the digest of the content"):
        open_trace(path, verify=True)


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("norms", np.full((4, 3), -1, np.float32), "values must be finite and not negative"),
        ("norms", np.full((4, 3), np.inf, np.float32), "values must be finite and not negative"),
        ("norms", np.ones((4, 2), np.float32), r"expected float32 of shape \(4, 3\)"),
        ("norms", None, "it must be present"),
        ("embedding", np.full(WIDTH, -np.inf, np.float32), "values must be finite"),
        ("embedding", np.ones(WIDTH), "not float64"),
        ("embedding", None, "it must be present"),
    ],
)
def test_the_writer_refuses_norms_and_embeddings_that_do_not_fit(rich, tmp_path, field, value, complaint) -> None:
    trace = open_trace(rich)
    with (
        pytest.raises(TraceError, match=f"out.parquet: request 7, field '{field}': .*{complaint}"),
        TraceWriter(tmp_path / "out.parquet", trace.meta) as writer,
    ):
        writer.write(dataclasses.replace(trace.request(0), **{field: value}))
    assert not (tmp_path / "out.parquet").exists()


def test_what_is_not_known_may_be_nan(rich, tmp_path) -> None:
    trace = open_trace(rich)
    unknown = np.full(WIDTH, np.nan, np.float32)
    with TraceWriter(tmp_path / "out.parquet", trace.meta) as writer:
        writer.write(
            dataclasses.replace(trace.request(0), norms=np.full((4, 3), np.nan, np.float32), embedding=unknown)
        )
    assert np.isnan(open_trace(tmp_path / "out.parquet", verify=True).embeddings()).all()


def test_a_request_that_outlasts_its_trace_keeps_its_embedding(rich) -> None:
    from simulator.binding import rows_of

    request = open_trace(rich).request(1)
    some = rows_of(request, np.array([4, 1]))
    assert some.norms.tolist() == request.norms[[4, 1]].tolist()
    assert some.embedding.tolist() == request.embedding.tolist()
