"""Choices of published offloading systems, worked out by hand or by brute force."""

import itertools

import numpy as np
import pytest

from simulator.policies import PolicyContext
from simulator.policies.cache.passed import PassedLayers
from simulator.policies.cache.weighted import WeightedTerms
from simulator.policies.execution.cheapest import Cheapest
from simulator.policies.execution.whole_layer import WholeLayer
from simulator.policies.gating.sensitivity import DropInsensitive
from simulator.policies.precision.by_gate_score import ByGateScore
from simulator.policies.prediction.pregated import PreGated
from simulator.policies.prediction.whole_layers import WholeLayers
from simulator.policies.prefetch.deepening import Deepening
from simulator.policies.slots.blocking_loads import FewestBlockingLoads
from simulator.policies.slots.few_layers import FewLayers
from tests.helpers import EXPERT_BYTES, counts, run, system, tiny_model, tiny_platform, tiny_trace
from traces import RequestTrace


def context(layers=2, experts=8, top_k=2):
    return PolicyContext(layers=layers, experts=experts, top_k=top_k, size_bytes=[1] * (layers * experts))


# ---- slots: dynamic programming


def test_blocking_loads_are_the_formulas_of_the_repository_for_eight_experts_top_2():
    accuracy, single = 0.8, 0.3
    policy = FewestBlockingLoads([accuracy], [single])
    policy.bind(context())
    for s, found in enumerate(policy.blocking_loads(1, 2)[0]):
        f1 = (1 - s / 8) * (1 - accuracy)
        f2 = 2 * max(0, (8 - s) * (7 - s) / 56) * (1 - accuracy)
        f3 = (8 - s) * (7 - s) / 56 * accuracy
        f4 = 2 * (8 - s) * s / 56 * (1 - accuracy)
        assert found == pytest.approx(single * f1 + (1 - single) * (f2 + f3 + f4))


