"""A run with an event for every operation equals one that runs ahead: log, step records and summary, exactly."""

from __future__ import annotations

import json
from functools import partial

import pytest
from hypothesis import given, settings

from hwmodels import Platform
from simulator.model import ModelSpec
from simulator.plan import Workload
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.prediction.oracle import OraclePrediction
from simulator.policies.prediction.transition import TransitionPrediction
from simulator.result import Result
from tests.helpers import real_trace as real
from tests.helpers import run, shipped, steps_of, system
from tests.limits.random_runs import Case, cases

EXAMPLES = settings(max_examples=80, deadline=None, derandomize=True)


def assert_equal(ahead: Result, stepwise: Result) -> None:
    assert steps_of(ahead) == steps_of(stepwise)
    assert json.dumps(ahead.summary) == json.dumps(stepwise.summary)
    assert moved_by_the_end(ahead) == moved_by_the_end(stepwise)


def moved_by_the_end(result: Result) -> list[tuple[str, int, bool, int, int, int]]:
    """The transfers up to the last step's end; fetches that nobody waits for may still be under way then."""
    result.run.fabric.advance(result.duration_ps)
    return [entry for entry in result.run.fabric.log if entry[4] <= result.duration_ps]


@EXAMPLES
@given(cases(workers=(0, 1, 1, 1)))
def test_on_one_gpu_or_a_phone(case: Case):
    assert_equal(case.run(), case.run(stepwise=True))


@EXAMPLES
@given(cases(workers=(2, 2, 3)))
def test_on_several_gpus_behind_one_switch(case: Case):
    assert_equal(case.run(), case.run(stepwise=True))


GIB = 2**30
REAL = {
    "rtx_3060, oracle": ("rtx_3060", {"prediction": partial(OraclePrediction, 2)}, 1, {}),
    "rtx_3060, host CPU": ("rtx_3060", {"execution": CpuInPlace, "prediction": TransitionPrediction}, 1, {}),
    "rtx_3060, from SSD": ("rtx_3060", {"prediction": TransitionPrediction}, 1, {"host_cache_bytes": 6 * GIB}),
    "two_rtx_3090, batch of 2": ("two_rtx_3090", {"prediction": TransitionPrediction}, 2, {}),
    "two_rtx_3090, batch of 4": ("two_rtx_3090", {"prediction": OraclePrediction}, 4, {}),
}


@pytest.mark.parametrize("name", REAL)
def test_on_a_real_trace(name):
    platform_name, roles, batch_size, more = REAL[name]
    platform = shipped("platform", platform_name)
    if "host_cache_bytes" in more:
        platform["home"] = "ssd"
    model, trace = ModelSpec.from_mapping(shipped("model", "gpt_oss_20b")), real("gpt_oss_20b")
    workload = Workload(requests=4, batch_size=batch_size, max_decode_tokens=12)
    both = [
        run(
            model, trace, Platform.from_mapping(platform), system(**roles), workload,
            cache_bytes=4 * GIB, stepwise=stepwise, **more,
        )
        for stepwise in (False, True)
    ]  # fmt: skip
    assert_equal(*both)
