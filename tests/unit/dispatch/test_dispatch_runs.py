"""Runs with padded and with exact all-to-alls: times by hand, rows conserved, the two meet where nothing is padded."""

import functools

import numpy as np
import pytest

from simulator.build import build
from simulator.dispatch.costs import SequentialExperts, parts_of
from simulator.dispatch.work import sort_work
from simulator.plan import Workload
from simulator.policies.cache.belady import Belady
from simulator.policies.gating.resident import ResidentOnly
from simulator.policies.pipeline.dynamic_gating import DynamicGating
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.policies.pipeline.static_capacity import StaticCapacity
from simulator.policies.scheduling.continuous import Continuous
from simulator.runtime.costs import ExpertCosts
from simulator.scenario import Scenario, ScenarioError, Settings
from tests.helpers import (
    EXPERT_BYTES,
    HIDDEN,
    random_trace,
    run,
    steps_of,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)

ROW_BYTES = 2 * HIDDEN
EVEN = [[[[0]], [[1]], [[2]], [[3]]]] * 2  # each request sends one row to each of four experts


def even_run(pipeline, **settings):
    """Two GPUs, four prompt tokens each, one for each expert."""
    trace = tiny_trace(EVEN, prompts=[4, 4])
    return run(
        tiny_model(layers=1, top_k=1),
        trace,
        tiny_platform(2),
        system(pipeline=pipeline),
        Workload(batch_size=2),
        **settings,
    )


def sent(result):
    """Bytes [layer][src][dst] of the step kept last."""
    (sizes,) = result.run.workers[0]._exchange._message_bytes.values()
    return sizes


def test_padded_messages_of_two_workers_by_hand():
    """Capacity 4 of 4 tokens, two experts on the other GPU: 8 rows of 64 bytes at 2 GB/s and 1 us, there and back."""
    result = even_run(functools.partial(StaticCapacity, 1.0))
    assert sent(result) == [[[0, 8 * ROW_BYTES], [8 * ROW_BYTES, 0]]]
    assert result.attribution_ps["all_to_all"] == 2 * (1_000_000 + 8 * 32_000)


def test_counts_go_before_the_rows():
    """16 bytes for the two experts of the other GPU, at 2 GB/s and 1 us, beside two rows there and back."""
    results = [even_run(functools.partial(DynamicGating, size_exchange=on)) for on in (False, True)]
    assert sent(results[0]) == sent(results[1]) == [[[0, 2 * ROW_BYTES], [2 * ROW_BYTES, 0]]]
    took = [result.attribution_ps["all_to_all"] for result in results]
    assert took == [2 * (1_000_000 + 2 * 32_000), 2 * (1_000_000 + 2 * 32_000) + 1_000_000 + 8_000]


def test_exact_sizes_and_a_capacity_that_is_just_met_are_the_same_run_but_for_the_sort():
    """A quarter of four tokens is one row for each of four experts: nothing is padded."""
    static = even_run(functools.partial(StaticCapacity, 0.25, False))
    dynamic = even_run(functools.partial(DynamicGating, False))
    assert sent(static) == sent(dynamic)
    assert static.summary["dropped_weight_share"] == 0
    device = tiny_platform(2).device("gpu0")
    sort_ps, _ = parts_of([sort_work(4, 4, 1, "bf16")], device)
    ends = [result.run.workers[0].end_ps for result in (dynamic, static)]
    assert ends[0] - ends[1] == sort_ps


@pytest.mark.parametrize("workers", [2, 3, 4])
def test_every_choice_is_a_row_on_its_way_or_at_home(workers):
    trace = random_trace(5, 5, 6, 2, 4, 2, prompt=3)
    choice = system(pipeline=DynamicGating)
    model, settings = tiny_model(), Settings(workspace_bytes=0)
    built = build(Scenario(model, trace, tiny_platform(workers), choice, Workload(batch_size=5), settings))
    exchange = built.workers[0]._exchange
    for number, step in enumerate(built.plan):
        sizes = np.array(exchange.message_bytes(number, step))
        assert (sizes % ROW_BYTES == 0).all()
        for layer in range(2):
            home = 0
            for slot, rows in zip(step.block.slots, step.rows, strict=True):
                home += int((rows[:, layer] % workers == slot % workers).sum())  # experts are owned round-robin
            assert sizes[layer].sum() // ROW_BYTES + home == 2 * step.tokens


