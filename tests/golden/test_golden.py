"""Did anything drift? Kept numbers of real-trace runs; `python -m tests.golden.regenerate` writes them anew."""

from __future__ import annotations

import json

import pytest

from tests.golden.regenerate import FOLDER, drift
from tests.golden.runs import RUNS, numbers


@pytest.mark.parametrize("name", RUNS)
def test_the_numbers_of_a_real_run_have_not_moved(name):
    kept = json.loads((FOLDER / f"{name}.json").read_text())
    moved = drift(kept, numbers(RUNS[name].run()))
    assert not moved, "\n".join([f"{name} drifted; if that is meant: python -m tests.golden.regenerate", *moved])


def test_every_kept_file_belongs_to_a_run():
    assert {path.stem for path in FOLDER.glob("*.json")} == set(RUNS)


def test_a_drift_says_which_number_moved_and_by_how_much():
    assert drift({"loads": 200, "hits": 5, "old": 1}, {"loads": 201, "hits": 5, "new": 2}) == [
        "loads moved from 200 to 201 (+1, +0.5 %)",
        "new is new (2)",
        "old is gone (1)",
    ]
