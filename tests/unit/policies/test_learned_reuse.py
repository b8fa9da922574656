"""The learned replacement of FlashMoE: what it learns from, and that it uses it."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.plan import Workload
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.learned_reuse import LearnedReuse, samples
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from tests.helpers import EXPERT_BYTES, counts, run, system, tiny_model, tiny_platform, tiny_trace


def test_samples_are_ages_rates_and_waits() -> None:
    """Expert 0 at tokens 0 and 3, expert 1 at 1 and 2, of 4 tokens; what comes no more waits until the end."""
    ages, rates, waits = samples(np.array([[0], [1], [1], [0]]), 2)
    assert ages.tolist() == [0, 1, 0, 2, 0, 0, 1]
    assert rates == pytest.approx([1, 1 / 2, 1 / 2, 1 / 3, 2 / 3, 2 / 4, 2 / 4])
    assert waits.tolist() == [3, 2, 1, 1, 2, 1, 1]


def scans(requests: int) -> list[list[list[list[int]]]]:
    """Requests of one layer: 0 and 1 every third token each, what else is asked for comes in a cycle of six."""
    return [
        [[[token % 3 if token % 3 < 2 else 2 + (token // 3 + start) % 6]] for token in range(120)]
        for start in range(requests)
    ]


def misses(cache, trace) -> int:
    choice = system(cache=cache)
    made = run(tiny_model(1, 8, 1), trace, tiny_platform(), choice, Workload(requests=1), cache_bytes=4 * EXPERT_BYTES)
    return counts(made)["loads"]


def test_it_learns_what_recency_or_frequency_alone_do_not_tell() -> None:
    trace = tiny_trace(scans(5), 8)
    learned = misses(LearnedReuse, trace)
    assert misses(Belady, trace) <= learned <= min(misses(Lru, trace), misses(Lfu, trace))


def test_with_nothing_to_learn_from_it_is_lru() -> None:
    trace = tiny_trace(scans(1), 8)
    assert misses(LearnedReuse, trace) == misses(Lru, trace)


def test_requests_must_be_some() -> None:
    with pytest.raises(ValueError, match="requests is 0; expected at least 1"):
        LearnedReuse(0)
