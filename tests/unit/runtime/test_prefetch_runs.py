"""Prefetches that come late, are not wanted, or may not be promoted: single layers worked out by hand.

1 GB/s, 1 us latency: a load takes 13.288 us. Two layers of four experts, one per token and layer.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest

from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prefetch.ahead import FetchAhead
from tests.helpers import EXPERT_BYTES, counts, run, system, tiny_model, tiny_platform, tiny_trace

LATENCY, LOAD = 1_000_000, 1_000_000 + EXPERT_BYTES * 1000
MODEL = tiny_model(2, 4, 1)


class Says(PredictionPolicy):
    """After layer 0: these experts of layer 1. After layer 1: nothing."""

    def __init__(self, *experts: int) -> None:
        self._experts = experts

    def guess(self, rows, following):
        guesses = np.full((rows.tokens, 2, len(self._experts)), -1)
        guesses[:, 0] = np.array(self._experts) + 4
        return guesses


def one_token(*guessed: int, chunk_bytes: int = 1 << 20, **options: bool):
    """Expert 0 of layer 0, then expert 1 of layer 1 (blob 5)."""
    choice = system(prediction=partial(Says, *guessed), prefetch=partial(FetchAhead, **options))
    return run(
        MODEL,
        tiny_trace([[[[0], [1]]]]),
        tiny_platform(),
        choice,
        cache_bytes=8 * EXPERT_BYTES,
        chunk_bytes=chunk_bytes,
    )


def log(result):
    begin = result.run.fabric.log[0][3]
    return [(blob, urgent, start - begin, end - begin) for _, blob, urgent, start, end, _ in result.run.fabric.log]


def test_a_right_guess_flows_behind_the_load_and_is_late():
    """It starts when expert 0 has landed, while layer 0 and the dense part of layer 1 run; the rest is waited for."""
    result = one_token(1)
    assert log(result) == [(0, True, 0, LOAD), (5, True, LOAD, 2 * LOAD)]
    assert counts(result) == {"hits": 0, "late": 1, "loads": 1, "on_cpu": 0}
    (record,) = result.records
    assert (record.prefetches, record.useful_prefetches, record.load_bytes) == (1, 1, EXPERT_BYTES)


def test_a_wrong_guess_is_cancelled_at_its_chunk_border_when_the_router_has_spoken():
    """Layer 1 looks up in the second chunk of 6000 bytes of expert 2 (7 to 13 us into its transfer: launches of 1 us
    and little else); that chunk ends, then the demanded expert 1 has the lane.
    """
    result = one_token(2, chunk_bytes=6000)
    first = LATENCY + 2 * 6000 * 1000
    assert log(result) == [
        (0, True, 0, LOAD),
        (6, False, LOAD, LOAD + first),
        (5, True, LOAD + first, 2 * LOAD + first),
    ]
    lane = result.run.fabric.lanes[0]
    assert (lane.delivered_bytes, lane.cancelled_bytes) == (2 * EXPERT_BYTES + 2 * 6000, EXPERT_BYTES - 2 * 6000)
    (record,) = result.records
    assert (record.prefetches, record.useful_prefetches) == (1, 0)


def test_a_wrong_guess_in_one_chunk_delays_the_demand_by_its_whole_length():
    result = one_token(2)
    assert log(result) == [(0, True, 0, LOAD), (6, False, LOAD, 2 * LOAD), (5, True, 2 * LOAD, 3 * LOAD)]


def test_a_wrong_guess_that_is_not_cancelled_resumes_after_the_demand():
    result = one_token(2, chunk_bytes=6000, cancel=False)
    result.run.fabric.advance(10**12)
    first = LATENCY + 2 * 6000 * 1000
    rest = LATENCY + (EXPERT_BYTES - 2 * 6000) * 1000
    assert log(result)[1:] == [
        (6, False, LOAD, LOAD + first),
        (5, True, LOAD + first, 2 * LOAD + first),
        (6, False, 2 * LOAD + first, 2 * LOAD + first + rest),
    ]


@pytest.mark.parametrize("promote", [True, False])
def test_a_guess_that_is_waited_for_is_promoted_unless_the_policy_says_otherwise(promote):
    """Guessed 2, then 1, and the wrong one is not cancelled: promoted, 1 displaces 2 at its second chunk's border; else
    it keeps its place behind the whole of 2.
    """
    result = one_token(2, 1, chunk_bytes=6000, promote=promote, cancel=False)
    begin = LOAD + LATENCY + 2 * 6000 * 1000 if promote else 2 * LOAD
    assert log(result)[2] == (5, promote, begin, begin + LOAD)
    assert counts(result)["late"] == 1


def test_a_guess_without_room_is_not_fetched():
    """One slot: it holds the running expert, which may not leave."""
    choice = system(prediction=partial(Says, 1))
    result = run(MODEL, tiny_trace([[[[0], [1]]]]), tiny_platform(), choice, cache_bytes=EXPERT_BYTES)
    assert counts(result) == {"hits": 0, "late": 0, "loads": 2, "on_cpu": 0}
    assert sum(record.prefetches for record in result.records) == 0


def test_a_prefetched_expert_stays_until_its_layer_has_run():
    """Two slots: expert 0 of layer 0 and the guess. The next token's layer 0 evicts expert 0, not what was fetched."""
    choice = system(prediction=partial(Says, 1))
    result = run(MODEL, tiny_trace([[[[0], [1]], [[2], [1]]]]), tiny_platform(), choice, cache_bytes=2 * EXPERT_BYTES)
    assert [(r.hits, r.late, r.loads) for r in result.records] == [(0, 1, 1), (1, 0, 1)]
