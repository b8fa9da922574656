"""Synthetic traces beside held-out requests: judged on the mean over seeds, with the range beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from experiments.cli import main
from experiments.validation.synthesis import ALLOWED, POLICIES, SHARES, Compared, Drawn, page, tables


def drawn(kind: str, seed: int | None = None, better: str = "lru", **statistics: Any) -> Drawn:
    """All statistics .5 but those given; `better` is the policy with the most hits."""
    curves = {"lru_hit_rate", "belady_hit_rate", "overlap_by_lag"}
    values = {name: {"1": 0.5} if name in curves else 0.5 for name in ALLOWED} | statistics
    rates = {share: {policy: 0.4 + 0.1 * (policy == better) for policy in POLICIES} for share in SHARES}
    return Drawn(kind, seed, values, rates)


def compared(*synthetic: Drawn, **held_out: Any) -> Compared:
    real = [drawn("fitted"), drawn("held_out", **held_out)]
    return Compared("some", 3, (*real, *synthetic, drawn("popularity_only", 0)))


def rows(found: Compared) -> dict[str, dict[str, Any]]:
    return {row["statistic"]: row for row in found.rows()}


def test_the_mean_over_seeds_is_judged_and_not_a_seed():
    def overlap(*seeds: float) -> dict[str, Any]:
        found = compared(*(drawn("synthetic", seed, consecutive_overlap=value) for seed, value in enumerate(seeds)))
        return rows(found)["consecutive_overlap"]

    mild, strong = overlap(0.47, 0.53), overlap(0.5, 0.56)
    assert (mild["lowest"], mild["highest"], mild["met"]) == (0.47, 0.53, True)
    assert mild["error"] == pytest.approx(0.0)
    assert strong["error"] == pytest.approx(0.03)
    assert not strong["met"]


def test_relative_errors_and_the_distance_of_the_halves_are_by_the_held_out_requests():
    row = rows(compared(drawn("synthetic", 0, load_cv=0.5), load_cv=0.4))["load_cv"]
    assert row["error"] == pytest.approx(0.25)
    assert row["halves_differ"] == pytest.approx(0.25)
    assert not row["met"]


def test_of_curves_the_point_farthest_off_in_the_mean_is_shown():
    real, one, two = ({"a": 0.5, "b": 0.5}, {"a": 0.4, "b": 0.55}, {"a": 0.6, "b": 0.55})
    curves = {kind: drawn(kind, lru_hit_rate=real) for kind in ("fitted", "held_out", "popularity_only")}
    seeds = [drawn("synthetic", seed, lru_hit_rate=curve) for seed, curve in enumerate((one, two))]
    found = rows(Compared("some", 3, (*curves.values(), *seeds)))
    assert found["lru_hit_rate, farthest off at b"]["error"] == pytest.approx(0.05)


def test_what_is_not_defined_is_left_out_and_what_is_not_judged_has_no_verdict():
    found = rows(compared(drawn("synthetic", 0, first_choice_repeat=None)))
    assert "first_choice_repeat" not in found
    assert found["request_similarity"]["met"] is None


def test_pairs_of_policies_are_counted_for_each_seed():
    # of 21 pairs per share, the 6 of the better policy tell: those of two policies are told apart in 11 (6 + 6 - 1)
    same, total = compared(drawn("synthetic", 0), drawn("synthetic", 1, better="fifo")).ranked("synthetic")
    assert total == 42
    assert same[0] == 42
    assert same[1] < 42


def test_tables_and_page_name_every_seed():
    found = [compared(drawn("synthetic", 3), drawn("synthetic", 4, load_cv=0.7))]
    statistics, by_seed, policies = tables(found)
    assert len(statistics) == len(ALLOWED)
    assert sorted(by_seed[by_seed.requests == "synthetic"].seed.unique()) == [3, 4]
    assert len(policies) == 5 * len(POLICIES) * len(SHARES)
    text = page(found)
    assert "3 requests held out, 2 seeds" in text
    assert "0.600 (0.500 to 0.700)" in text
    assert "**missed**" in text


@pytest.mark.parametrize(
    ("arguments", "said"), [(["--seeds", "0"], "--seeds is 0"), (["--seed", "-1"], "--seed is -1")]
)
def test_numbers_of_seeds_that_cannot_be_are_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["validate", "synthesis", "--out", str(tmp_path / "out"), *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
