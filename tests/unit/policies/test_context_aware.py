"""Experts kept, and stored at fewer bits, by what they were worth to the prompt (context-aware GPU-NDP)."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.policies.cache.prompt_important import PromptImportant
from simulator.policies.execution.near_missing import NearMissing
from simulator.policies.placement.popular_share import PopularShare
from simulator.policies.precision.prompt_bits import PromptBits, allocate
from simulator.policies.prompt_importance import prompt_importance
from simulator.policies.slots.expert_share import ExpertShare
from tests.helpers import EXPERT_BYTES, run, system, tiny_model, tiny_trace
from tests.limits.test_near_memory import machine

WIDTHS, LOSSES = (4, 3, 2, 1), tuple(4.0**-bits for bits in (4, 3, 2, 1))


@given(st.lists(st.floats(0, 1), min_size=1, max_size=5), st.sampled_from([1.0, 1.5, 2.0, 3.0, 4.0]))
@settings(max_examples=40, deadline=None)
def test_no_division_within_the_bits_loses_less(values, mean) -> None:
    """Against every assignment of widths, in any order: for falling importance the best one is a division in runs."""
    importance = np.sort(np.array(values))[::-1]
    places = allocate(importance, WIDTHS, LOSSES, mean)
    assert (np.diff(places) >= 0).all()
    assert sum(WIDTHS[place] for place in places) <= mean * len(values) + 1e-9
    least = min(
        sum(worth * LOSSES[place] for worth, place in zip(importance, some, strict=True))
        for some in product(range(4), repeat=len(values))
        if sum(WIDTHS[place] for place in some) <= mean * len(values) + 1e-9
    )
    assert sum(importance * np.array(LOSSES)[places]) == pytest.approx(least, abs=1e-9)


def test_importance_mixes_choices_and_gate_weight() -> None:
    ids, weights = np.array([[0, 1], [0, 2]]), np.array([[0.1, 0.9], [0.2, 0.8]])
    assert prompt_importance(ids, weights, 4, 1.0) == pytest.approx([0.5, 0.25, 0.25, 0.0])
    assert prompt_importance(ids, weights, 4, 0.0) == pytest.approx([0.15, 0.45, 0.4, 0.0])
    assert prompt_importance(ids, weights, 4, 0.5) == pytest.approx([0.325, 0.35, 0.325, 0.0])


def context_aware(mean_bits: float = 2.0, alpha: float = 0.5):
    return system(
        cache=lambda: PromptImportant(alpha),
        placement=lambda: PopularShare(0.5),
        slots=lambda: ExpertShare(0.5, 1),
        execution=NearMissing,
        precision=lambda: PromptBits(list(WIDTHS), list(LOSSES), mean_bits, 0.5, alpha),
    )


PROMPT = [[[expert]] for expert in (2, 3, 4, 2, 3, 4, 2, 3, 4, 2, 3, 0)]  # one layer: 0 little, 1 not at all


def test_the_prompt_decides_who_stays_and_nothing_moves_in_decode() -> None:
    """Room for two of five experts and a copy: those most asked for by the prompt stay, the others run near memory."""
    trace = tiny_trace([[*PROMPT, [[2]], [[3]], [[0]], [[1]], [[0]], [[4]]]], 5, prompts=[len(PROMPT)])
    decode = run(tiny_model(1, 5, 1), trace, machine(), context_aware()).records[1:]
    assert [(r.hits, r.on_cpu) for r in decode] == [(1, 0), (1, 0), (0, 1), (0, 1), (0, 1), (1, 0)]
    assert [r.load_bytes for r in decode] == [0] * 6


def test_an_expert_near_memory_takes_as_long_as_its_bits() -> None:
    """Beside the two on the worker, 4, 0 and 1 get 3, 2 and 1 of 16 bits."""
    trace = tiny_trace([[*PROMPT, [[0]], [[1]]]], 5, prompts=[len(PROMPT)])
    result = run(tiny_model(1, 5, 1), trace, machine(link=1e15, inside=1e6, units=(1e6,)), context_aware())
    took_s = [(r.end_ps - r.start_ps) / 1e12 for r in result.records[1:]]
    assert took_s[0] - took_s[1] == pytest.approx(EXPERT_BYTES / 16 / 1e6, rel=0.01)
    assert result.summary["low_precision_weight_share"] == pytest.approx(2 / 14)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"widths": [2, 4]}, "the largest first"),
        ({"losses": [0.1]}, "losses has 1 numbers"),
        ({"mean_bits": 0.5}, "the least width"),
        ({"alpha": 2.0}, "alpha is 2.0"),
    ],
)
def test_bad_parameters_are_named(fields, words) -> None:
    with pytest.raises(ValueError, match=words):
        PromptBits(**{"widths": list(WIDTHS), "losses": list(LOSSES), **fields})
