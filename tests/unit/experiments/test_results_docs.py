"""docs/results.md: its commands and examples run in order and print what the page says; so do the doctests."""

from __future__ import annotations

import contextlib
import doctest
import importlib
import io
import re
import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

PAGE = Path(__file__).parents[3] / "docs" / "results.md"


def test_the_page_does_what_it_says(call: Callable, tmp_path: Path) -> None:
    blocks = re.findall(r"```(\w+)\n(.*?)```", PAGE.read_text(), flags=re.S)
    assert [kind for kind, _ in blocks].count("python") >= 6
    names: dict[str, Any] = {}
    printed = ""
    for kind, text in blocks:
        if kind == "sh":
            for line in text.splitlines():
                arguments = [*shlex.split(line)[1:], *(["--workers", "0"] if " sweep " in line else [])]
                said = call(*arguments)
                assert (said.code, said.err) == (0, ""), line
        elif text.startswith("request,token"):
            (tmp_path / "measured.csv").write_text(text)
        elif kind == "python":
            out = io.StringIO()
            with warnings.catch_warnings(record=True) as caught, contextlib.redirect_stdout(out):
                warnings.simplefilter("always")
                exec(text, names)
            printed = out.getvalue()
            for warning in caught:
                assert str(warning.message).rstrip(".") in " ".join(PAGE.read_text().split())
        else:
            assert printed.rstrip() == text.rstrip()


@pytest.mark.parametrize("module", ["front", "pairing", "measured"])
def test_the_examples_in_docstrings_are_true(module: str) -> None:
    failed, tried = doctest.testmod(importlib.import_module(f"experiments.results.{module}"))
    assert tried > 0
    assert failed == 0