@pytest.mark.parametrize("pipeline", [DynamicGating, StaticCapacity, functools.partial(StaticCapacity, 0.5, False)])
@pytest.mark.parametrize("workers", [1, 2])
def test_an_event_for_every_operation_gives_the_same_run(pipeline, workers):
    trace = random_trace(7, 4, 5, 2, 4, 2, prompt=3, guesses=False)
    both = [
        run(
            tiny_model(),
            trace,
            tiny_platform(workers),
            system(pipeline=pipeline),
            Workload(batch_size=4),
            cache_bytes=3 * EXPERT_BYTES,
            stepwise=stepwise,
        )
        for stepwise in (False, True)
    ]
    assert steps_of(both[0]) == steps_of(both[1])
    for record in both[0].run.workers[0].records:
        assert sum(record.waited_ps.values()) == record.end_ps - record.start_ps


def test_all_experts_run_with_padding_and_only_the_routed_ones_without():
    trace = tiny_trace([[[[0, 1]], [[0, 1]]]], prompts=[1])
    static, dynamic = (
        run(tiny_model(layers=1), trace, tiny_platform(), system(pipeline=p)) for p in (StaticCapacity, DynamicGating)
    )
    used = [sum(record.hits + record.loads for record in result.records) for result in (static, dynamic)]
    assert used == [8, 4]  # two steps


def test_on_one_worker_exact_sizes_add_kernels_alone():
    trace = random_trace(2, 2, 4, 2, 4, 2)
    plain, dynamic = (
        run(tiny_model(), trace, tiny_platform(), system(pipeline=p))
        for p in (PlainPipeline, functools.partial(DynamicGating, True, False))
    )
    assert plain.summary["load_bytes"] == dynamic.summary["load_bytes"]
    assert plain.summary["duration_s"] < dynamic.summary["duration_s"]


def test_experts_one_after_the_other_pay_three_launches_each():
    model, device = tiny_model(), tiny_platform().device("gpu0")
    sizes = [EXPERT_BYTES] * 2
    together, apart = ExpertCosts(model, sizes, device), SequentialExperts(model, sizes, device, 3)
    for count in (1, 3):
        extra_ps = (3 * count - 1) * 1_000_000  # launches take 1 us
        assert apart.together(0, (2,) * count)[0] - together.together(0, (2,) * count)[0] == extra_ps
        assert apart.single(4)[0][count][0] - together.single(4)[0][count][0] == extra_ps
    assert apart.together(0, ()) == (0, (0, 0, 0))


def test_requests_that_come_and_go_are_padded_in_every_step():
    trace = random_trace(4, 4, 5, 2, 4, 2, prompt=3, guesses=False)
    choice = system(pipeline=StaticCapacity, scheduling=lambda: Continuous(max_batch=2, token_budget=8))
    result = run(tiny_model(), trace, tiny_platform(2), choice)
    rows = [record.hits + record.late + record.loads for record in result.records]
    assert rows == [2 * 4] * len(rows)  # two layers of four experts


def test_clairvoyant_eviction_sees_the_padded_future():
    """All experts are used in every step: with room for three of four one is missing, whatever routing says."""
    trace = random_trace(6, 2, 4, 1, 4, 1, guesses=False)
    choice = system(pipeline=StaticCapacity, cache=Belady)
    result = run(tiny_model(layers=1, top_k=1), trace, tiny_platform(), choice, cache_bytes=3 * EXPERT_BYTES)
    assert [record.loads for record in result.records][1:] == [1] * (len(result.records) - 1)


def test_no_bound_of_the_experts_where_rows_are_padded():
    result = even_run(StaticCapacity, reference=True)
    assert result.bounds.reference_duration_s is None
    assert result.bounds.physics_duration_s <= result.summary["duration_s"]


def test_padding_and_a_gating_that_decides_on_the_way_are_refused_together():
    trace = random_trace(4, 1, 3, 2, 4, 2, guesses=False)
    with pytest.raises(ScenarioError, match="expected one of the two"):
        run(tiny_model(), trace, tiny_platform(), system(pipeline=StaticCapacity, gating=ResidentOnly))
