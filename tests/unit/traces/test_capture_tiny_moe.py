"""The small model: its texts' cleaning, its recipe, its shipped trace, and a real offloading loop beside a replay."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from experiments.tiny_moe import corpora
from experiments.tiny_moe.train import Recipe, batch, evaluation_windows
from simulator.model import ModelSpec
from traces import DATA_FOLDER, open_trace
from traces.capture.prompts import Prompt

ROOT = Path(__file__).parents[3]
CHECKPOINT = ROOT / "experiments/tiny_moe/checkpoint"
TRACE = DATA_FOLDER / "tiny_moe.parquet"


def test_man_pages_and_html_become_plain_text() -> None:
    roff = '.\\" note\n.SH NAME\n\\fBls\\fR \\- list \\(lqfiles\\(rq\n.PP\nIt\\(aqs here.\n'
    assert corpora._plain_roff(roff) == "NAME\nls - list “files”\n\nIt's here."
    page = "<head><title>x</title></head><p>One &amp; <b>two</b></p><script>no()</script><p>three</p>"
    assert corpora._plain_html(page) == "One & two\nthree"


def test_one_document_in_25_is_held_out_and_none_is_in_both() -> None:
    documents = [f"text {number}" for number in range(100)]
    kept, held = corpora.split(documents)
    assert len(held) == 4
    assert sorted([*kept, *held]) == sorted(documents)


def test_a_big_domain_is_thinned_evenly_and_short_documents_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpora, "DOMAIN_BYTES", 20_000)
    documents = [str(number % 10) * 2_000 for number in range(40)]
    kept = corpora._capped(iter([*documents, "short"]))
    assert kept == documents[3::4]  # 10 of 40


def test_the_learning_rate_rises_stays_and_falls() -> None:
    recipe = Recipe(steps=1000, warmup=100, decay=0.4, learning_rate=1.0)
    rates = [recipe.rate(step) for step in (0, 99, 599, 800, 999)]
    assert rates == pytest.approx([0.01, 1, 1, 0.5, 0.05])


def test_a_step_always_has_the_same_batch() -> None:
    ids = {"a": np.arange(1000, dtype=np.uint16), "b": np.arange(1000, 9000, dtype=np.uint16)}
    recipe = Recipe(sequences=64, length=16)
    first = batch(ids, recipe, 7)
    assert first.shape == (64, 16)
    assert (first == batch(ids, recipe, 7)).all()
    assert (first != batch(ids, recipe, 8)).any()
    assert 0 < (first[:, 0] < 1000).sum() < 32  # √1000 against √8000


def test_evaluation_reads_the_held_out_text_from_end_to_end() -> None:
    windows = evaluation_windows({"a": [np.arange(500), np.arange(500, 1000)]}, 100)["a"]
    assert (windows[0, 0], windows[-1, -1]) == (0, 999)


def test_the_shipped_trace_is_of_the_shipped_model() -> None:
    trace = open_trace(TRACE, verify=True)
    config = json.loads((CHECKPOINT / "config.json").read_text())
    meta = trace.meta
    assert (meta.num_experts, meta.top_k, len(meta.layers)) == (
        config["num_experts"],
        config["num_experts_per_tok"],
        config["num_hidden_layers"],
    )
    assert meta.expert_bytes == (3 * config["hidden_size"] * config["intermediate_size"] * 2,) * 8
    model = ModelSpec.from_mapping(OmegaConf.load(ROOT / "experiments/conf/model/tiny_moe.yaml"), where="tiny_moe")
    assert model.expert_bytes == meta.expert_bytes[0]
    assert (CHECKPOINT / "model.safetensors").stat().st_size == pytest.approx(2 * model.total_params, rel=0.02)


def test_the_shipped_trace_has_ten_domains_weights_probabilities_and_guesses() -> None:
    trace = open_trace(TRACE)
    assert len(trace) == 80
    assert {info.task for info in trace.requests} == {
        *("bible", "essay", "linuxdoc", "man", "german", "french", "perl", "python", "c", "glossary")
    }
    meta = trace.meta
    assert (meta.has_weights, meta.has_probabilities, meta.guess_distances) == (True, True, 3)
    request = trace.request(0)
    assert request.probabilities is not None
    assert request.weights is not None
    chosen = np.take_along_axis(request.probabilities, request.experts.astype(int), -1)
    np.testing.assert_allclose(chosen, request.weights, rtol=2**-7)  # both are rounded
    np.testing.assert_allclose(request.probabilities.sum(-1), 1, rtol=2**-8)


def test_the_shipped_files_are_small() -> None:
    assert TRACE.stat().st_size < 4e6
    assert sum(path.stat().st_size for path in CHECKPOINT.iterdir()) < 12e6


def test_a_replay_predicts_every_hit_and_miss_of_a_real_offloading_loop(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("transformers")
    from experiments.tiny_moe import offload

    rows = offload.prove(CHECKPOINT, [Prompt("The file system is mounted on")], tmp_path, (4, 16))
    for row in rows:
        assert row.same
        assert row.hits == row.predicted_hits
        assert row.bytes_read == (row.accesses - row.hits) * 3 * 160 * 32 * 2
    assert 0 < rows[0].hits < rows[1].hits < rows[1].accesses
