"""The Pareto front is exact, keeps ties and order, and is quick."""

from __future__ import annotations

import time

import numpy as np
import pandas as pd
import pytest

from experiments import results
from experiments.explain import ConfigError


def test_the_front_keeps_what_no_other_row_beats() -> None:
    points = pd.DataFrame(
        {"cache_gib": [8, 2, 4, 4, 6], "tokens_per_s": [50.0, 20.0, 50.0, 35.0, 40.0]}, index=list("abcde")
    )
    front = results.pareto(points, minimise=["cache_gib"], maximise=["tokens_per_s"])
    assert list(front.index) == ["b", "c"]  # a and e need more than c for no more speed, d is slower than c


def test_equal_rows_stay_together() -> None:
    points = pd.DataFrame({"x": [1, 1, 2, 2], "y": [3, 3, 3, 3]})
    assert list(results.pareto(points, minimise=["x", "y"]).index) == [0, 1]


def test_one_aim_keeps_all_rows_that_reach_it() -> None:
    assert list(results.pareto(pd.DataFrame({"x": [2, 5, 5, 1]}), maximise=["x"]).index) == [1, 2]


@pytest.mark.parametrize("aims", [1, 2, 3, 4])
def test_the_front_is_that_of_comparing_every_pair(aims: int) -> None:
    random = np.random.default_rng(aims)
    values = random.integers(0, 6, (120, aims))  # many ties
    names = [f"c{number}" for number in range(aims)]
    signs = np.array([1, -1, 1, -1])[:aims]
    front = results.pareto(pd.DataFrame(values, columns=names), minimise=names[::2], maximise=names[1::2])
    costs = values * signs
    beaten = [any((other <= row).all() and (other < row).any() for other in costs) for row in costs]
    assert list(front.index) == [number for number, lost in enumerate(beaten) if not lost]


def test_rows_without_a_value_are_left_out_and_said() -> None:
    points = pd.DataFrame({"x": [1.0, None, 3.0], "y": [2.0, 0.0, 1.0]})
    with pytest.warns(results.LeftOutWarning, match="1 of 3 rows are left out: they have no value of x or y"):
        assert list(results.pareto(points, minimise=["x", "y"]).index) == [0, 2]
    with pytest.warns(results.LeftOutWarning):
        assert results.pareto(points.assign(x=np.nan), minimise=["x"]).empty


def test_five_thousand_rows_none_of_which_is_beaten_take_less_than_a_second() -> None:
    x, y = np.random.default_rng(0).random((2, 5000))
    begin = time.perf_counter()
    front = results.pareto(pd.DataFrame({"x": x, "y": y, "z": x + y}), minimise=["x", "y"], maximise=["z"])
    assert time.perf_counter() - begin < 1
    assert len(front) == 5000


def test_what_is_no_aim_is_refused() -> None:
    points = pd.DataFrame({"speed": [1.0], "name": ["a"]})
    for aims, sentence in (
        ({}, "at least one column"),
        ({"minimise": ["speed"], "maximise": ["speed"]}, "each once"),
        ({"minimise": "speed"}, "expected lists"),
        ({"minimise": ["sped"]}, "did you mean 'speed'"),
        ({"minimise": ["name"]}, "column of numbers"),
    ):
        with pytest.raises(ConfigError, match=sentence):
            results.pareto(points, **aims)
