"""Arrivals, lengths and mixes against their closed forms."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from traces import DATA_FOLDER, RequestInfo
from traces.workloads import RequestList, WorkloadError, make_requests, read_recorded, summarise_requests

COUNT = 100_000


def info(number: int, first: int, prefill: int, decode: int, task: str) -> RequestInfo:
    counts = {"prefill_tokens": prefill, "decode_tokens": decode, "unknown_tokens": 0}
    return RequestInfo(id=number, tokens=prefill + decode, first_position=first, task=task, **counts)


TRACE = [
    info(3, 20, 0, 10, "law"),
    info(5, 30, 0, 12, "art"),
    info(8, 0, 4, 10, "law"),
]


def made(seed: int = 0, **spec) -> RequestList:
    return make_requests(spec, TRACE, seed)


def same(one: RequestList, two: RequestList) -> bool:
    return one.digest() == two.digest()


def test_nothing_said_is_the_trace_itself_all_at_once():
    requests = made()
    assert requests.arrival_s.tolist() == [0, 0, 0]
    assert requests.prompt_tokens.tolist() == [20, 30, 4]
    assert requests.decode_tokens.tolist() == [10, 12, 10]
    assert requests.trace_request.tolist() == [3, 5, 8]
    assert (requests.task, requests.tenant, requests.closed_loop) == (("law", "art", "law"), (None,) * 3, False)


def test_poisson_gaps_have_the_mean_and_spread_of_an_exponential():
    gaps_s = np.diff(made(requests=COUNT, arrivals={"kind": "poisson", "rate_per_s": 4.0}).arrival_s)
    # the mean of n gaps is off by cv / √n; four times that is far enough
    assert gaps_s.mean() == pytest.approx(1 / 4, rel=4 / np.sqrt(COUNT))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(1.0, rel=0.02)
    assert np.mean(gaps_s > 0.25) == pytest.approx(np.exp(-1), abs=0.01)  # memoryless


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gamma_gaps_have_the_mean_and_the_cv_asked_for(cv):
    spec = {"kind": "gamma", "rate_per_s": 10.0, "cv": cv}
    gaps_s = np.diff(made(requests=COUNT, arrivals=spec).arrival_s)
    assert gaps_s.mean() == pytest.approx(0.1, rel=4 * cv / np.sqrt(COUNT))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(cv, rel=0.04)


def test_a_closed_loop_knows_only_the_first_arrival_of_each_client():
    requests = made(requests=5, arrivals={"kind": "closed_loop", "clients": 2, "think_s": 1.5})
    assert requests.closed_loop
    assert requests.client.tolist() == [0, 1, 0, 1, 0]
    assert requests.arrival_s[:2].tolist() == [1.5, 1.5]
    assert np.isnan(requests.arrival_s[2:]).all()
    assert requests.think_s.tolist() == [1.5] * 5
    think = {"kind": "closed_loop", "clients": 2, "think_s": 1.5, "think": "exponential"}
    drawn = made(requests=COUNT, arrivals=think).think_s
    assert drawn.mean() == pytest.approx(1.5, rel=4 / np.sqrt(COUNT))
    assert drawn.std() == pytest.approx(1.5, rel=0.02)


def test_normal_lengths_have_the_mean_and_the_deviation_asked_for_and_stay_between_the_ends():
    spec = {"kind": "normal", "mean": 256, "sd": 100, "low": 14, "high": 498}  # 2.4 deviations either side
    tokens = made(requests=COUNT, decode_tokens=spec).decode_tokens
    assert tokens.mean() == pytest.approx(256, rel=4 * 0.4 / np.sqrt(COUNT))
    assert tokens.std() == pytest.approx(100, rel=0.02)
    assert (tokens.min(), tokens.max()) == (14, 498)


def test_a_window_finds_every_place_taken_at_every_step_and_ends_for_all_at_once():
    lengths = {"kind": "normal", "mean": 40, "sd": 15, "low": 2}
    prompts = {"kind": "fixed", "tokens": 100}
    drawn = made(requests=200, prompt_tokens=prompts, decode_tokens=lengths)
    seen = made(requests=200, prompt_tokens=prompts, decode_tokens=lengths, window={"in_flight": 16, "steps": 60})
    had = seen.prompt_tokens[:16] - 100  # of the answers of those that are under way
    ages = had / drawn.decode_tokens[:16]
    np.testing.assert_allclose(ages, (np.arange(16) + 0.5) / 16, atol=0.5)  # whole tokens
    assert (seen.prompt_tokens[16:] == 100).all()
    ends, begun = [0] * 16, 0
    for row, tokens in enumerate(seen.decode_tokens):  # first come, first served, a step for a later request's prompt
        ends.sort()
        ends[0] += int(tokens) + (row >= 16)
        begun += row >= 16
    assert set(ends) <= {59, 60}  # one that ends a step before the end has no room for another
    assert seen.decode_tokens.sum() + begun == sum(ends)
    assert len(seen) == len(seen.task) == len(seen.arrival_s) < 200
    assert len(made(requests=16, decode_tokens=100, window={"in_flight": 16, "steps": 5})) == 16 + 0


@pytest.mark.parametrize(
    ("node", "sentence"),
    [
        ({"in_flight": 2}, "must be a mapping of in_flight and steps to whole numbers from 1, not"),
        ({"in_flight": 0, "steps": 3}, "must be a mapping of in_flight and steps to whole numbers from 1, not"),
        ({"in_flight": 4, "steps": 3}, "needs 4 requests or more, but there are 3."),
        ({"in_flight": 2, "steps": 30}, "of 30 steps needs more than 3 requests."),
    ],
)
def test_a_window_that_cannot_be_is_refused_in_one_sentence(node, sentence):
    with pytest.raises(WorkloadError, match=f"^workload: 'window' {sentence}"):
        made(decode_tokens=8, window=node)


def test_lognormal_lengths_have_the_mean_and_the_cv_asked_for():
    tokens = made(requests=COUNT, decode_tokens={"kind": "lognormal", "mean": 500, "cv": 0.8}).decode_tokens
    assert tokens.mean() == pytest.approx(500, rel=4 * 0.8 / np.sqrt(COUNT))
    assert tokens.std() / tokens.mean() == pytest.approx(0.8, rel=0.03)
    # the median of a log-normal is mean / √(1 + cv²)
    assert np.median(tokens) == pytest.approx(500 / np.sqrt(1 + 0.8**2), rel=0.02)
    kept = made(requests=1000, decode_tokens={"kind": "lognormal", "mean": 500, "cv": 0.8, "low": 100, "high": 600})
    assert (kept.decode_tokens.min(), kept.decode_tokens.max()) == (100, 600)


def test_uniform_lengths_reach_both_ends_alike():
    tokens = made(requests=COUNT, prompt_tokens={"kind": "uniform", "low": 3, "high": 6}).prompt_tokens
    values, counts = np.unique(tokens, return_counts=True)
    assert values.tolist() == [3, 4, 5, 6]
    assert counts / COUNT == pytest.approx(np.full(4, 0.25), abs=0.01)


def test_tasks_and_tenants_come_in_their_shares_and_tasks_choose_the_requests_followed():
    requests = made(requests=COUNT, tasks={"law": 3, "art": 1}, tenants={"a": 0.9, "b": 0.1})
    law = np.array(requests.task) == "law"
    assert law.mean() == pytest.approx(0.75, abs=0.01)
    assert np.mean(np.array(requests.tenant) == "a") == pytest.approx(0.9, abs=0.01)
    assert set(requests.trace_request[~law]) == {5}
    assert requests.trace_request[law].tolist() == [3, 8] * (law.sum() // 2) + [3] * (law.sum() % 2)  # in turn
    assert requests.decode_tokens[~law].tolist() == [12] * (~law).sum()


SPEC = {
    "arrivals": {"kind": "gamma", "rate_per_s": 2.0, "cv": 2.0},
    "prompt_tokens": {"kind": "lognormal", "mean": 100, "cv": 1},
    "decode_tokens": {"kind": "uniform", "low": 1, "high": 99},
    "tasks": {"law": 1, "art": 1},
    "tenants": {"a": 1, "b": 2},
}


def test_a_list_depends_on_the_specification_and_the_seed_alone():
    assert same(made(1, requests=50, **SPEC), made(1, requests=50, **SPEC))
    assert not same(made(1, requests=50, **SPEC), made(2, requests=50, **SPEC))


def test_changing_one_piece_leaves_the_others_and_fewer_requests_are_the_first_of_more():
    full = made(1, requests=50, **SPEC)
    other = made(1, requests=50, **(SPEC | {"decode_tokens": 7, "arrivals": "at_once"}))
    assert other.prompt_tokens.tolist() == full.prompt_tokens.tolist()
    assert (other.task, other.tenant) == (full.task, full.tenant)
    few = made(1, requests=20, **SPEC)
    for name in ("arrival_s", "prompt_tokens", "decode_tokens", "trace_request", "task", "tenant"):
        assert list(getattr(few, name)) == list(getattr(full, name))[:20], name


# ---- recorded services


@pytest.mark.parametrize(
    ("source", "count", "span_s", "prompt_mean", "decode_mean"),
    [
        ("azure_conversation_2023", 19366, 3501.721937, 1154.697, 211.126),
        ("azure_code_2023", 8819, 3435.948056, 2047.848, 27.883),
    ],
)
def test_the_recorded_services_are_whole(source, count, span_s, prompt_mean, decode_mean):
    columns = read_recorded(source)
    assert {len(values) for values in columns.values()} == {count}
    assert (columns["arrival_s"][0], columns["arrival_s"][-1]) == (0.0, span_s)
    assert np.diff(columns["arrival_s"]).min() >= 0
    assert columns["prompt_tokens"].mean() == pytest.approx(prompt_mean, abs=1e-3)
    assert columns["decode_tokens"].mean() == pytest.approx(decode_mean, abs=1e-3)


def test_recorded_arrivals_begin_at_zero_keep_their_gaps_and_go_with_recorded_lengths():
    source = {"source": "azure_code_2023", "first": 100}
    requests = made(
        requests=40,
        arrivals={"kind": "recorded", **source, "speed": 2.0},
        prompt_tokens={"kind": "recorded", **source},
        decode_tokens={"kind": "recorded", **source},
    )
    columns = read_recorded("azure_code_2023")
    assert requests.arrival_s[0] == 0
    assert np.diff(requests.arrival_s) == pytest.approx(np.diff(columns["arrival_s"][100:140]) / 2)
    assert requests.prompt_tokens.tolist() == columns["prompt_tokens"][100:140].tolist()
    assert requests.decode_tokens.tolist() == columns["decode_tokens"][100:140].tolist()


@pytest.mark.skipif("MOESIM_EXTRA_DATA" not in os.environ, reason="needs the tables as published")
def test_the_shipped_files_are_made_from_the_published_tables(tmp_path):
    from traces.data.workloads import make

    make.main([str(Path(os.environ["MOESIM_EXTRA_DATA"]) / "workloads"), "--out", str(tmp_path)])
    for name in make.FILES:
        shipped = DATA_FOLDER / "workloads" / f"{name}.parquet"
        assert (tmp_path / shipped.name).read_bytes() == shipped.read_bytes()
    assert sum(path.stat().st_size for path in (DATA_FOLDER / "workloads").glob("*.parquet")) <= 150_000


def test_a_summary_counts_what_the_trace_did_not_record():
    requests = made(requests=4, decode_tokens=11, arrivals={"kind": "poisson", "rate_per_s": 1})
    summary = summarise_requests(requests, TRACE)
    # they follow requests 3, 5, 8, 3 with 10, 12, 10, 10 recorded tokens: one is missing three times
    assert (summary["decode_tokens_total"], summary["decode_tokens_not_recorded"]) == (44, 3)
    assert summary["decode_share_not_recorded"] == pytest.approx(3 / 44)
    assert summary["tasks"] == {"art": 1, "law": 3}
    span_s = requests.arrival_s[-1] - requests.arrival_s[0]
    assert summary["arrivals"]["rate_per_s"] == pytest.approx(3 / span_s)


# ---- refusals


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ({"arivals": "at_once"}, "workload: unknown key 'arivals'; did you mean 'arrivals'?"),
        (
            {"requests": 0},
            "workload: 'requests' must be a whole number from 1 to 10,000,000 or null, not 0.",
        ),
        (
            {"arrivals": "poison"},
            "workload: 'arrivals' must be one of at_once, poisson, gamma, recorded, closed_loop, not 'poison'; did you"
            " mean 'poisson'?",
        ),
        (
            {"arrivals": "poisson"},
            "workload: 'arrivals' of kind poisson needs the parameter 'rate_per_s', a number.",
        ),
        (
            {"arrivals": {"kind": "poisson", "rate_per_s": "2/s"}},
            "workload: 'arrivals': parameter 'rate_per_s' must be a number, not '2/s'.",
        ),
        (
            {"arrivals": {"kind": "gamma", "rate_per_s": 1, "cv": 0}},
            "workload: 'arrivals': 'cv' must be from 1e-06 to 1e+06, not 0.",
        ),
        (
            {"arrivals": {"kind": "closed_loop", "clients": 0}},
            "workload: 'arrivals': 'clients' must be at least 1, not 0.",
        ),
        (
            {"requests": 9000, "arrivals": {"kind": "recorded", "source": "azure_code_2023"}},
            "workload: 'arrivals': 9000 requests from 'first' 0 on must be there, but azure_code_2023 has 8819.",
        ),
        (
            {"decode_tokens": {"kind": "uniform", "low": 9, "high": 2}},
            "workload: 'decode_tokens': 'low' and 'high' must rise and be from 0 to 2,147,483,647, not 9 and 2.",
        ),
        ({"prompt_tokens": -1}, "workload: 'prompt_tokens': 'tokens' must be from 0 to 2,147,483,647, not -1."),
        (
            {"tasks": {"maths": 1}},
            "workload: task 'maths' must be one of the trace's (there are: art, law).",
        ),
        (
            {"arrivals": {"kind": "gamma", "rate_per_s": 1, "cv": 1e-200}},
            "workload: 'arrivals': 'cv' must be from 1e-06",
        ),
        (
            {"arrivals": {"kind": "gamma", "rate_per_s": 1, "cv": 1e200}},
            "workload: 'arrivals': parameter 'cv' must be below",
        ),
        (
            {"arrivals": {"kind": "closed_loop", "clients": 10**30}},
            "workload: 'arrivals': parameter 'clients' must be below",
        ),
        (
            {"arrivals": False},
            "workload: 'arrivals' must be one of at_once, poisson, gamma, recorded, closed_loop, not False.",
        ),
        ({"arrivals": {"rate_per_s": 1}}, "workload: 'arrivals' needs a 'kind', one of at_once,"),
        (
            {"decode_tokens": 0.0},
            "workload: 'decode_tokens' must be one of trace, fixed, uniform, normal, lognormal, recorded, file, not 0",
        ),
        ({"decode_tokens": 10**30}, "workload: 'decode_tokens': parameter 'tokens' must be below 2^63"),
        (
            {"decode_tokens": {"kind": "uniform", "low": 0, "high": 2**31}},
            "workload: 'decode_tokens': 'low' and 'high' must rise and be from 0 to 2,147,483,647, not 0 and",
        ),
        (
            {"tasks": {"law": 1e308, "art": 1e308}},
            "workload: 'tasks' must be a mapping of names to weights, from 0 to 1e+100",
        ),
        ({"tenants": {"a": 10**400}}, "workload: 'tenants' must be a mapping of names to weights, from 0 to 1e+100"),
        (
            {"tenants": {True: 1}},
            "workload: 'tenants': the name True must be a text; quote it if it reads as something else.",
        ),
        (
            {"tenants": {"a": -1}},
            "workload: 'tenants' must be a mapping of names to weights, from 0 to 1e+100 and not all 0, not {'a': -1}.",
        ),
    ],
)
def test_a_specification_that_cannot_be_is_refused_in_one_sentence(spec, sentence):
    with pytest.raises(WorkloadError) as caught:
        make_requests(spec, TRACE)
    assert str(caught.value).startswith(sentence)
    assert "\n" not in str(caught.value)
