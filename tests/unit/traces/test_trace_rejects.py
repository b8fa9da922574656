"""Bad files and bad requests end in one clear sentence that names the file, the request and the field."""

from __future__ import annotations

import dataclasses
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import TraceError, TraceWriter, data_path, open_trace


def refused(action) -> str:
    with pytest.raises(TraceError) as caught:
        action()
    message = str(caught.value)
    assert re.fullmatch(r"[^\n]+\.", message), "one sentence on one line"
    return message


def read_all(path) -> None:
    for _ in open_trace(path):
        pass


# the container


def test_a_missing_file_is_refused(tmp_path) -> None:
    assert "there is no such trace file" in refused(lambda: open_trace(tmp_path / "none.parquet"))


@pytest.mark.parametrize("content", [b"", b"PAR1", b"request,position\n1,2\n", b"PAR1" + bytes(100) + b"PAR1"])
def test_a_file_that_is_not_parquet_is_refused(tmp_path, content) -> None:
    path = tmp_path / "x.parquet"
    path.write_bytes(content)
    message = refused(lambda: open_trace(path))
    assert message == "x.parquet: a trace must be a complete Parquet file, but this is none."


def test_every_truncation_is_refused(toy_trace, tmp_path) -> None:
    content = toy_trace.read_bytes()
    path = tmp_path / "cut.parquet"
    for length in range(0, len(content), 97):
        path.write_bytes(content[:length])
        assert "cut.parquet: a trace must be a complete Parquet file" in refused(lambda: open_trace(path))


def test_no_flipped_byte_changes_the_routing_unnoticed(toy_trace, tmp_path) -> None:
    content = toy_trace.read_bytes()
    expected = [request.experts.copy() for request in open_trace(toy_trace)]
    path, refusals = tmp_path / "flipped.parquet", 0
    for offset in range(0, len(content), 11):
        path.write_bytes(content[:offset] + bytes([content[offset] ^ 0xFF]) + content[offset + 1 :])
        try:
            found = [request.experts for request in open_trace(path, verify=True)]
        except TraceError:
            refusals += 1
        else:
            assert all(np.array_equal(got, want) for got, want in zip(found, expected, strict=True))
    assert refusals > 100


# the metadata


def test_a_parquet_file_of_another_kind_is_refused(tmp_path) -> None:
    path = tmp_path / "other.parquet"
    pq.write_table(pa.table({"x": [1]}), path)
    message = refused(lambda: open_trace(path))
    assert message == "other.parquet: the Parquet metadata must have a 'moesim.trace' entry; import it first."


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda d: b"{", "must be valid JSON"),
        (lambda d: b"[]", "must be a JSON object"),
        (lambda d: d.update(format_version=3), "metadata field 'format_version' must be from 1 to 2, not 3"),
        (lambda d: d.update(format_version=True), "metadata field 'format_version' must be from 1 to 2, not True"),
        (lambda d: d.pop("format_version") and None, "metadata field 'format_version' must be from 1 to 2, not None"),
        (lambda d: d.update(format_version=2), "metadata field 'has_norms' is missing"),
        (lambda d: d.update(has_norms=False), "metadata field 'has_norms' is not known"),
        (
            lambda d: d.update(format_version=2, has_norms=False, embedding_width=0),
            "metadata field 'format_version' must be 1 where there is nothing that is new in 2",
        ),
        (
            lambda d: d.update(format_version=2, has_norms=True, embedding_width=-1),
            "metadata field 'embedding_width' must be 0 or more, not -1",
        ),
        (lambda d: d.pop("layers") and None, "metadata field 'layers' is missing"),
        (lambda d: d.update(surprise=1), "metadata field 'surprise' is not known"),
        (lambda d: d.update(top_k="2"), "metadata field 'top_k' must be an integer, not '2'"),
        (lambda d: d.update(has_weights=1), "metadata field 'has_weights' must be true or false, not 1"),
        (lambda d: d.update(model=None), "metadata field 'model' must be a text, not None"),
        (lambda d: d.update(layers=[1, 3, 4.5]), "metadata field 'layers' must be integers"),
        (lambda d: d.update(top_k=9), "metadata field 'top_k' must be from 1 to num_experts (8), not 9"),
        (
            lambda d: d.update(native_top_k=0),
            "metadata field 'native_top_k' must be from 1 to num_experts (8), not 0",
        ),
        (lambda d: d.update(num_experts=40000), "metadata field 'num_experts' must be from 1 to 32767"),
        (lambda d: d.update(layers=[]), "metadata field 'layers' must be layer indices from 0"),
        (lambda d: d.update(layers=[1, 3, 3]), "metadata field 'layers' must be strictly ascending"),
        (
            lambda d: d.update(expert_bytes=[10]),
            "metadata field 'expert_bytes' must be one size for each of the 3",
        ),
        (lambda d: d.update(expert_bytes=[10, 0, 1]), "metadata field 'expert_bytes' must be positive"),
        (
            lambda d: d.update(guess_width=2),
            "metadata field 'guess_width' must be 0 where guess_distances is 0",
        ),
        (lambda d: d.update(guess_distances=-1), "metadata field 'guess_distances' must be 0 or more"),
        (lambda d: d.update(requests=[]), "metadata field 'requests' must be a list of at least one request"),
        (
            lambda d: d["requests"][1].pop("tokens") and None,
            "line 1 of 'requests', field 'tokens' is missing",
        ),
        (
            lambda d: d["requests"][0].update(task=3),
            "line 0 of 'requests', field 'task' must be a text or null",
        ),
        (lambda d: d["requests"][1].update(id=7), "request 7 occurs twice"),
        (lambda d: d["requests"][0].update(decode_tokens=3), "request 7 must have at least one token"),
    ],
)
def test_metadata_that_breaks_a_rule_is_refused_on_opening(damage, change, complaint) -> None:
    path = damage(document=lambda document: change(document))
    message = refused(lambda: open_trace(path))
    assert message.startswith("damaged.parquet: ")
    assert complaint in message


