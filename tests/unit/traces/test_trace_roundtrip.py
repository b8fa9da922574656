"""What is written is what is read, whatever a trace holds."""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from traces import RequestInfo, RequestTrace, TraceError, TraceMeta, TraceWriter, open_trace

ARRAYS = ("positions", "phases", "experts", "weights", "probabilities", "guesses", "norms", "embedding")


@st.composite
def any_trace(draw: st.DrawFn) -> tuple[TraceMeta, list[tuple[RequestTrace, str | None]]]:
    num_experts = draw(st.integers(1, 12))
    top_k = draw(st.integers(1, num_experts))
    layers = tuple(sorted(draw(st.sets(st.integers(0, 100), min_size=1, max_size=4))))
    distances = draw(st.integers(0, 2))
    width = draw(st.integers(1, num_experts)) if distances else 0
    meta = TraceMeta(
        model=draw(st.text(max_size=5)),
        num_experts=num_experts,
        top_k=top_k,
        native_top_k=num_experts,
        layers=layers,
        rank_known=draw(st.booleans()),
        expert_bytes=draw(st.none() | st.just(tuple(range(1, len(layers) + 1)))),
        has_weights=draw(st.booleans()),
        has_probabilities=draw(st.booleans()),
        guess_distances=distances,
        guess_width=width,
        has_norms=draw(st.booleans()),
        embedding_width=draw(st.integers(0, 3)),
        notes=draw(st.text(max_size=10)),
    )
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=3, unique=True))
    return meta, [(draw(any_request(request, meta)), draw(st.none() | st.text(max_size=5))) for request in ids]


@st.composite
def any_request(draw: st.DrawFn, request: int, meta: TraceMeta) -> RequestTrace:
    positions = sorted(draw(st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=5)))
    tokens, layers = len(positions), len(meta.layers)
    prefill = draw(st.integers(0, tokens))
    phases = [draw(st.sampled_from([-1, 0 if index < prefill else 1])) for index in range(tokens)]
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    experts = rng.random((tokens, layers, meta.num_experts)).argsort(axis=-1)[..., : meta.top_k].astype(np.int16)
    experts[rng.random(experts.shape) < 0.2] = -1
    gate = st.floats(0, 2.0, width=32) | st.just(np.float32(np.nan))
    shape = (tokens, layers, meta.top_k)
    guesses = rng.integers(-1, meta.num_experts, (tokens, layers, meta.guess_distances, meta.guess_width))
    for distance in range(meta.guess_distances):
        guesses[:, max(layers - 1 - distance, 0) :, distance] = -1
    return RequestTrace(
        id=request,
        positions=np.array(positions, dtype=np.int32),
        phases=np.array(phases, dtype=np.int8),
        experts=experts,
        weights=draw(npst.arrays(np.float32, shape, elements=gate)) if meta.has_weights else None,
        probabilities=rng.random((tokens, layers, meta.num_experts), dtype=np.float32)
        if meta.has_probabilities
        else None,
        guesses=guesses.astype(np.int16) if meta.guess_distances else None,
        norms=draw(npst.arrays(np.float32, (tokens, layers), elements=gate)) if meta.has_norms else None,
        embedding=draw(npst.arrays(np.float32, meta.embedding_width, elements=gate)) if meta.embedding_width else None,
    )


def write(path: Path, meta: TraceMeta, rows: list[tuple[RequestTrace, str | None]]) -> None:
    with TraceWriter(path, meta) as writer:
        for request, task in rows:
            writer.write(request, task)


@given(any_trace())
@settings(max_examples=60, deadline=None)
def test_a_trace_read_back_is_what_was_written_and_writing_it_again_gives_the_same_bytes(trace) -> None:
    meta, rows = trace
    with tempfile.TemporaryDirectory() as folder:
        first, second = Path(folder, "first.parquet"), Path(folder, "second.parquet")
        write(first, meta, rows)
        read = open_trace(first, verify=True)
        assert dataclasses.replace(read.meta, digest="") == meta
        assert [(info.id, info.task) for info in read.requests] == [(request.id, task) for request, task in rows]
        for (request, _), found in zip(rows, read, strict=True):
            for name in ARRAYS:
                expected, got = getattr(request, name), getattr(found, name)
                np.testing.assert_array_equal(got, expected)
                assert got is None or (got.dtype == expected.dtype and not got.flags.writeable)
        if meta.embedding_width:
            np.testing.assert_array_equal(read.embeddings(), [request.embedding for request, _ in rows])
        write(second, read.meta, [(read.request(index), info.task) for index, info in enumerate(read.requests)])
        assert first.read_bytes() == second.read_bytes()


