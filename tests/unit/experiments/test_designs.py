"""The search of `moesim propose`: its section in the file, its budget, and which designs it finds best."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from experiments.compose import CONF
from experiments.explain import ConfigError
from experiments.proposal.cases import Scope, cases
from experiments.proposal.designs import OVER, PINS, Designs, designs
from experiments.proposal.runs import Asked, Runs, changed
from experiments.proposal.sides import sides
from experiments.proposal.space import Section, section
from experiments.sweep.journal import entries
from hwmodels import Platform

pytest.importorskip("optuna")
EXAMPLE = CONF.parents[1] / "examples" / "ndp_search.yaml"
TINY = ["model=tiny_moe", "trace=tiny_moe", "cache_gib=0.001"]
MEMORY, MACS, CLOCK = "devices.module.memory_read_bytes_per_s", "devices.near.macs", "devices.near.clock_hz"


def node(**changes: Any) -> dict[str, Any]:
    found = yaml.safe_load(EXAMPLE.read_text())
    for key, value in changes.items():
        found = changed(found, key.split("__"), value)
    return found


def read(**changes: Any) -> Section:
    given = node(**changes)
    found = section(Platform.from_mapping(given), given, "box.yaml")
    assert found is not None
    return found


def test_a_file_without_the_section_searches_nothing_and_is_the_same_machine() -> None:
    given = node()
    del given["search"]
    assert section(Platform.from_mapping(given), given, "box.yaml") is None
    assert Platform.from_mapping(given) == Platform.from_mapping(node())


def test_a_design_costs_what_the_file_states_and_what_its_changes_add() -> None:
    found = read()
    own = {span.key: span.before for span in found.ranges}
    assert found.measures(own) == {"area_mm2": 12.0, "tdp_w": 30.0, "cost_usd": 760.0}  # of module and unit
    larger = {**own, MEMORY: 512e9 + 128e9, MACS: 1024.0}  # twice 64 GB/s more, once 1024 MACs fewer
    assert found.measures(larger) == pytest.approx({"area_mm2": 12.2, "tdp_w": 32.5, "cost_usd": 806.0})
    assert found.excess(larger) == pytest.approx(806 / 900 - 1)
    assert found.excess({**larger, MEMORY: 1e12}) > 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"search__budgets": {"tdp_w": 3}}, "unknown field 'search.budgets'; did you mean 'budget'"),
        ({"search__budget": {"area": 3}}, "'search.budget.area' must be one of area_mm2, tdp_w, cost_usd; did you"),
        ({"search__budget": {"tdp_w": "-3 W"}}, "'search.budget.tdp_w' must be above zero"),
        ({"search__budget": {"tdp_w": 40}, "search__parameters": {CLOCK: {"low": 1e9, "high": 2e9}}}, "limits nothing"),
        ({"devices__near__area_mm2": 0}, "'search.budget.area_mm2' needs a ndp that states its area_mm2"),
        ({"search__budget": {"cost_usd": 10}}, "'search.budget.cost_usd' is 10 US$, but no design has less than"),
        ({"search__workload": "decode"}, "'search.workload' must be one of single, batch, prompts"),
        ({"search__parameters": {"devices.far.macs": {}}}, "names no part of the file: far"),
        ({"search__parameters": {"devices.near.mac": {}}}, "no number of a device: mac; did you mean 'macs'?"),
        ({"search__parameters": {MACS: {"low": 8}}}, "needs both low and high"),
        ({"search__parameters": {"devices.near.tdp_w": {"values": [10, 300]}}}, "is what a budget limits"),
        ({"search__parameters": {"devices.near.peak_flop_per_s": {}}}, "state the unit's macs and clock_hz"),
        ({"search__parameters": {MACS: {"values": [8, 9]}, CLOCK: {"values": [1e9], "also": [MACS]}}}, "macs twice"),
        ({"search__trials": 10**12}, "'search.trials' must be from 1 to 10000"),
        ({"search__parameters": {MACS: {"low": 8, "high": 4}}}, "expected the lower end first"),
        ({"search__parameters": {MACS: {"low": 8, "high": 9, "tdp_w": 1}}}, "needs `per` with its prices"),
        ({"search__parameters": {CLOCK: {"low": "1 GB/s", "high": "2 GHz"}}}, "must be a quantity above zero"),
        ({"search__parameters": {"devices.module.regions": {"values": [1]}}}, "not stated in the file"),
    ],
)
def test_what_cannot_be_searched_is_refused_in_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as said:
        read(**changes)
    assert sentence in str(said.value)
    assert str(said.value).startswith("box.yaml: field 'search") or "unknown field 'search" in str(said.value)


def look(folder: Path, trials: int, **changes: Any) -> Designs:
    side = sides(str(EXAMPLE), ["rtx_3060"], [], TINY)[0]
    case = cases(Scope(4, 5, 4, 0))[1]
    asked = Asked(side, "near_makespan", {**case.changes, "cache_gib": 0.001})
    return designs(read(search__trials=trials, **changes), case, asked, Runs(folder, TINY, 0), 0)


def test_designs_over_budget_are_never_run_and_the_frontier_is_that_of_the_others(tmp_path: Path) -> None:
    found = look(tmp_path / "runs", 8)
    assert len(found.found) == 8
    assert found.refused[OVER] > 0
    budget = found.section.budget
    for design in found.found:
        assert all(design.measures[name] <= most * (1 + 1e-6) for name, most in budget.items())
    assert len(list(entries(tmp_path / "runs" / "designs"))) == len({tuple(d.values.items()) for d in found.found})
    pairs = {(design.seconds, design.energy_j) for design in found.found}
    best = {one for one in pairs if not any(two != one and two[0] <= one[0] and two[1] <= one[1] for two in pairs)}
    assert [(design.seconds, design.energy_j) for design in found.frontier] == sorted(best)
    assert found.found[0].values == {span.key: span.before for span in found.section.ranges}  # the file's come first


def test_a_search_that_was_cut_goes_on_and_a_budget_alone_changes_no_run(tmp_path: Path) -> None:
    first, whole = look(tmp_path / "runs", 2), look(tmp_path / "runs", 4)
    assert list(whole.found[:2]) == [
        # which of them are the best changes with the others
        type(design)(design.values, design.measures, design.seconds, design.energy_j, whole.found[place].best)
        for place, design in enumerate(first.found)
    ]
    before = {entry["id"] for entry in entries(tmp_path / "runs" / "designs")}
    look(tmp_path / "runs", 1, search__budget={"tdp_w": 31})
    assert {entry["id"] for entry in entries(tmp_path / "runs" / "designs")} == before  # the first design is the same


def test_more_bandwidth_than_pins_carry_is_no_design_and_pins_may_grow_with_it(tmp_path: Path) -> None:
    alone = {MEMORY: {"low": "400 GB/s", "high": "1 TB/s"}}
    found = look(tmp_path / "one", 3, search__parameters=alone, search__budget={})
    assert found.refused[PINS] > 0
    assert all(design.values[MEMORY] <= 512e9 for design in found.found)
    both = {MEMORY: {**alone[MEMORY], "also": ["devices.module.data_pins"]}}
    found = look(tmp_path / "two", 3, search__parameters=both, search__budget={})
    assert not found.refused
    assert max(design.values[MEMORY] for design in found.found) > 512e9
