"""Requests that come and go on the stages of a pipeline: several steps under way, one behind the other."""

from __future__ import annotations

from collections import Counter
from functools import partial

import numpy as np
import pytest

from simulator.layout_choice import LayoutChoice
from simulator.plan import Workload
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.base import Turn
from simulator.policies.scheduling.continuous import Continuous
from simulator.policies.scheduling.lockstep import Lockstep
from simulator.residency import PolicyError
from simulator.result import simulate
from simulator.scenario import Scenario, ScenarioError, Settings
from simulator.tenants.spec import Tenants
from tests.helpers import random_trace, run, steps_of, system, tiny_platform
from tests.unit.runtime.test_layouts import MODEL


def serve(layout, workload, gpus, *, scheduling=None, trace=None, roles=None, **settings):
    scheduling = scheduling or partial(Continuous, max_batch=2, token_budget=8)
    return run(
        MODEL,
        trace or random_trace(1, 8, 12, 3, 8, 2, prompt=3),
        tiny_platform(gpus),
        system(scheduling=scheduling, **(roles or {})),
        workload,
        layout,
        **{"kv_page_tokens": 4, **settings},
    )


def listed(tmp_path, seed, count=12, prompt=6):
    rng = np.random.default_rng(seed)
    arrivals_s = np.sort(rng.choice([0.0, 1e-4, 3e-4, 8e-4, 9e-4, 0.05], count))
    rows = [f"{at},{prompt + n % 4},{1 + n % 5}" for n, at in enumerate(arrivals_s)]
    path = tmp_path / "requests.csv"
    path.write_text("\n".join(["arrival_s,prompt_tokens,decode_tokens", *rows]) + "\n")
    return Workload(file=str(path), binding="cycle")


def test_one_request_takes_as_long_as_in_lock_step():
    alone = Workload(requests=1)
    come, fixed = (serve(LayoutChoice(pp=3), alone, 3, scheduling=kind) for kind in (None, Lockstep))
    ours, theirs = ([(r.start_ps, r.end_ps, r.hits, r.loads) for r in result.records] for result in (come, fixed))
    assert ours == theirs


@pytest.mark.parametrize(
    ("layout", "gpus", "page_bytes", "pages"),
    [
        (LayoutChoice(pp=3), 3, 512, None),
        (LayoutChoice(pp=3), 3, 512, 7),
        (LayoutChoice(pp=2, tp=2), 4, 512, 9),
        (LayoutChoice(pp=2, attention_dp=2), 4, 1024, 5),
        (LayoutChoice(pp=2, tp=2, moe_ep=2), 4, 512, None),
    ],
)
@pytest.mark.parametrize("seed", [1, 2])
def test_the_books_balance(tmp_path, layout, gpus, page_bytes, pages, seed):
    room = {} if pages is None else {"kv_cache_bytes": pages * page_bytes}
    workload = listed(tmp_path, seed)
    one, other = (serve(layout, workload, gpus, stepwise=stepwise, **room) for stepwise in (False, True))
    assert steps_of(one) == steps_of(other)
    rows = one.requests
    assert rows.request.tolist() == list(range(12))
    assert rows.decode_tokens.tolist() == [1 + n % 5 for n in range(12)]
    assert (rows.queued_s >= 0).all()
    ended, context = Counter(), Counter()
    records = list(one.records)
    for record in records:
        for request, after in zip(record.requests, record.kv_tokens, strict=True):
            assert record.start_ps >= ended[request]  # one step of a request at a time
            if not rows.preemptions[request]:
                assert after > context[request]
            ended[request], context[request] = record.end_ps, after
    for earlier, later in zip(records, records[layout.pp :], strict=False):
        assert later.start_ps >= earlier.end_ps  # no more steps under way than stages
    if pages is not None:
        assert max(one.run.batcher.pages.peak_bytes) <= pages * page_bytes
        assert rows.preemptions.sum() > 0


def test_stages_work_at_the_same_time():
    trace = random_trace(1, 8, 40, 3, 8, 2, prompt=3)
    resident = {"placement": PopularFirst}
    alone, three = (
        serve(LayoutChoice(pp=3), Workload(requests=count), 3, trace=trace, roles=resident, timeline=False)
        for count in (1, 3)
    )
    gain = three.summary["tokens_per_s"] / alone.summary["tokens_per_s"]
    assert 2 < gain <= 3
    assert three.summary["attribution"]["pipeline"] > 0
    slowest_s = max(worker.busy_ps for worker in three.run.workers) / 1e12
    assert three.summary["makespan_s"] == pytest.approx(slowest_s, rel=0.1)  # the slowest stage never waits for long


def test_what_stages_do_not_go_with_is_refused():
    swap = partial(Continuous, max_batch=2, token_budget=8, preempt="swap")
    with pytest.raises(ScenarioError, match=r"^policy\.scheduling\.preempt is swap; with layout\.pp=3 expected recomp"):
        serve(LayoutChoice(pp=3), Workload(requests=2), 3, scheduling=swap)
    roles = system(scheduling=Continuous)
    parts = (MODEL, random_trace(1, 8, 12, 3, 8, 2, prompt=3), tiny_platform(3), roles, Workload(), Settings())
    with pytest.raises(ScenarioError, match=r"^tenants\.count is 2; with layout\.pp=3 expected 1\.$"):
        simulate(Scenario(*parts, LayoutChoice(pp=3), Tenants(count=2)))


class Idle(Continuous):
    """Runs nothing."""

    def next_turn(self, view):
        return Turn()


def test_a_scheduler_is_called_by_its_own_name_also_where_each_stage_has_a_queue():
    with pytest.raises(PolicyError, match=r"^policy/scheduling Idle runs nothing although 2 requests wait"):
        serve(LayoutChoice(pp=3), Workload(requests=2), 3, scheduling=Idle)
