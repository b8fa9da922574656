"""Norms by layer, and requests alike by embedding beside requests routed alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from experiments.cli import main
from experiments.trace_report import html_page, table_rows
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, open_trace
from traces.statistics import summarise
from traces.statistics.hidden import EMBEDDING_KEYS

RIGHT, UP = [1.0, 0.0], [0.0, 1.0]


def request(number: int, expert: int, embedding: Sequence[float] | None = None, norms: Any = None) -> RequestTrace:
    """Four tokens that all go to one expert in both layers."""
    return RequestTrace(
        id=number,
        positions=np.arange(4, dtype=np.int32),
        phases=np.ones(4, dtype=np.int8),
        experts=np.full((4, 2, 1), expert, dtype=np.int16),
        norms=None if norms is None else np.array(norms, dtype=np.float32),
        embedding=None if embedding is None else np.array(embedding, dtype=np.float32),
    )


@pytest.fixture
def written(tmp_path: Path) -> Callable[..., Trace]:
    def write(requests: Sequence[RequestTrace], tasks: Sequence[str] | None = None) -> Trace:
        first = requests[0]
        meta = TraceMeta(
            model="toy",
            num_experts=3,
            top_k=1,
            native_top_k=1,
            layers=(2, 5),
            has_norms=first.norms is not None,
            embedding_width=0 if first.embedding is None else len(first.embedding),
        )
        with TraceWriter(tmp_path / "toy.parquet", meta) as writer:
            for number, one in enumerate(requests):
                writer.write(one, tasks[number] if tasks else None)
        return open_trace(tmp_path / "toy.parquet")

    return write


def pairs(embeddings: Sequence[Sequence[float]]) -> list[RequestTrace]:
    """Requests 0 and 1 go to expert 0, requests 2 and 3 to expert 1."""
    return [request(number, number // 2, embedding) for number, embedding in enumerate(embeddings)]


def test_norms_are_averaged_over_the_tokens_that_have_one(written) -> None:
    nan = np.nan
    found = summarise(
        written([request(0, 0, norms=[[1, 2], [3, nan], [1, 2], [3, 2]]), request(1, 0, norms=[[2, 2]] * 4)])
    )
    assert found["by_layer"]["norm_mean"] == [2.0, 2.0]
    # layer 2: squares 1 + 9 + 1 + 9 + 4 * 4 over 8 tokens, less 2 ** 2: a variance of 0.5
    assert found["by_layer"]["norm_cv"] == pytest.approx([0.5**0.5 / 2, 0.0], abs=1e-6)
    assert found["norm_mean"] == 2.0


def test_a_layer_without_a_norm_has_no_mean(written) -> None:
    found = summarise(written([request(0, 0, norms=[[3, np.nan]] * 4)]))
    assert found["by_layer"]["norm_mean"] == [3.0, None]
    assert found["norm_mean"] == 3.0
    assert summarise(written([request(0, 0, norms=[[np.nan] * 2] * 4)]))["norm_mean"] is None


def test_embeddings_that_tell_the_routing_find_a_request_routed_alike(written) -> None:
    found = summarise(written(pairs([RIGHT, RIGHT, UP, UP]), ["a", "a", "b", "b"]))
    assert found["nearest_request_similarity"] == 1.0
    assert found["other_request_similarity"] == pytest.approx(1 / 3, abs=1e-6)  # one of three others
    assert found["embedding_routing_correlation"] == 1.0
    assert found["embedding_cosine"] == pytest.approx(1 / 3, abs=1e-6)
    assert (found["same_task_embedding_cosine"], found["other_task_embedding_cosine"]) == (1.0, 0.0)


def test_embeddings_that_say_the_contrary_find_a_request_routed_otherwise(written) -> None:
    found = summarise(written(pairs([RIGHT, UP, RIGHT, UP])))
    assert found["nearest_request_similarity"] == 0.0
    # of six pairs two are alike by embedding, two others by routing: (0 - 1/9) / (2/9)
    assert found["embedding_routing_correlation"] == -0.5
    assert found["same_task_embedding_cosine"] is None


def test_the_length_of_an_embedding_does_not_count_and_unknown_ones_are_left_out(written) -> None:
    plain = summarise(written(pairs([RIGHT, RIGHT, UP, UP])))
    scaled = pairs([RIGHT, [9.0, 0.0], UP, [0.0, 0.1]])
    more = [request(4, 2, [np.nan, 0.0]), request(5, 2, [0.0, 0.0])]
    found = summarise(written([*scaled, *more]))
    for key in EMBEDDING_KEYS:
        assert found[key] == plain[key], key


def test_embeddings_dealt_at_random_tell_little(written) -> None:
    rng = np.random.default_rng(0)
    requests = [request(n, n % 3, rng.normal(np.eye(3)[n % 3], 0.2).tolist()) for n in range(60)]
    found = summarise(written(requests))
    assert found["embedding_routing_correlation"] > 0.7
    assert abs(found["embedding_routing_correlation_shuffle"]) < 0.15
    assert found["nearest_request_similarity"] > 0.95 > found["other_request_similarity"]


@pytest.mark.parametrize("requests", [[request(0, 0)], [request(0, 0, RIGHT), request(1, 1, UP)]])
def test_nothing_is_said_without_embeddings_or_with_two_requests(written, requests) -> None:
    found = summarise(written(requests))
    assert {found[key] for key in EMBEDDING_KEYS} == {None}
    assert not [row for row in table_rows(found) if "embedding" in row[0] or "norm" in row[0]]


def test_the_commands_show_norms_and_embeddings_where_they_are(written, capsys) -> None:
    requests = [request(n, n // 2, e, [[1, 2]] * 4) for n, e in enumerate([RIGHT, RIGHT, UP, UP])]
    path = str(written(requests).path)
    assert main(["show", path]) == 0
    said = capsys.readouterr().out
    assert "recorded: experts, norms of hidden states, embeddings of requests (2 numbers)" in " ".join(said.split())
    assert main(["trace", "stats", path]) == 0
    said = capsys.readouterr().out
    assert "norm of hidden states by layer: 2 1, 5 2" in said
    assert "similarity to the request nearest by embedding" in said
    page = html_page(summarise(open_trace(path)), path)
    assert "Norm of hidden states by layer" in page


def test_a_notebook_names_them_too(written) -> None:
    html = written([request(0, 0, RIGHT, [[1, 2]] * 4)])._repr_html_()
    assert "norms of hidden states, embeddings of requests (2 numbers)" in html
