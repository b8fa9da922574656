"""Search: a pure function of its overrides and seed, resumable, with one aim or several."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from experiments.search import search

pytest.importorskip("optuna")
SPACE = ["experiment=smoke", "workload.requests=1", "workload.max_decode_tokens=4", "reference=false"]
SPACE += ["policy/cache=lru,lfu", "cache_gib=interval(1,6)"]
SPEED = {"tpot_mean_s": "minimize"}


def read(folder: Path) -> bytes:
    return (folder / "points.parquet").read_bytes()


def test_a_search_goes_on_where_it_stopped_and_gives_the_same_bytes_however_it_is_run(tmp_path: Path) -> None:
    whole = search(SPACE, SPEED, 12, tmp_path / "whole", batch=4, workers=0)
    assert (len(whole.trials), whole.reused, whole.failures) == (12, 0, {})
    search(SPACE, SPEED, 8, tmp_path / "parts", batch=4, workers=0)
    rest = search(SPACE, SPEED, 12, tmp_path / "parts", batch=4, workers=2)
    assert rest.reused == 8
    assert read(tmp_path / "parts") == read(tmp_path / "whole")
    other = search(SPACE, SPEED, 4, tmp_path / "other", batch=4, workers=0, seed=1)
    assert other.trials["cache_gib"].tolist() != whole.trials["cache_gib"].tolist()[:4]


def test_the_best_point_is_the_best_of_the_trials_and_search_finds_the_larger_cache(tmp_path: Path) -> None:
    found = search(SPACE, SPEED, 24, tmp_path / "x", workers=0)
    assert found.best["tpot_mean_s"].tolist() == [found.trials["tpot_mean_s"].min()] * len(found.best)
    assert found.best["cache_gib"].iloc[0] > 3  # more cache is never slower here
    assert found.trials["cache_gib"].between(1, 6).all()
    assert found.trials["policy.cache"].isin(["lru", "lfu"]).all()


def test_several_aims_give_the_pareto_front(call: Callable, tmp_path: Path) -> None:
    aims = ["--minimize", "tpot_mean_s", "--minimize", "cache_bytes"]
    said = call("search", *SPACE, *aims, "--trials", "12", "--workers", "0", "--json", "--out", "x")
    assert said.code == 0
    trials = pd.read_parquet(tmp_path / "x" / "points.parquet")
    values = trials[["tpot_mean_s", "cache_bytes"]].to_numpy().tolist()
    best = [
        number
        for number, (time_s, size_bytes) in zip(trials["point"], values, strict=True)
        if not any(other != [time_s, size_bytes] and other[0] <= time_s and other[1] <= size_bytes for other in values)
    ]
    assert [point["point"] for point in json.loads(said.out)["best"]] == best
    assert pd.read_csv(tmp_path / "x" / "best.csv")["point"].tolist() == best


def test_trials_that_fail_are_told_and_the_rest_goes_on(tmp_path: Path) -> None:
    space = [item.replace("interval(1,6)", "interval(0.001,0.1)") for item in SPACE]
    found = search(space, SPEED, 12, tmp_path / "x", workers=0)
    assert len(found.trials) + len(found.failures) == 12
    assert found.failures
    assert all("expected at least one expert" in error for error in found.failures.values())


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        ("search needs an aim; give --minimize or --maximize", SPACE),
        ("tpot_mean: there is no such metric; did you mean 'tpot_mean_s'?", [*SPACE, "--minimize", "tpot_mean"]),
        ("search has nothing to vary;", [*SPACE[:4], "--minimize", "tpot_mean_s"]),
        ("cache_gib spans 4 to 2; expected the lower end", [*SPACE[:5], "cache_gib=interval(4,2)", "--minimize", "x"]),
        ("a metric is named twice", [*SPACE, "--minimize", "hit_rate", "--maximize", "hit_rate"]),
        ("trials is 0 and batch 8; expected at least 1", [*SPACE, "--minimize", "hit_rate", "--trials", "0"]),
    ],
)
def test_a_search_that_cannot_be_is_refused(call: Callable, sentence: str, arguments: list[str]) -> None:
    said = call("search", *arguments, "--workers", "0")
    assert (said.code, said.out) == (2, "")
    assert said.err.startswith(sentence)
