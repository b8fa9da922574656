"""Choices of the systems that serve requests as they come: eMoE, Read-ME, ExpertFlow."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest

from simulator.plan import Workload
from simulator.policies import PolicyContext
from simulator.policies.cache.fifo_expected import FifoExpected
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.predicted_slots import PredictedSlots
from simulator.policies.cache.queue_belady import QueueBelady
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.prediction.batch_paths import BatchPaths
from simulator.policies.prediction.periodic import PeriodicForecast
from simulator.policies.prediction.popularity import PopularityPrediction
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.policies.prefetch.none import NoPrefetch
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.scheduling.expert_aware import ExpertAware
from simulator.policies.scheduling.regroup import Regroup
from simulator.policies.scheduling.slo_greedy import SloGreedy
from simulator.policies.slots.expert_share import ExpertShare
from simulator.policies.slots.uniform import UniformSlots
from simulator.routing import Routing
from simulator.scenario import ScenarioError
from tests.helpers import EXPERT_BYTES, random_trace, run, steps_of, system, tiny_model, tiny_platform, tiny_trace

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


# ---- Read-ME


def sticky_trace(requests, tokens, layers=2, experts=4, keep=0.7, prompt=0, seed=0):
    """One expert for each token in all layers, often that of the token before."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(requests):
        stream = [int(rng.integers(experts))]
        for _ in range(tokens - 1):
            stream.append(stream[-1] if rng.random() < keep else int(rng.integers(experts)))
        rows.append([[[expert]] * layers for expert in stream])
    return tiny_trace(rows, experts, prompts=[prompt] * requests)


def readme(trace, cache=QueueBelady, slots=2, budget=4, running=4, by_expert=False, **roles):
    layers = len(trace.meta.layers)
    return run(
        tiny_model(layers=layers, experts=4, top_k=1),
        trace,
        tiny_platform(),
        system(scheduling=partial(ExpertAware, running, budget, by_expert), cache=cache, slots=UniformSlots, **roles),
        timeline=False,
        cache_bytes=layers * slots * EXPERT_BYTES,
        kv_page_tokens=4,
    )


def belady_hits(stream, slots, lookahead):
    """Hits of the rule written down anew: who is here and used farthest ahead within sight leaves, of those who are not
    the longest unused."""
    here, hits = [], 0
    for place, expert in enumerate(stream):
        if expert in here:
            hits += 1
            here.remove(expert)
        elif len(here) == slots:
            seen = stream[place + 1 : place + 1 + lookahead]
            here.remove(max(here, key=lambda e: seen.index(e) if e in seen else len(stream)))  # the first of equals
        here.append(expert)
    return hits


@pytest.mark.parametrize("lookahead", [0, 1, 3])
@pytest.mark.parametrize("slots", [2, 3])
def test_belady_over_the_queue_is_beladys_rule_on_the_tokens_in_sight(lookahead, slots):
    """Four requests whose tokens run one by one in turn, so that the queue is the next three tokens of the stream."""
    trace = sticky_trace(4, 30)
    result = readme(trace, partial(QueueBelady, lookahead), slots, budget=1)
    rows = [trace.request(number).experts[:, 0, 0].tolist() for number in range(4)]
    stream = [expert for token in zip(*rows, strict=True) for expert in token]
    assert sum(record.hits for record in result.records) == 2 * belady_hits(stream, slots, lookahead)


def test_who_sees_more_of_the_queue_misses_less():
    trace = sticky_trace(6, 60, keep=0.5, seed=1)
    found = [
        readme(trace, cache, running=6, budget=1).summary["hit_rate"]
        for cache in (Lru, partial(QueueBelady, 1), partial(QueueBelady, 3), QueueBelady)
    ]
    assert found == sorted(found)
    assert found[0] < found[1] < found[3]


