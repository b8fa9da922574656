"""The command line in process, in a folder of its own."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from experiments.cli import main

SHORT = ["experiment=smoke", "workload.max_decode_tokens=2", "reference=false"]


class Said(NamedTuple):
    """What a command answered."""

    code: int
    out: str
    err: str


def moesim(*arguments: str) -> Said:
    """Call the command line; an exception that escapes it fails the test."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(list(arguments))
    return Said(code, out.getvalue(), err.getvalue())


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """The command line, started in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return moesim


@pytest.fixture
def refuses(call: Callable[..., Said]) -> Callable[..., None]:
    """`refuses(sentence, *overrides)`: a short run with them ends with exit code 2 and that sentence alone."""

    def check(sentence: str, *overrides: str) -> None:
        said = call("run", *SHORT, *overrides)
        assert said == Said(2, "", f"{sentence}\n")

    return check
