"""The prompts file and the command line of a capture; needs no torch."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from experiments.cli import main
from experiments.commands import trace_capture
from traces.capture import CaptureError
from traces.capture.prompts import Prompt, read_prompts
from traces.capture.run import Settings


def test_prompts_are_read_in_order_with_their_tasks(tmp_path: Path) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "one", "task": "count"}\n\n{"prompt": "zwölf"}\n', encoding="utf-8")
    assert read_prompts(file) == [Prompt("one", "count"), Prompt("zwölf")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("hello", r"line 2: expected a JSON object"),
        ('["prompt"]', r"line 2: expected a JSON object"),
        ('{"task": "a"}', r"line 2, field 'prompt': expected a text"),
        ('{"prompt": ""}', r"line 2, field 'prompt': expected a text that is not empty"),
        ('{"prompt": "a", "task": 3}', r"line 2, field 'task': expected a text or null, not 3"),
        ('{"prompt": "a", "tsk": "b"}', r"line 2, field 'tsk': expected no fields but"),
    ],
)
def test_a_bad_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text(f'{{"prompt": "a"}}\n{line}\n')
    with pytest.raises(CaptureError, match=message):
        read_prompts(file)


@pytest.mark.parametrize(("content", "message"), [(b"", "at least one line"), (b"\xff\xfe\x00", "in UTF-8")])
def test_a_file_without_prompts_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_bytes(content)
    with pytest.raises(CaptureError, match=message):
        read_prompts(file)


def test_a_place_for_the_trace_is_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    assert main(["trace", "capture", "model", "--prompts", str(file)]) == 2
    assert "expected --out TRACE" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("switches", "message"),
    [
        (["--prompts", "none.jsonl"], "there is no such file of prompts"),
        (["--guesses", "4"], "'guesses' is 4; expected 0 to 3"),
        (["--requests", "0"], "--requests is 0; expected at least 1"),
        (["--out", "nowhere/t.parquet"], "there is no folder"),
    ],
)
def test_wrong_switches_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], switches: list[str], message: str
) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    usual = ["trace", "capture", str(tmp_path), "--prompts", str(file), "--out", str(tmp_path / "t.parquet")]
    assert main([*usual, *switches]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("switches", [[], ["--norms"], ["--embeddings"], ["--norms", "--embeddings"]])
def test_norms_and_embeddings_are_switched_on_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, switches: list[str]
) -> None:
    asked: list[Settings] = []

    def note(
        model: object, tokenizer: object, prompts: object, out: object, settings: Settings, *_: object, **__: object
    ):
        asked.append(settings)
        raise CaptureError("seen.")

    monkeypatch.setattr(trace_capture, "load", lambda *_, **__: (None, None))
    monkeypatch.setattr(trace_capture, "capture_trace", note)
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    out = ["--out", str(tmp_path / "t.parquet")]
    assert main(["trace", "capture", "model", "--prompts", str(file), *out, *switches]) == 2
    assert [(one.norms, one.embeddings) for one in asked] == [("--norms" in switches, "--embeddings" in switches)]


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="torch is installed")
def test_without_torch_the_command_says_how_to_get_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "prompts.jsonl"
    file.write_text('{"prompt": "a"}\n')
    assert main(["trace", "capture", "model", "--prompts", str(file), "--out", str(tmp_path / "t.parquet")]) == 2
    assert "pip install 'moesim[capture]'" in capsys.readouterr().err