def test_the_request_table_counts_tokens_by_phase(toy_trace) -> None:
    # positions start at 5; of 4 and 6 tokens the first two are prefill
    assert open_trace(toy_trace).requests == (
        RequestInfo(
            id=7,
            tokens=4,
            first_position=5,
            prefill_tokens=2,
            decode_tokens=2,
            unknown_tokens=0,
            task="maths",
        ),
        RequestInfo(id=2, tokens=6, first_position=5, prefill_tokens=2, decode_tokens=4, unknown_tokens=0),
    )


def test_requests_are_read_by_index_in_any_order(toy_trace) -> None:
    trace = open_trace(toy_trace)
    assert len(trace) == 2
    assert [trace.request(index).id for index in (1, 0, 1)] == [2, 7, 2]
    # token 3 at the second layer: experts (3 + 1) and (3 + 1 + 3)
    assert trace.request(0).experts[3, 1].tolist() == [4, 7]
    with pytest.raises(IndexError, match="no request at index 2"):
        trace.request(2)


def test_the_digest_is_the_hash_of_a_header_and_each_request(toy_trace, make_request) -> None:
    header = (
        b'{"expert_bytes":[10,10,20],"guess_distances":0,"guess_width":0,"has_probabilities":false,"has_weights":true,'
        b'"layers":[1,3,4],"native_top_k":2,"num_experts":8,"rank_known":true,"top_k":2}\n'
    )
    lines = [
        b'{"id":7,"shapes":{"experts":[4,3,2],"phases":[4],"positions":[4],"weights":[4,3,2]},"task":"maths"}\n',
        b'{"id":2,"shapes":{"experts":[6,3,2],"phases":[6],"positions":[6],"weights":[6,3,2]},"task":null}\n',
    ]
    content = header
    for line, request in zip(lines, (make_request(7, 4), make_request(2, 6)), strict=True):
        content += line + request.positions.tobytes() + request.phases.tobytes()
        content += request.experts.tobytes() + request.weights.tobytes()
    assert open_trace(toy_trace).meta.digest == hashlib.sha256(content).hexdigest()


def test_the_digest_does_not_depend_on_names_and_notes_but_on_content(tmp_path, meta, make_request) -> None:
    def digest(meta: TraceMeta, request: RequestTrace, task: str | None = None) -> str:
        write(tmp_path / "x.parquet", meta, [(request, task)])
        return open_trace(tmp_path / "x.parquet").meta.digest

    plain = digest(meta, make_request())
    assert digest(dataclasses.replace(meta, notes="other", source="elsewhere"), make_request()) == plain
    assert digest(dataclasses.replace(meta, native_top_k=3), make_request()) != plain
    assert digest(meta, make_request(), "task") != plain
    assert digest(meta, dataclasses.replace(make_request(), id=1)) != plain


def test_nothing_is_left_behind_when_writing_fails(tmp_path, meta, make_request) -> None:
    path = tmp_path / "trace.parquet"
    write(path, meta, [(make_request(), None)])
    before = path.read_bytes()
    repeated = [(make_request(1), None), (make_request(1), None)]
    with pytest.raises(TraceError, match=r"trace\.parquet: request 1 was written twice"):
        write(path, meta, repeated)
    with pytest.raises(TraceError, match=r"trace\.parquet: a trace must hold at least one request"):
        write(path, meta, [])
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_bytes() == before


def test_the_final_name_appears_only_when_the_file_is_complete(tmp_path, meta, make_request) -> None:
    path = tmp_path / "trace.parquet"
    with TraceWriter(path, meta) as writer:
        writer.write(make_request())
        assert not path.exists()
    assert len(open_trace(path)) == 1
