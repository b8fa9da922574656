"""What holds for any run, whatever the policies, the platform and the trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

from hypothesis import given, settings

from simulator.policies.prediction.none import NoPrediction
from simulator.policies.prefetch.none import NoPrefetch
from simulator.result import Result
from tests.helpers import steps_of
from tests.limits.random_runs import Case, cases

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True)
FEWER = settings(max_examples=40, deadline=None, derandomize=True)


@EXAMPLES
@given(cases())
def test_the_books_of_any_run_balance(case: Case):
    result = case.run()
    time_never_goes_back(result)
    lanes_serve_one_at_a_time_and_no_byte_is_lost(result)
    memories_are_never_over_their_size_and_hold_what_their_slots_say(result)
    every_expert_asked_for_is_served_once(result)
    attribution_is_the_step(result)


def time_never_goes_back(result: Result) -> None:
    ends = [entry[4] for entry in result.run.fabric.log]
    assert ends == sorted(ends)
    for worker in result.run.workers:
        times = [time for record in worker.records for time in (record.start_ps, record.end_ps)]
        assert times == sorted(times)
        assert all(before.end_ps == after.start_ps for before, after in pairwise(worker.records))
        spans = [span[2:] for span in result.run.recorder.segments if span[0] == worker.name]
        assert all(before[1] <= after[0] for before, after in pairwise(spans))


def lanes_serve_one_at_a_time_and_no_byte_is_lost(result: Result) -> None:
    served = defaultdict(list)
    for name, _, _, start_ps, end_ps, size_bytes in result.run.fabric.log:
        served[name].append((start_ps, end_ps, size_bytes))
    for lane in result.run.fabric.lanes:
        spans = sorted(served[lane.name])
        if lane.width == 1:
            assert all(before[1] <= after[0] for before, after in pairwise(spans))
        for start, _, _ in spans:
            assert sum(begin <= start < end for begin, end, _ in spans) <= lane.width
        assert lane.delivered_bytes == sum(size for _, _, size in spans)
        assert lane.requested_bytes == lane.delivered_bytes + lane.cancelled_bytes + lane.pending_bytes


def memories_are_never_over_their_size_and_hold_what_their_slots_say(result: Result) -> None:
    run = result.run
    for tier in (*run.tiers, *([run.host] if run.host else [])):
        used: Counter[int] = Counter()
        experts = len(tier.slots) // len(tier.partitions)
        for blob, slot in enumerate(tier.slots):
            if slot is not None:
                used[id(tier.partitions[blob // experts])] += tier.sizes[blob]
        for transfer, partition in tier.draining:
            used[id(partition)] += tier.sizes[transfer.blob]
        for partition in tier.partitions:
            assert partition.used_bytes == used[id(partition)]
            assert partition.used_bytes <= partition.peak_bytes <= partition.capacity_bytes


def every_expert_asked_for_is_served_once(result: Result) -> None:
    phases = [[0] * len(result.run.layer_expert_bytes) for _ in range(2)]
    for record, step in zip(result.records, result.run.plan, strict=True):
        asked = sum(len(blobs) for blobs, _ in step.groups)
        assert record.hits + record.late + record.loads + record.on_cpu == asked
        for layer, (blobs, _) in enumerate(step.groups):
            phases[step.prefill][layer] += len(blobs)
    for prefill, layers in enumerate(phases):
        for layer, asked in enumerate(layers):
            assert sum(sum(worker.layer_counts[prefill][layer]) for worker in result.run.workers) == asked
    assert sum(sum(worker.expert_loads) for worker in result.run.workers) == sum(r.loads for r in result.records)


def attribution_is_the_step(result: Result) -> None:
    for record in result.records:
        assert min(record.waited_ps.values(), default=1) > 0
        assert sum(record.waited_ps.values()) == record.end_ps - record.start_ps


@FEWER
@given(cases())
def test_the_same_scenario_gives_the_same_run(case: Case):
    first, second = case.run(), case.run()
    assert steps_of(first) == steps_of(second)
    assert first.run.fabric.log == second.run.fabric.log
    assert json.dumps(first.summary) == json.dumps(second.summary)


@FEWER
@given(cases())
def test_predictions_that_nobody_fetches_change_nothing(case: Case):
    without = {**case.roles, "prediction": NoPrediction, "prefetch": NoPrefetch}
    unused = {**case.roles, "prefetch": NoPrefetch}
    first, second = (Case(**{**vars(case), "roles": roles}).run() for roles in (without, unused))
    assert steps_of(first) == steps_of(second)


@EXAMPLES
@given(cases(homes=("dram",)))
def test_no_run_is_faster_than_physics(case: Case):
    result = case.run()
    assert result.bounds.physics_duration_s <= result.duration_ps / 1e12 * (1 + 1e-9)


@EXAMPLES
@given(cases(workers=(1,), homes=("dram",), mixed_sizes=False))
def test_no_run_that_fetches_is_faster_than_the_clairvoyant_reference_where_its_groups_fit(case: Case):
    """Experts of one size. A group that is larger than the cache streams, which the reference does not follow."""
    result = case.run()
    bounds = result.bounds
    if bounds.reference_duration_s is None:  # the host CPU runs experts
        return
    largest = max(sum(result.run.tiers[0].sizes[blob] for blob in blobs) for blobs in result.run.plan.groups())
    if largest <= min(partition.capacity_bytes for partition in result.run.tiers[0].partitions):
        assert bounds.reference_duration_s <= result.duration_ps / 1e12
    assert bounds.physics_duration_s <= bounds.reference_duration_s * (1 + 1e-9)


def test_a_run_does_not_depend_on_the_hash_seed_of_the_process():
    root = Path(__file__).resolve().parents[2]
    outputs = set()
    for seed in ("1", "2718"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)}
        done = subprocess.run(
            [sys.executable, "-m", "tests.limits.hash_seed"],
            cwd=root, env=environment, capture_output=True, text=True, check=True,
        )  # fmt: skip
        outputs.add(done.stdout)
    assert len(outputs) == 1
    assert json.loads(outputs.pop())["summaries"]
