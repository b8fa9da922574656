"""`moesim trace synthesize`: from a profile and from a trace, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments.cli import main
from traces import open_trace

PROFILE = """
model: Mixtral-8x7B
layers: 2
experts: 4
top_k: 1
tokens: 8
parameters: {load_spread: 0.3, stickiness: 0.5}
"""


def test_a_trace_of_a_profile_in_another_shape(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    profile, out = tmp_path / "own.yaml", tmp_path / "out.parquet"
    profile.write_text(PROFILE)
    shape = ["--layers", "3", "--experts", "6", "--top-k", "2", "--requests", "2", "--tokens", "5"]
    assert main(["trace", "synthesize", "--profile", str(profile), "--out", str(out), *shape]) == 0
    assert "2 requests, 10 tokens, 3 layers of 6 experts, top-2" in capsys.readouterr().out
    assert "rescaled to 3 layers" in open_trace(out, verify=True).meta.source


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--profile", "nobody", "--out", "x.parquet"], "no such profile"),
        (["--fit", "nobody", "--out", "x.parquet"], "no such trace file"),
        (["--profile", "mixtral_8x7b", "--fit", "olmoe_1b_7b", "--out", "x.parquet"], "not allowed with"),
        (["--profile", "mixtral_8x7b", "--out", "x.parquet", "--tokens", "0"], "tokens is 0"),
    ],
)
def test_what_cannot_be_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    assert main(["trace", "synthesize", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