def test_a_cache_that_looks_at_the_queue_needs_one():
    with pytest.raises(ScenarioError, match="QueueBelady looks at what waits"):
        run(
            tiny_model(**MODEL),
            random_trace(5, 3, 8, **MODEL),
            tiny_platform(),
            system(cache=QueueBelady),
            timeline=False,
        )


class Waiting(SimpleNamespace):
    __hash__ = object.__hash__


def queue(*heads, prompts=()):
    """What a scheduler sees of requests that decode, each asking for one expert, and of prompts."""
    asked = [[expert] for expert in heads] + [list(prompt) for prompt in prompts]
    requests = [
        Waiting(order=n, ready_s=0.0, rows=9, done=0, prompt_left=len(tokens) if n >= len(heads) else 0, tokens=tokens)
        for n, tokens in enumerate(asked)
    ]
    room = SimpleNamespace(take=lambda request, tokens: True)
    return SimpleNamespace(
        running=requests,
        waiting=[],
        trial=lambda: room,
        asked=lambda request: np.array(request.tokens).reshape(-1, 1, 1),
    )


def chosen(view, budget, **parameters):
    turn = ExpertAware(token_budget=budget, **parameters).next_turn(view)
    return {request.order: tokens for request, tokens in turn.parts.items()}


def test_a_batch_takes_the_tokens_of_the_expert_with_most_waiting_first():
    view = queue(0, 1, 2, 1, 2, 1)
    assert list(chosen(view, 3)) == [1, 3, 5]
    assert list(chosen(view, 4)) == [1, 3, 5, 2]
    assert list(chosen(view, 6)) == [1, 3, 5, 2, 4, 0]
    assert list(chosen(view, 3, by_expert=False)) == [0, 1, 2]


def test_a_prompt_goes_on_as_far_as_its_tokens_ask_for_the_expert_of_the_moment():
    assert chosen(queue(0, prompts=[(1, 1, 1, 0, 0, 2)]), 3) == {1: 3}
    assert chosen(queue(0, prompts=[(1, 1, 1, 0, 0, 2)]), 5) == {
        1: 4,
        0: 1,
    }  # then expert 0: request 0, two of the prompt
    assert chosen(queue(0, prompts=[(1, 1, 1, 0, 0, 2)]), 7) == {1: 6, 0: 1}


def test_batches_by_expert_ask_for_fewer_experts_and_process_every_token_once():
    trace = sticky_trace(12, 30, prompt=6, seed=2)
    apart, together = (readme(trace, slots=4, running=12, by_expert=by_expert) for by_expert in (False, True))
    for result in (apart, together):
        assert result.summary["decode_tokens"] == 12 * 24
        assert result.summary["prefill_tokens"] == 12 * 6
        assert max(record.tokens for record in result.records) == 4
    asked = [sum(r.hits + r.late + r.loads for r in result.records) for result in (apart, together)]
    assert asked[1] < 0.8 * asked[0]


# ---- paths known before the pass


def test_paths_name_what_the_steps_tokens_will_ask_for_nearest_layer_first():
    policy = BatchPaths()
    policy.bind(PolicyContext(layers=3, experts=4, top_k=1, size_bytes=[]))
    routing = Routing()
    rows = [np.array([[[0], [1], [2]]]), np.array([[[0], [1], [3]]]), np.array([[[3], [2], [3]]])]
    routing.begin(SimpleNamespace(rows=rows, requests=[0, 1, 2]))
    assert policy.expect(0, routing)[0] == [4 + 1, 4 + 2, 8 + 3, 8 + 2]
    assert policy.expect(1, routing)[0] == [8 + 3, 8 + 2]
    assert policy.expect(2, routing)[0] == []