@pytest.mark.parametrize("slots", [6, 9, 14])
def test_no_other_division_of_the_slots_blocks_less(slots):
    policy = FewestBlockingLoads([0.1, 0.9, 0.5], [0.0, 0.2, 0.9])
    policy.bind(context(layers=3))
    loads = policy.blocking_loads(3, 2)
    found = policy.budgets(slots * 10, [10, 10, 10], 2)
    assert sum(found) <= slots * 10
    cost = sum(loads[layer, size // 10] for layer, size in enumerate(found))
    every = (d for d in itertools.product(range(2, 9), repeat=3) if sum(d) <= slots)
    assert cost == pytest.approx(min(sum(loads[la, s] for la, s in enumerate(d)) for d in every))


def test_layers_that_are_hard_to_predict_get_more_slots():
    policy = FewestBlockingLoads([0.0, 0.9], [0.0, 0.0])
    policy.bind(context())
    first, second = policy.budgets(10 * 10, [10, 10], 2)
    assert first > second


# ---- gating


def test_the_second_expert_goes_where_its_weight_is_below_the_layers_threshold():
    policy = DropInsensitive(sensitivity=[0.5, 0.05], threshold=0.005)  # thresholds 0.1 and 0.316
    policy.bind(context())
    experts = np.array([[[3, 1], [5, 0]]] * 3, dtype=np.int16)
    weights = np.array([[[0.85, 0.15], [0.7, 0.3]], [[0.45, 0.05], [0.6, 0.4]], [[0.5, 0.5], [0.9, 0.1]]])
    rows = RequestTrace(id=0, positions=np.arange(3), phases=np.ones(3), experts=experts, weights=weights)
    kept, left = policy.rewrite(rows)
    assert kept[:, :, 1].tolist() == [[1, -1], [1, 0], [1, -1]]  # 0.05 of 0.5 is a share of just 0.1
    assert left.sum(axis=2) == pytest.approx(1)
    assert (kept[:, :, 0] == experts[:, :, 0]).all()


# ---- precision


class Chosen:
    layer = 1

    def __init__(self, ids, weights):
        self.ids, self.weights = np.array(ids), np.array(weights)


def test_levels_follow_the_weight_before_an_expert_and_the_most_demanding_token():
    policy = ByGateScore(high_below=0.6, low_below=0.9)
    policy.bind(context())
    # 0: 0, then .5 before 2: high, then .95 before 7: skipped; second token 3: 0, .7 before 7: low
    choice = Chosen([[1, 2, 7], [7, 3, -1]], [[0.5, 0.45, 0.05], [0.3, 0.7, 0.0]])
    assert policy.wanted([8 + 1, 8 + 2, 8 + 7, 8 + 3], choice) == [0, 0, 1, 0]
    assert policy.wanted([8 + 7, 8 + 1, 8 + 2], Chosen([[1, 2, 7]], [[0.5, 0.45, 0.05]])) == [2, 0, 0]
    assert policy.wanted([8 + 2, 8 + 1], Chosen([[1, 2]], [[0.7, 0.3]])) == [1, 0]


# ---- prefetch


def test_a_further_layer_is_fetched_only_when_the_nearer_one_is_complete():
    class Work:
        def distance(self, blob):
            return blob // 8

    assert Deepening().choose([17, 8, 25, 9], Work()) == [8, 9]
    assert Deepening(most=1).choose([17, 25, 18], Work()) == [17]


# ---- whole layers


IDS = [[[0, 1], [2, 3]], [[1, 2], [0, 1]], [[0, 3], [2, 3]]]


def streamed(**roles):
    choice = system(execution=WholeLayer, cache=PassedLayers, **roles)
    trace = tiny_trace([[token * 2 for token in IDS]])  # four layers
    return run(tiny_model(4, 4, 2), trace, tiny_platform(), choice, cache_bytes=16 * EXPERT_BYTES)


def test_streaming_layers_moves_all_experts_for_every_token_and_is_bound_by_the_link():
    on_demand = streamed(slots=lambda: FewLayers(1))
    ahead = streamed(slots=lambda: FewLayers(2), prediction=WholeLayers)
    copy_ps = 4 * (EXPERT_BYTES * 1000 + 10**6)  # of a layer: bytes at 1 GB/s and a latency each
    moved = [r.summary["load_bytes"] + r.summary["prefetch_bytes"] for r in (on_demand, ahead)]
    assert moved[0] == 3 * 4 * 4 * EXPERT_BYTES
    assert moved[1] >= moved[0]  # and what it fetches beyond the end
    for result in (on_demand, ahead):
        assert result.duration_ps >= 12 * copy_ps
    assert ahead.duration_ps < on_demand.duration_ps
    assert counts(on_demand) == {"hits": 0, "late": 0, "loads": 24, "on_cpu": 0}


def test_the_layer_that_runs_again_last_leaves_first():
    class View:
        layer, layers = 1, 3

        def layer_of(self, blob):
            return blob // 10

        def take_until(self, need_bytes, order):
            return list(order)

    cache = PassedLayers()
    cache.on_layer([0, 10, 20, 11], [], View())
    assert cache.victims(1, [], View()) == [10, 11, 0, 20]


# ---- prediction


def test_a_pregated_model_knows_the_next_layer_and_nothing_of_the_next_token():
    policy = PreGated()
    policy.bind(context(layers=2, experts=4))
    ids = np.array(IDS, dtype=np.int16)
    rows = RequestTrace(id=0, positions=np.arange(3), phases=np.ones(3), experts=ids)
    named = policy.guess(rows, ids)
    assert named[:, 0].tolist() == [[6, 7], [4, 5], [6, 7]]
    assert (named[:, 1] == -1).all()


# ---- cache


def test_terms_are_weighed():
    class View:
        layer, layers, group = 0, 2, 9  # the fifth token's second layer

        def layer_of(self, blob):
            return blob // 4

        def take_until(self, need_bytes, order):
            return list(order)

    cache = WeightedTerms(recency=1, frequency=0, distance=0)
    for group, blobs in ((0, [0]), (2, [1]), (4, [0, 2])):
        view = View()
        view.group = group
        cache.on_layer(blobs, [], view)
    assert cache.victims(1, [], View()) == [1, 0, 2]
    often = WeightedTerms(recency=0, frequency=1, distance=0)
    often.on_layer([0, 1], [], View())
    often.on_layer([1, 2], [], View())
    often.on_layer([2, 1], [], View())
    assert often.victims(1, [], View()) == [0, 2, 1]
    often.on_sequence_end(View())
    assert often.victims(1, [], View()) == [0, 1, 2]
    near = WeightedTerms(recency=0, frequency=0, distance=1)
    near.on_layer([0, 4], [], View())
    assert near.victims(1, [], View()) == [0, 4]  # layer 1 runs next


# ---- execution


def test_the_cpu_takes_an_expert_until_copying_its_weights_is_cheaper():
    class Work:
        misses, tokens = (1, 2, 3), {1: 9, 2: 11, 3: 1}

    split = Cheapest(cpu_s_per_token=7e-3, fetch_s=70e-3).split(Work())
    assert (split.fetch, split.cpu) == ([2], [1, 3])  # Fiddler's constants cross at ten tokens