# the columns


def test_a_missing_column_is_refused(damage) -> None:
    path = damage(tables=lambda groups: [group.drop_columns(["phase"]) for group in groups])
    assert refused(lambda: open_trace(path)) == "damaged.parquet: column 'phase' is missing."


def test_an_unannounced_column_is_refused(damage) -> None:
    path = damage(document=lambda document: document.update(has_weights=False))
    assert "column 'weights' is not part of the format, or not announced" in refused(lambda: open_trace(path))


def test_a_column_of_another_type_is_refused(damage) -> None:
    def widen(groups: list[pa.Table]) -> list[pa.Table]:
        return [group.set_column(1, "position", group.column("position").cast(pa.int64())) for group in groups]

    path = damage(tables=widen)
    assert refused(lambda: open_trace(path)) == "damaged.parquet: column 'position' must be int32, not int64."


def test_a_missing_row_group_is_refused(damage) -> None:
    path = damage(tables=lambda groups: groups[:1])
    assert "one row group for each of the 2 requests of the metadata, not 1" in refused(lambda: open_trace(path))


def test_missing_rows_are_refused(damage) -> None:
    path = damage(tables=lambda groups: [groups[0].slice(1), groups[1]])
    message = refused(lambda: open_trace(path))
    assert message == "damaged.parquet: request 7 must have 12 rows (4 tokens on 3 layers), not 11."


# the rows


def assign(index, value):
    def change(values: np.ndarray) -> None:
        values[index] = value

    return change


