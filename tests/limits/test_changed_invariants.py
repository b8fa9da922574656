"""The invariants of any run, where policies change routing, precision, staging and the place of execution."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.policies.execution.base import ExecutionPolicy, Split
from simulator.policies.gating.base import GatingPolicy
from simulator.policies.precision.base import PrecisionPolicy
from simulator.policies.slots.staged import StagedSlots
from simulator.residency import RESIDENT
from simulator.result import Result
from tests.helpers import EXPERT_BYTES, steps_of
from tests.limits.random_runs import Case, cases
from tests.limits.test_invariants import (
    attribution_is_the_step,
    lanes_serve_one_at_a_time_and_no_byte_is_lost,
    time_never_goes_back,
)

EXAMPLES = settings(max_examples=100, deadline=None, derandomize=True)


class Drops(GatingPolicy):
    """Every third token loses its last expert; the others turn a missing expert into a resident one."""

    chooses = True

    def __init__(self) -> None:
        self._seen = 0

    def choose(self, choice):
        ids = choice.ids.copy()
        there = np.flatnonzero(choice.resident())
        for row in ids:
            self._seen += 1
            if self._seen % 3 == 0 and len(row) > 1:
                row[-1] = -1
            elif len(there) and there[0] not in row:
                row[0] = there[0]
        return ids, choice.weights


class Levels(PrecisionPolicy):
    """Two levels; which one is wanted, or none, by the expert's number and the layer."""

    bits = (None, 5.0)

    def __init__(self, by_score: bool, shared: bool) -> None:
        self.by_score = by_score
        self.shares = None if shared else (0.5, 0.5)

    def level(self, layer, expert):
        return (layer + expert) % 2

    def wanted(self, blobs, choice):
        return [(blob + choice.layer) % 3 for blob in blobs]


class Everywhere(ExecutionPolicy):
    """Misses are fetched, run on the CPU at once or a layer late, by turns; now and then a resident one too."""

    uses_cpu = always = True

    def __init__(self, early: bool) -> None:
        self.precomputes = early

    def split(self, work):
        cpu = [*work.misses[1::2], *(work.hits[:1] if work.layer % 2 else ())]
        return Split(work.misses[::2], cpu, cpu[:1])

    def ahead(self, work):
        return [blob for blob in work.expected if work.distance(blob) == 1 and not work.here_or_coming(blob)][:1]


@st.composite
def changed(draw: Any) -> Case:
    case = draw(cases(workers=(1,), homes=("dram",)))
    pick = lambda *options: draw(st.sampled_from(options))  # noqa: E731
    roles = dict(case.roles)
    if pick(True, False):
        roles["gating"] = Drops
    if pick(True, False):
        by_score, shared = pick(True, False), pick(True, False)
        roles["precision"] = lambda: Levels(by_score, shared)
    if pick(True, False):
        early = pick(True, False)
        roles["execution"] = lambda: Everywhere(early)
    settings = dict(case.settings)
    if pick(True, False):
        roles["slots"] = lambda: StagedSlots(2)
    layers, _, top_k = case.shape
    settings["cache_bytes"] = (2 * layers * top_k + 4) * EXPERT_BYTES
    return Case(**{**vars(case), "roles": roles, "settings": settings})


def memories_hold_what_their_slots_say(result: Result) -> None:
    (tier,) = result.run.tiers
    experts = len(tier.slots) // len(tier.partitions)
    partitions = {id(p): p for p in (*tier.partitions, *([tier.staging] if tier.staging else []))}
    used = dict.fromkeys(partitions, 0)
    for blob, slot in enumerate(tier.slots):
        if slot is not None:
            used[id(tier.staging if blob in tier.staged else tier.partitions[blob // experts])] += tier.sizes[blob]
    for transfer, partition in tier.draining:
        used[id(partition)] += tier.sizes[transfer.blob]
    for key, partition in partitions.items():
        assert partition.used_bytes == used[key]
        assert partition.used_bytes <= partition.peak_bytes <= partition.capacity_bytes
    assert all(slot is not RESIDENT or slot for slot in tier.slots)


def every_expert_is_served_or_reported(result: Result) -> None:
    worker = result.run.workers[0]
    for record, step in zip(result.records, result.run.plan, strict=True):
        asked = sum(len(blobs) for blobs, _ in step.groups)
        served = record.hits + record.late + record.loads + record.on_cpu
        if worker.adapter is None:
            assert served == asked
        elif step.tokens == 1:
            assert served <= asked
    shares = [result.summary[f"{name}_weight_share"] for name in ("dropped", "substituted", "low_precision")]
    if worker.adapter is not None:
        assert all(-1e-9 <= share <= 1 + 1e-9 for share in shares)
        assert shares[0] + shares[1] <= 1 + 1e-9


@EXAMPLES
@given(changed())
def test_the_books_of_any_changed_run_balance(case: Case):
    result = case.run()
    time_never_goes_back(result)
    lanes_serve_one_at_a_time_and_no_byte_is_lost(result)
    memories_hold_what_their_slots_say(result)
    every_expert_is_served_or_reported(result)
    attribution_is_the_step(result)
    assert result.bounds.physics_duration_s <= result.duration_ps / 1e12 * (1 + 1e-9)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(changed())
def test_decoupled_and_stepwise_changed_runs_are_equal(case: Case):
    assert steps_of(case.run()) == steps_of(case.run(stepwise=True)) == steps_of(case.run())
