"""Choices of the systems that serve requests as they come: eMoE, Read-ME, ExpertFlow."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from simulator.plan import Workload
from simulator.policies import PolicyContext
from simulator.policies.cache.fifo_expected import FifoExpected
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.periodic import PeriodicForecast
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.scheduling.slo_greedy import SloGreedy
from simulator.policies.slots.expert_share import ExpertShare
from simulator.routing import Routing
from simulator.scenario import ScenarioError
from tests.helpers import EXPERT_BYTES, random_trace, run, system, tiny_model, tiny_platform, tiny_trace

MODEL = {"layers": 3, "experts": 4, "top_k": 1}


def request(rows, number=0):
    """A training request with routing [tokens][layers][slots]."""
    experts = np.array(rows, dtype=np.int16)
    return SimpleNamespace(id=number, experts=experts, phases=np.ones(len(experts), dtype=np.int8))


def steps(policy, asked):
    """What is expected after the last layer of each step; `asked`: (request, expert of all layers)."""
    routing, said = Routing(), []
    for number, expert in asked:
        routing.begin(SimpleNamespace(rows=[np.full((1, 2, 1), expert, dtype=np.int16)], requests=[number]))
        said.append([policy.expect(layer, routing)[0] for layer in range(2)][-1])
    return said


def forecaster(training, **parameters):
    policy = PeriodicForecast(**parameters)
    labels = [task for task, _ in training]
    policy.bind(
        PolicyContext(
            layers=2,
            experts=4,
            top_k=1,
            size_bytes=[],
            training=lambda: iter([request(rows) for _, rows in training]),
            training_tasks=lambda: iter(labels),
            tasks={0: "a", 1: "a", 2: "b", 3: "b"},
        )
    )
    return policy


def test_a_forecast_names_what_the_prompts_since_the_last_one_used_and_holds_for_a_period():
    policy = forecaster([(None, [[[3], [3]]])], period=2, share=0.25, prior=0.5)
    asked = [(0, 1), (0, 1), (1, 1), (2, 2), (2, 2), (3, 2), (4, 0), (5, 0)]
    #        popular: 3        |  prompts 0 and 1: expert 1   | prompts 2 and 3: expert 2
    assert steps(policy, asked) == [[3], [3], [3], [1], [1], [1], [2], [2]]
    assert policy.forecasts == 3


def test_popularity_counts_as_so_many_prompts():
    few, many = (forecaster([(None, [[[3], [3]]])], period=1, share=0.25, prior=prior) for prior in (0.9, 1.1))
    assert steps(few, [(0, 1), (1, 1)])[-1] == [1]
    assert steps(many, [(0, 1), (1, 1)])[-1] == [3]


def test_layers_that_need_no_prediction_for_a_task_keep_their_popular_experts():
    steady = [[[0], [0]]] * 20  # task a uses what is popular, task b does not
    policy = forecaster([("a", steady), ("b", [[[1], [1]], [[2], [2]]])], period=1, share=0.25, prior=0)
    assert policy.skipped["a"].tolist() == [True, True]
    assert policy.skipped["b"].tolist() == [False, False]
    # what request 0 of task a uses is not followed, what request 2 of task b uses is
    assert steps(policy, [(0, 1), (1, 1), (2, 2), (3, 2)]) == [[0], [0], [0], [2]]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (partial(PeriodicForecast, period=0), "period is 0"),
        (partial(PeriodicForecast, share=0), "share 0"),
        (partial(SloGreedy, max_batch=0), "max_batch is 0"),
    ],
)
def test_parameters_that_cannot_be_are_refused(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def emoe(period=2, share=0.5, workers=1, trace=None):
    return run(
        tiny_model(**MODEL),
        trace or random_trace(5, 12, 8, prompt=4, **MODEL),
        tiny_platform(workers),
        system(
            gating=partial(ResidentOnly, coming=True),
            cache=FifoExpected,
            slots=partial(ExpertShare, share, 0, True),
            placement=PopularFirst,
            prediction=partial(PeriodicForecast, period, share),
            prefetch=partial(FetchAhead, cancel=False),
            scheduling=partial(SloGreedy, max_batch=2, token_budget=8),
        ),
        Workload(requests=8),
        timeline=False,
        cache_bytes=12 * EXPERT_BYTES,
    )


def test_tokens_go_to_forecast_experts_alone_and_nothing_is_loaded_on_demand():
    result = emoe()
    assert result.summary["load_bytes"] == 0
    assert result.summary["prefetch_bytes"] > 0
    assert 0 < result.summary["substituted_weight_share"] < 1
    assert result.summary["dropped_weight_share"] == 0
    assert max(tier.peak_bytes() for tier in result.run.tiers) == 3 * 2 * EXPERT_BYTES


def test_with_room_for_all_experts_the_forecast_changes_nothing():
    result = emoe(share=1.0)
    assert result.summary["substituted_weight_share"] == 0
    assert result.summary["prefetch_bytes"] == 0


def test_the_longer_the_period_the_fewer_bytes_are_loaded():
    fetched = [emoe(period).summary["prefetch_bytes"] for period in (1, 4, 8)]
    assert fetched[0] > fetched[1] > fetched[2] == 0


def test_what_is_asked_in_every_step_needs_one_worker():
    with pytest.raises(ScenarioError, match="PeriodicForecast is asked in every step and needs a platform of one"):
        run(
            tiny_model(**MODEL),
            random_trace(5, 3, 8, **MODEL),
            tiny_platform(2),
            system(prediction=PeriodicForecast),
            timeline=False,
        )


def listed(tmp_path, slo_s):
    """Six requests at once, each held to its own TTFT."""
    path = tmp_path / "list.csv"
    rows = [f"0,6,5,{'' if limit is None else limit}" for limit in slo_s]
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens,slo_ttft_s", *rows]) + "\n")
    return str(path)


def served(tmp_path, scheduling, slo_s):
    result = run(
        tiny_model(layers=2, experts=4, top_k=2),
        random_trace(3, 5, 12, layers=2, experts=4, top_k=2, prompt=4),
        tiny_platform(),
        system(scheduling=partial(scheduling, max_batch=1, token_budget=8)),
        Workload(file=listed(tmp_path, slo_s), binding="cycle"),
        timeline=False,
        kv_page_tokens=4,
    )
    return result.requests.sort_values("start_s").request.tolist()


def test_the_strictest_objective_is_served_first_and_those_without_last(tmp_path):
    slo_s = [None, 5.0, 0.1, None, 1.0, 0.5]
    assert served(tmp_path, SloGreedy, slo_s) == [2, 5, 4, 1, 0, 3]
    assert served(tmp_path, Continuous, slo_s) == [0, 1, 2, 3, 4, 5]


def test_without_objectives_the_order_is_that_of_arrival(tmp_path):
    assert served(tmp_path, SloGreedy, [None] * 6) == list(range(6))


def test_a_request_is_expected_to_be_as_long_as_its_task_and_then_five_percent_longer_than_it_is():
    policy = SloGreedy()
    training = [request([[[0]]] * tokens) for tokens in (10, 20, 60)]
    policy.bind(
        PolicyContext(
            layers=1,
            experts=4,
            top_k=1,
            size_bytes=[],
            training=lambda: iter(training),
            training_tasks=lambda: iter(["a", "a", "b"]),
        )
    )

    def waits(task, decoded):
        return SimpleNamespace(
            task=task, output_tokens=decoded, prompt_left=30, arrival_s=1.0, slo_ttft_s=2.0, slo_tpot_s=0.5
        )

    assert [policy.output(waits(task, 0)) for task in ("a", "b", "c")] == [15, 60, 30]
    assert policy.output(waits("a", 15)) == 15
    assert policy.output(waits("a", 40)) == pytest.approx(42)
    policy._tokens, policy._busy_s = 100, 10.0  # a tenth of a second per token
    # deadline 1 + 2 + 15 * 0.5, now 4, and 30 + 15 tokens to process
    assert policy.time_left_s(waits("a", 0), 4.0) == pytest.approx(10.5 - 4 - 4.5)


def test_where_all_requests_ask_for_the_same_nothing_is_substituted_or_fetched():
    summary = emoe(trace=tiny_trace([[[[0], [1], [2]]] * 4] * 12)).summary
    assert (summary["substituted_weight_share"], summary["prefetch_bytes"]) == (0, 0)