@pytest.mark.parametrize(
    ("column", "change", "complaint"),
    [
        ("request", assign(4, 8), "field 'request': every row of the row group"),
        ("layer", assign(0, 2), "field 'layer': every token must have one row for each layer"),
        ("position", assign(0, 4), "field 'position': all layers of a token must have the same position"),
        (
            "position",
            assign(slice(3, 6), 5),
            "field 'position': positions must be non-negative and strictly ascend",
        ),
        (
            "position",
            assign(slice(0, 3), 9),
            "field 'position': positions must be non-negative and strictly ascend",
        ),
        ("position", assign(slice(0, 3), -1), "field 'position': positions must be non-negative"),
        (
            "phase",
            assign(slice(0, 3), 2),
            "field 'phase': a phase must be 0 (prefill), 1 (decode) or -1 (unknown)",
        ),
        ("phase", assign(slice(0, 3), 1), "field 'phase': prefill must not follow decode"),
        ("phase", assign(slice(0, 3), -1), "field 'requests': the request table"),
        ("experts", assign(0, 8), "field 'experts': an expert id must be from 0 to 7, or -1 for none, not 8"),
        (
            "experts",
            assign(0, -2),
            "field 'experts': an expert id must be from 0 to 7, or -1 for none, not -2",
        ),
        # token 0 at the first layer has experts 0 and 3
        (
            "experts",
            assign(0, 3),
            "field 'experts': the experts of one token and layer must differ, but expert 3",
        ),
        ("weights", assign(0, -0.5), "field 'weights': values must be finite and not negative"),
        ("weights", assign(0, np.inf), "field 'weights': values must be finite and not negative"),
    ],
)
def test_rows_that_break_a_rule_are_refused_when_the_request_is_read(damage, column, change, complaint) -> None:
    path = damage(column, change)
    trace = open_trace(path)
    assert trace.request(1).id == 2, "the other request is still readable"
    message = refused(lambda: trace.request(0))
    assert message.startswith("damaged.parquet: request 7, ")
    assert complaint in message


def test_a_change_that_breaks_no_rule_is_found_by_the_digest(damage) -> None:
    path = damage("experts", assign(0, 1))
    read_all(path)
    message = refused(lambda: open_trace(path, verify=True))
    assert message == "damaged.parquet: metadata field 'digest' must be the digest of the content."


# the writer


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("experts", np.zeros((4, 3, 1), np.int16), "field 'experts': expected int16 of shape (4, 3, 2)"),
        ("positions", np.arange(4), "field 'positions': expected int32 of shape (4,), not int64"),
        ("weights", None, "field 'weights': it must be present"),
        ("guesses", np.zeros((4, 3, 1, 1), np.int16), "field 'guesses': it must be absent"),
        ("id", -1, "field 'id': a request id must fit a non-negative int32"),
    ],
)
def test_the_writer_refuses_a_request_that_does_not_fit_the_metadata(
    tmp_path, meta, make_request, field, value, complaint
) -> None:
    def write() -> None:
        with TraceWriter(tmp_path / "out.parquet", meta) as writer:
            writer.write(dataclasses.replace(make_request(), **{field: value}))

    message = refused(write)
    assert message.startswith("out.parquet: request ")
    assert complaint in message
    assert list(tmp_path.iterdir()) == []


def test_the_writer_refuses_the_same_id_twice_and_a_request_without_tokens(tmp_path, meta, make_request) -> None:
    with TraceWriter(tmp_path / "out.parquet", meta) as writer:
        writer.write(make_request(1))
        assert "request 1 was written twice" in refused(lambda: writer.write(make_request(1)))
        assert "at least one token" in refused(lambda: writer.write(make_request(2, 0)))


def test_a_guess_beyond_the_last_layer_is_refused(tmp_path, meta, make_request) -> None:
    meta = dataclasses.replace(meta, guess_distances=2, guess_width=1)
    guesses = np.full((4, 3, 2, 1), -1, dtype=np.int16)
    guesses[:, 0] = 5  # at layer ordinal 0 for ordinals 1 and 2
    guesses[:, 1, 0] = 6  # at ordinal 1 for ordinal 2
    with TraceWriter(tmp_path / "out.parquet", meta) as writer:
        writer.write(dataclasses.replace(make_request(), guesses=guesses))
        guesses = guesses.copy()
        guesses[0, 1, 1] = 6  # at ordinal 1 for ordinal 3, of 0 … 2
        message = refused(lambda: writer.write(dataclasses.replace(make_request(1), guesses=guesses)))
    assert "field 'guesses': a guess for a layer after the last one must be -1" in message


def test_the_writer_needs_its_with_block(tmp_path, meta, make_request) -> None:
    assert "inside the writer's 'with' block" in refused(
        lambda: TraceWriter(tmp_path / "o", meta).write(make_request())
    )


def test_an_unknown_shipped_name_lists_those_there_are() -> None:
    assert "gpt_oss_20b.parquet" in refused(lambda: data_path("gpt_oss_2b.parquet"))