def test_paths_are_right_as_often_as_is_said():
    policy = BatchPaths(recall=0.8)
    policy.bind(PolicyContext(layers=2, experts=50, top_k=1, size_bytes=[], rng=np.random.default_rng(1)))
    routing, right, steps_, rng = Routing(), 0, 4000, np.random.default_rng(2)
    for _ in range(steps_):
        row = rng.integers(50, size=(1, 2, 1))
        routing.begin(SimpleNamespace(rows=[row], requests=[0]))
        right += policy.expect(0, routing)[0] == [50 + int(row[0, 1, 0])]
        policy.expect(1, routing)
    assert abs(right / steps_ - 0.8) < 3 * (0.8 * 0.2 / steps_) ** 0.5


# ---- ExpertFlow


def shares(slots, named, layer):
    """Slots of each layer to come while `layer` runs; `named`: predicted experts by layer, of layers of ten."""
    cache = PredictedSlots()
    cache.bind(PolicyContext(layers=4, experts=10, top_k=1, size_bytes=[1] * 40, capacity_bytes=slots))
    view = SimpleNamespace(layer_of=lambda blob: blob // 10, layer=layer, prefetching=True)
    cache.on_forecast([10 * ahead + n for ahead, count in named.items() for n in range(count)], None, view)
    return {ahead: cache.share(ahead) for ahead in named}


def test_layers_to_come_share_the_slots_as_they_are_predicted_to_ask_and_those_done_give_theirs_up():
    assert shares(12, {1: 1, 2: 3, 3: 2}, 0) == {1: 2, 2: 6, 3: 4}
    assert shares(12, {2: 3, 3: 2}, 1) == {2: 7, 3: 4}
    assert shares(12, {3: 2}, 2) == {3: 12}


def flow(trace, cache=PredictedSlots, slots=6, recall=1.0, prefetch=FetchAhead):
    layers = len(trace.meta.layers)
    return run(
        tiny_model(layers=layers, experts=8, top_k=1),
        trace,
        tiny_platform(link_bytes_per_s=1e12),  # a copy takes less than a layer
        system(cache=cache, prediction=partial(BatchPaths, None, recall), prefetch=prefetch),
        Workload(batch_size=4),
        timeline=False,
        cache_bytes=slots * EXPERT_BYTES,
    )


def test_what_is_predicted_is_there_but_for_the_first_layer():
    trace = random_trace(7, 4, 20, layers=4, experts=8, top_k=1)
    result = flow(trace, slots=16)  # four tokens, four layers
    assert result.layers.loads.tolist()[0] + result.layers.loads.tolist()[4] > 0
    assert result.layers.groupby("layer").loads.sum().tolist()[1:] == [0, 0, 0]


def test_a_wrong_prediction_costs_loads_and_lru_costs_more():
    trace = random_trace(7, 4, 40, layers=4, experts=8, top_k=1)
    right, often, never = (
        flow(trace, slots=16, recall=1.0),
        flow(trace, slots=16, recall=0.7),
        flow(trace, Lru, slots=16, prefetch=NoPrefetch),
    )
    loads = [sum(record.loads for record in result.records) for result in (right, often, never)]
    assert loads[0] < loads[1] < loads[2]


def turns(view, count, **parameters):
    policy = Regroup(**parameters)
    policy.bind(PolicyContext(layers=1, experts=10, top_k=1, size_bytes=[]))
    return [sorted(request.order for request in policy.next_turn(view).parts) for _ in range(count)]


def test_requests_of_like_paths_run_together_and_each_runs_once_in_two_steps():
    view = queue(0, 5, 0, 5, 5, 0)
    for request in view.running:
        request.prompt_left = 0
    assert sorted(turns(view, 2, batch_size=3)) == [[0, 2, 5], [1, 3, 4]]
    assert turns(view, 4, batch_size=3, regroup=False) == [[0, 1, 2], [3, 4, 5]] * 2
    assert turns(view, 2, batch_size=6) == [[0, 1, 2, 3, 4, 5]] * 2


def test_requests_that_all_ask_for_the_same_keep_their_order():
    view = queue(3, 3, 3, 3)
    assert turns(view, 2, batch_size=2) == [[0, 1], [2, 3]]


def test_regrouping_asks_for_fewer_experts_and_serves_the_same_tokens():
    rng = np.random.default_rng(3)
    rows = [(rng.integers(4, size=(24, 3, 1)) + 4 * (number % 2)).tolist() for number in range(12)]
    asked = []
    for regroup in (True, False):
        result = run(
            tiny_model(layers=3, experts=8, top_k=1),
            tiny_trace(rows, 8),
            tiny_platform(),
            system(scheduling=partial(Regroup, 4, regroup)),
            timeline=False,
        )
        assert result.summary["decode_tokens"] == 12 * 24
        assert max(record.tokens for record in result.records) == 4
        asked.append(sum(record.hits + record.loads for record in result.records))
    assert asked[0] < 0.9 * asked[1]


@pytest.mark.parametrize(
    "roles",
    [
        {"prediction": partial(PeriodicForecast, 1), "gating": partial(ResidentOnly, True), "scheduling": SloGreedy},
        {"prediction": partial(BatchPaths, 1), "cache": QueueBelady, "scheduling": partial(ExpertAware, 4, 3)},
        {"prediction": partial(BatchPaths, None, 0.8), "cache": PredictedSlots, "scheduling": partial(Regroup, 2)},
    ],
)
def test_an_event_for_every_operation_gives_the_same_run(roles):
    results = [
        run(
            tiny_model(**MODEL),
            random_trace(5, 9, 8, prompt=3, **MODEL),
            tiny_platform(),
            system(**roles),
            Workload(requests=6),
            timeline=False,
            cache_bytes=6 * EXPERT_BYTES,
            stepwise=stepwise,
        )
        for stepwise in (False, True)
    ]
    assert steps_of(results[0]) == steps_of(results[1])
    assert results[0].request_rows == results[1].request_rows
    assert results[0].summary["prefetch_bytes"] > 0


def test_only_who_changes_the_half_is_copied_whatever_the_halves_are_called():
    policy, view = Regroup(batch_size=3), queue(0, 5, 0, 5, 5, 0)
    policy.bind(PolicyContext(layers=1, experts=10, top_k=1, size_bytes=[]))

    def moved():
        found = [policy.next_turn(view).moved, policy.next_turn(view).moved]
        return [sorted(request.order for request in requests) for requests in found]

    assert moved() == [[], []]
    view.running[0].tokens, view.running[1].tokens = [5], [0]  # these two exchange their paths
    assert moved() == [[0, 1], []]
    for request in view.running:
        request.tokens = [9 - request.tokens[0]]  # all others than before, in the same company
    assert moved() == [[], []]


class MovesAll(Continuous):
    """Copies the KV cache of all running requests before every step."""

    steady = False

    def bind(self, context):
        self.copied_bytes = []

    def next_turn(self, view):
        turn = super().next_turn(view)
        turn.moved = list(view.running)
        self.copied_bytes.append(sum(view.trial().held_bytes(request) for request in view.running))
        return turn


@pytest.mark.parametrize("bytes_per_s", [1e9, 1e10])
def test_a_copy_within_the_memory_takes_two_passes_at_its_rate(bytes_per_s):
    def served(kind):
        return run(
            tiny_model(layers=2, experts=4, top_k=2),
            random_trace(3, 3, 12, layers=2, experts=4, top_k=2, prompt=4),
            tiny_platform(gpu_bytes_per_s=bytes_per_s),
            system(scheduling=partial(kind, max_batch=4, token_budget=8), prediction=PopularityPrediction),
            timeline=False,
            kv_page_tokens=4,
        )

    plain, moving = served(Continuous), served(MovesAll)
    copied = moving.run.batcher.policy.copied_bytes
    assert sum(copied) > 0
    assert moving.duration_ps - plain.duration_ps == sum(round(2e12 / bytes_per_s * size) for size in copied)
