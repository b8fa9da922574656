"""Placement by load: greedy and anti-correlation, by hand and against round-robin."""

import numpy as np
import pytest

from simulator.policies import PolicyContext
from simulator.policies.placement.greedy import AntiCorrelation, GreedyBalance
from tests.helpers import random_trace, tiny_trace


def owners(placement, trace, experts, layers=1, workers=2, top_k=1):
    requests = [trace.request(index) for index in range(len(trace))]
    placement.bind(PolicyContext(layers, experts, top_k, [], training=lambda: iter(requests)))
    return [[placement.owner(layer, e, workers) for e in range(experts)] for layer in range(layers)]


def test_the_busiest_goes_to_the_least_loaded_with_a_free_slot():
    """Loads 5, 3, 2, 0: expert 0 to worker 0, 1 to 1, 2 to 1 (3 < 5), which is then full, so 3 to 0."""
    tokens = [0] * 5 + [1] * 3 + [2] * 2
    trace = tiny_trace([[[[e]] for e in tokens]])
    assert owners(GreedyBalance(), trace, 4) == [[0, 1, 1, 0]]


def test_experts_that_fire_together_are_parted():
    """Experts 0 and 3 are used by one request, 1 and 2 by the other; greedy pairs 0 with 3."""
    trace = tiny_trace([[[[0]]] * 4 + [[[3]]] * 2, [[[1]]] * 3 + [[[2]]] * 3])
    (greedy,) = owners(GreedyBalance(), trace, 4)
    assert greedy[0] == greedy[3]
    (apart,) = owners(AntiCorrelation(1.0), trace, 4)
    assert sorted(np.bincount(apart)) == [2, 2]
    assert owners(AntiCorrelation(0.0), trace, 4) == [greedy]


@pytest.mark.parametrize("policy", [GreedyBalance, AntiCorrelation])
@pytest.mark.parametrize("workers", [2, 3, 8])
def test_every_worker_gets_its_slots(policy, workers):
    trace = random_trace(1, 6, 20, 2, 16, 2, guesses=False)
    placement = policy()
    for row in owners(placement, trace, 16, layers=2, workers=workers, top_k=2):
        assert max(np.bincount(row, minlength=workers)) <= -(-16 // workers)
    assert sorted(placement.initial()) == list(range(32))


def test_a_skewed_load_is_shared_better_than_round_robin():
    rng = np.random.default_rng(0)
    shares = rng.permutation(1 / np.arange(1, 17) ** 1.2)
    ids = rng.choice(16, size=(4, 200, 1, 1), p=shares / shares.sum())
    trace = tiny_trace(ids.tolist(), 16)
    (greedy,) = owners(GreedyBalance(), trace, 16, workers=4)
    loads = np.bincount(ids.ravel(), minlength=16)
    ours, plain = (np.bincount(row, weights=loads).max() for row in (greedy, np.arange(16) % 4))
    assert max(loads) <= ours < plain


def test_without_training_experts_are_dealt_evenly():
    placement = GreedyBalance()
    placement.bind(PolicyContext(1, 4, 1, []))
    assert sorted(np.bincount([placement.owner(0, expert, 2) for expert in range(4)])) == [2, 2]
