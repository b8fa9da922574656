"""workload.rate_per_s: the same requests, faster or slower."""

from __future__ import annotations

import numpy as np
import pytest

from simulator.plan import Plan, PlanError, Workload
from tests.helpers import random_trace
from traces.workloads import open_requests
from traces.workloads.requests import WorkloadError

TRACE = random_trace(1, 4, 3, 2, 4, 2)
TIMES_S = [1.0, 2.0, 2.0, 5.0]
LIST = "arrival_s\n1\n2\n2\n5\n"


@pytest.fixture
def file(tmp_path):
    def write(name="list.csv", text=LIST):
        path = tmp_path / name
        path.write_text(text)
        return str(path)

    return write


def arrivals(path, **options):
    listed = Plan(TRACE, Workload(file=path, **options)).listed
    return listed.arrival_s.tolist()


def test_arrivals_are_stretched_to_a_mean_gap_of_one_over_the_rate(file):
    assert arrivals(file()) == TIMES_S
    assert arrivals(file(), rate_per_s=3.0) == pytest.approx([0.25, 0.5, 0.5, 1.25])  # 3 gaps in 1 s
    twice, once = (np.array(arrivals(file(), rate_per_s=rate)) for rate in (2.0, 1.0))
    assert twice == pytest.approx(once / 2)


def test_the_rate_is_that_of_the_requests_that_are_served(file):
    some = arrivals(file(), rate_per_s=1.0, first_request=1, requests=3)  # 2, 2 and 5 s: two gaps in 3 s
    assert some[3] - some[1] == pytest.approx(2.0)


def test_a_shipped_list_of_real_arrivals_has_the_rate_asked_for():
    plan = Plan(TRACE, Workload(file="azure_conversation", requests=100, rate_per_s=4.0, binding="cycle"))
    recorded = open_requests("azure_conversation", TRACE.requests)
    assert plan.listed.arrival_s[99] - plan.listed.arrival_s[0] == pytest.approx(99 / 4)
    gaps, own = np.diff(plan.listed.arrival_s), np.diff(recorded.arrival_s)
    assert gaps == pytest.approx(own * gaps.sum() / own.sum())
    assert plan.listed.prompt_tokens.tolist() == recorded.prompt_tokens.tolist()


@pytest.mark.parametrize(
    ("name", "text", "options", "error", "words"),
    [
        (None, None, {"rate_per_s": 1.0}, PlanError, "there is no workload.file with arrivals"),
        (
            "a.csv",
            "arrival_s\n1\n2\n",
            {"rate_per_s": 0.0},
            WorkloadError,
            "workload.rate_per_s is 0.0; expected above",
        ),
        ("a.csv", "arrival_s\n1\n2\n", {"rate_per_s": float("nan")}, WorkloadError, "workload.rate_per_s is nan"),
        ("a.csv", "decode_tokens\n1\n2\n", {"rate_per_s": 1.0}, WorkloadError, "come at once; expected null"),
        (
            "a.yaml",
            "requests: 4\narrivals: {kind: closed_loop, clients: 2}\n",
            {"rate_per_s": 1.0},
            WorkloadError,
            "is a closed loop; expected null",
        ),
    ],
)
def test_what_cannot_be_stretched_is_refused(file, name, text, options, error, words):
    path = None if name is None else file(name, text)
    with pytest.raises(error, match=words):
        Plan(TRACE, Workload(file=path, **options))
