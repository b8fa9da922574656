"""README's table and figure are of the demo's own experiment."""

from __future__ import annotations

import importlib
from pathlib import Path

import pandas as pd
import pytest

from experiments.demo import SYSTEMS, system_configs
from experiments.run import run_config

ROOT = Path(__file__).parents[3]
ROWS = ROOT / "docs" / "images" / "demo.csv"


def test_the_readme_has_the_table_of_the_demo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(ROOT / "docs" / "_ext")
    rows = pd.read_csv(ROWS)
    assert {shown for shown, _ in SYSTEMS.values()} == set(rows["name"])
    assert importlib.import_module("demo").table(rows) in (ROOT / "README.md").read_text(), "make demo-page"


def test_the_rows_are_what_the_demo_gives_now() -> None:
    place = list(SYSTEMS).index("lfu")
    summary = run_config(system_configs(10)[place]).summary  # ten requests: the command's default
    row = pd.read_csv(ROWS).set_index("name").loc["LFU"]
    assert (summary["tpot_mean_s"], summary["hit_rate"]) == pytest.approx((row["tpot_s"], row["hit_rate"])), (
        "make demo-page writes README's table and figure anew"
    )
