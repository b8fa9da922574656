"""The table that a sweep prints: what tells the points apart, never cut short, and what changes the answers."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rich.console import Console

from experiments.commands.sweep import print_points

SHORT = ["experiment=smoke", "workload.requests=1", "workload.max_decode_tokens=2", "--workers", "0"]
SYSTEMS = ["hobbit", "fiddler", "mixtral_offloading"]


def printed(width: int = 80, **columns: Any) -> list[str]:
    """Lines of the table of points with these configuration columns and metrics (`__` stands for a dot)."""
    metrics = {name: columns.pop(name) for name in list(columns) if name.endswith("_share")}
    frame = pd.DataFrame({name.replace("__", "."): values for name, values in columns.items()})
    count = len(frame)
    frame = frame.assign(requests=1, tpot_mean_s=[0.01 * (i + 1) for i in range(count)], hit_rate=0.5, **metrics)
    frame.insert(0, "point", range(count))
    frame.insert(1, "point_id", [f"id{i}" for i in range(count)])
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, soft_wrap=True)
    print_points(console, "title", frame, frame, ["tpot_mean_s", "hit_rate"])
    return out.getvalue().splitlines()


def test_systems_are_named_and_what_they_alone_determine_is_hidden() -> None:
    lines = printed(
        policy__cache=["weighted", "lru", "lru"],
        settings__framework_layer_s=[0.0, 0.001, 0.0],
        system=SYSTEMS,
        platform=["rtx_3060", "rtx_3060", "rtx_4090"],
    )
    assert lines[1].split() == ["point", "system", "platform", "tpot_mean_s", "hit_rate"]
    assert [line.split()[1] for line in lines[2:5]] == SYSTEMS
    assert lines[5:] == ["2 more columns differ between points; all are in points.parquet."]


def test_a_policy_that_differs_within_a_system_is_shown() -> None:
    lines = printed(
        policy__cache=["lru", "lfu"] * 2,
        system=["fiddler", "fiddler with policy/cache=lfu", "daop with policy/cache=lru", "daop"],
    )
    assert lines[1].split() == ["point", "system", "policy.cache", "tpot_mean_s", "hit_rate"]
    assert [line.split()[1:3] for line in lines[2:]] == [
        ["fiddler", "lru"],
        ["fiddler", "lfu"],
        ["daop", "lru"],
        ["daop", "lfu"],
    ]


def test_changed_policies_of_one_system_are_told_by_their_columns() -> None:
    lines = printed(policy__cache=["lru", "lfu"], system=["on_demand_lru", "on_demand_lru with policy/cache=lfu"])
    assert lines[1].split() == ["point", "policy.cache", "tpot_mean_s", "hit_rate"]


@pytest.mark.parametrize("width", [50, 80, 120])
def test_a_narrow_console_loses_columns_and_no_letters(width: int) -> None:
    lines = printed(
        width,
        system=["mixtral_offloading"] * 4 + ["transition_prefetch"] * 4,
        cache_gib=[2.0, 2.0, 4.0, 4.0] * 2,
        workload__max_decode_tokens=[16, 32] * 4,
        settings__chunk_bytes=[1048576, 2097152, 2097152, 1048576] * 2,
    )
    assert max(len(line) for line in lines[:10]) <= width
    assert "…" not in "".join(lines)
    names = lines[1].split()
    assert names[:2] == ["point", "system"]
    assert names[-2:] == ["tpot_mean_s", "hit_rate"]
    hidden = 4 - len(names[1:-2])
    assert (hidden > 0) == (width < 120)
    assert lines[-1].startswith(f"{hidden} more column") == (hidden > 0)
    assert ("cache_gib" in names) == (width >= 80)


def test_what_cannot_be_left_out_runs_over_the_edge_whole() -> None:
    lines = printed(20, system=SYSTEMS)
    assert lines[-1].split() == ["2", "mixtral_offloading", "0.03", "0.5"]


def test_shares_that_change_answers_are_shown_where_there_are_any() -> None:
    none = {"substituted_weight_share": [0.0, 0.0], "low_precision_weight_share": [None, None]}
    lines = printed(system=["adapmoe", "fiddler"], dropped_weight_share=[0.25, 0.0], **none)
    assert lines[1].split() == ["point", "system", "tpot_mean_s", "hit_rate", "dropped"]
    assert [line.split()[-1] for line in lines[2:4]] == ["0.25", "0"]
    assert lines[4].startswith("dropped: share of the gate weight")
    lines = printed(system=["daop", "fiddler"], dropped_weight_share=[0.0, None], **none)
    assert lines[1].split() == ["point", "system", "tpot_mean_s", "hit_rate"]


def test_up_to_ten_points_are_all_printed(call: Callable) -> None:
    said = call("sweep", *SHORT, "system=on_demand_lru,on_demand_lfu", "cache_gib=1,2,3", "--out", "x")
    lines = said.out.splitlines()
    assert lines[1] == "fastest first"
    assert lines[2].split()[:3] == ["point", "system", "cache_gib"]
    assert sorted(line.split()[0] for line in lines[3:9]) == ["0", "1", "2", "3", "4", "5"]
    tpots_s = [float(line.split()[3]) for line in lines[3:9]]
    assert tpots_s == sorted(tpots_s)
    said = call("sweep", *SHORT, "seed=range(11)", "--out", "y")
    lines = said.out.splitlines()
    assert lines[1] == "the 5 fastest of 11"
    assert lines[8].startswith("written to y")


def test_points_whose_requests_have_other_columns_are_in_one_table(call: Callable, tmp_path: Path) -> None:
    served = [
        "model=tiny_moe",
        "trace=tiny_moe",
        "policy/scheduling=continuous",
        "workload.requests=4",
        "reference=false",
    ]
    said = call("sweep", *served, "tenants.count=1,2", "--out", "swept", "--workers", "0")
    assert said.code == 0, said.err
    table = pd.read_parquet(tmp_path / "swept" / "requests.parquet")
    assert table["point"].tolist() == [0] * 4 + [1] * 4
    assert table["instance"].isna().tolist() == [True] * 4 + [False] * 4
    assert table["instance"].tolist()[4:] == [0, 1, 0, 1]
