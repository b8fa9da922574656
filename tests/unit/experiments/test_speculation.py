"""Rounds of speculative decoding, put together from steps."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from experiments.validation.published.speculation import speed_up, tokens_per_round


def test_a_round_yields_one_token_without_acceptance_and_all_with_it() -> None:
    assert [tokens_per_round(3, acceptance) for acceptance in (0.0, 0.5, 1.0)] == [1.0, 1 + 0.5 + 0.25 + 0.125, 4.0]


def test_free_drafts_gain_what_is_accepted_and_vain_ones_cost_what_they_take() -> None:
    def runs(**step_s: float) -> dict:
        return {name: SimpleNamespace(summary={"tpot_mean_s": value}) for name, value in step_s.items()}

    assert speed_up(runs(plain=1.0, draft=0.0, check=1.0), 3, 1.0) == pytest.approx(4)
    assert speed_up(runs(plain=1.0, draft=0.5, check=2.0), 3, 0.0) == pytest.approx(1 / (3 * 0.5 + 2))
