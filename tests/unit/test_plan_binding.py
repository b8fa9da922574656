"""Requests that outlast their recorded routing, and request lists, by hand on two small requests."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from experiments.cli import main
from experiments.compose import compose_config
from experiments.estimate import tokens_of
from experiments.run import plain, run_config
from experiments.sweep.identity import point_id
from simulator.plan import Plan, PlanError, Step, Workload
from simulator.unrecorded import facts, remarks
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, open_trace

META = TraceMeta(model="toy", num_experts=8, top_k=1, native_top_k=1, layers=(0,), has_weights=True)
# request 7: experts 0 1 of two prompt tokens, 2 3 4 decoded; request 2: prompt of five not recorded, 5 6 decoded
SEVEN, TWO = [0, 1, 2, 3, 4], [5, 6]
SHORT = ["workload.requests=1", "workload.max_decode_tokens=3", "reference=false", "cache_gib=4"]


def request(number: int, experts: list[int], first: int, prompt: int) -> RequestTrace:
    tokens = len(experts)
    return RequestTrace(
        id=number,
        positions=np.arange(first, first + tokens, dtype=np.int32),
        phases=(np.arange(tokens) >= prompt).astype(np.int8),
        experts=np.array(experts, dtype=np.int16).reshape(tokens, 1, 1),
        weights=np.ones((tokens, 1, 1), dtype=np.float32),
    )


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    with TraceWriter(tmp_path / "toy.parquet", META) as writer:
        writer.write(request(7, SEVEN, 0, 2), task="law")
        writer.write(request(2, TWO, 5, 0), task="art")
    return open_trace(tmp_path / "toy.parquet")


def experts(steps: list[Step]) -> list[int]:
    """Of one request's decoded tokens."""
    return [int(step.rows[0][0, 0, 0]) for step in steps if not step.prefill]


def served(trace: Trace, seed: int = 0, **workload) -> list[Step]:
    return list(Plan(trace, Workload(**workload), np.random.SeedSequence(seed)))


def test_cycle_repeats_the_rows_from_the_start(trace):
    prefill, *decode = served(trace, requests=1, decode_tokens=8, binding="cycle")
    assert prefill.rows[0].ravel().tolist() == [0, 1]
    assert experts(decode) == [2, 3, 4, 2, 3, 4, 2, 3]
    assert [step.kv_tokens for step in decode] == [[length] for length in range(3, 11)]
    assert [step.last for step in decode] == [False] * 7 + [True]


def test_resample_keeps_what_was_recorded_and_draws_the_rest_from_it_by_the_seed(trace):
    drawn = experts(served(trace, requests=1, decode_tokens=3003, binding="resample"))
    assert drawn[:3] == [2, 3, 4]
    counts = np.bincount(drawn[3:], minlength=8)
    assert counts[[0, 1, 5, 6, 7]].sum() == 0
    # each of the three comes 1000 times but for a deviation of √(3000 · 1/3 · 2/3) = 26
    assert counts[2:5] == pytest.approx(np.full(3, 1000), abs=4 * 26)
    assert experts(served(trace, requests=1, decode_tokens=3003, binding="resample")) == drawn
    assert experts(served(trace, 1, requests=1, decode_tokens=3003, binding="resample")) != drawn
    assert experts(served(trace, requests=1, decode_tokens=50, binding="resample")) == drawn[:50]


def test_a_batch_draws_for_each_request_what_it_draws_alone(trace):
    alone = experts(served(trace, first_request=1, decode_tokens=40, binding="resample"))
    both = served(trace, batch_size=2, decode_tokens=40, binding="resample")[1:]
    assert [int(step.rows[1][0, 0, 0]) for step in both] == alone


@pytest.mark.parametrize("binding", ["exact", "cycle", "resample", "synthesise"])
def test_requests_that_do_not_outlast_their_rows_are_the_same_under_every_binding(trace, binding):
    def told(steps: list[Step]) -> list:
        return [(step.requests, step.kv_tokens, step.groups, [rows.tolist() for rows in step.rows]) for step in steps]

    assert told(served(trace, batch_size=2, binding=binding)) == told(served(trace, batch_size=2))
    shorter = told(served(trace, decode_tokens=2, binding=binding))
    assert shorter == told(served(trace, max_decode_tokens=2))


def test_a_prompt_is_cut_or_goes_on_by_the_binding_and_decoding_follows_it(trace):
    prefill, *decode = served(trace, requests=1, prompt_tokens=5, binding="cycle")
    assert prefill.rows[0].ravel().tolist() == [0, 1, 0, 1, 0]
    assert (prefill.kv_tokens, [step.kv_tokens for step in decode]) == ([5], [[6], [7], [8]])
    prefill, *decode = served(trace, requests=1, prompt_tokens=1, binding="cycle")
    assert prefill.rows[0].ravel().tolist() == [0]
    assert (experts(decode), decode[0].kv_tokens) == ([2, 3, 4], [2])


def test_the_end_of_a_cut_prompt_runs_the_layer_that_was_computed_for_its_last_token_only(tmp_path):
    ids = np.array([[[0], [-1]], [[1], [-1]], [[2], [3]], [[4], [5]]], dtype=np.int16)  # three prompt tokens, one more
    meta = dataclasses.replace(META, layers=(0, 1), has_weights=False)
    request = RequestTrace(id=0, positions=np.arange(4, dtype=np.int32), phases=np.int8([0, 0, 0, 1]), experts=ids)
    with TraceWriter(tmp_path / "toy.parquet", meta) as writer:
        writer.write(request)
    trace = open_trace(tmp_path / "toy.parquet")
    assert next(iter(served(trace))).rows[0].tolist() == ids[:3].tolist()
    assert next(iter(served(trace, prompt_tokens=2, binding="cycle"))).rows[0].tolist() == [[[0], [-1]], [[1], [3]]]


def test_a_prompt_may_have_no_token_in_a_layer(tmp_path):
    ids = np.array([[[0], [-1]], [[1], [-1]]], dtype=np.int16)
    meta = dataclasses.replace(META, layers=(0, 1), has_weights=False)
    with TraceWriter(tmp_path / "toy.parquet", meta) as writer:
        writer.write(RequestTrace(id=0, positions=np.arange(2, dtype=np.int32), phases=np.int8([0, 0]), experts=ids))
    (tmp_path / "toy.yaml").write_text(
        "{name: toy, source: none, layers: 2, hidden: 64, vocab: 100, experts: 8, top_k: 1, expert_intermediate: 64,"
        " attention: {full: {heads: 1, kv_heads: 1, head_dim: 64}}}"
    )
    chosen = [f"trace={tmp_path / 'toy.parquet'}", f"model={tmp_path / 'toy.yaml'}", "cache_gib=0.01"]
    result = run_config(compose_config(chosen))
    assert result.experts.selections.tolist() == [1, 1, *[0] * 14]


def test_a_workload_without_a_step_is_refused(trace, tmp_path):
    (tmp_path / "list.csv").write_text("trace_request,prompt_tokens,decode_tokens\n2,5,0\n")
    with pytest.raises(PlanError, match="no request asks for a decode token, or for a prompt whose routing"):
        Plan(trace, Workload(file=str(tmp_path / "list.csv")))
    (drawn,) = served(trace, file=str(tmp_path / "list.csv"), synthetic_prefill=True)
    assert (drawn.prefill, drawn.tokens) == (True, 5)


def test_positions_that_do_not_fit_are_refused(trace):
    with pytest.raises(PlanError, match="request 7 asks for 2147483645 prompt and 3 decode tokens; expected at most"):
        Plan(trace, Workload(requests=1, prompt_tokens=2**31 - 3, binding="cycle"))


def test_where_no_prompt_was_recorded_its_length_is_that_of_the_context_and_of_a_synthetic_prefill(trace):
    decode = served(trace, first_request=1, prompt_tokens=9, binding="cycle")
    assert [(step.prefill, step.kv_tokens) for step in decode] == [(False, [10]), (False, [11])]
    prefill, *decode = served(trace, first_request=1, prompt_tokens=9, binding="cycle", synthetic_prefill=True)
    assert (prefill.tokens, prefill.kv_tokens, decode[0].kv_tokens) == (9, [9], [10])
    assert set(prefill.rows[0].ravel()) <= set(TWO)


def test_synthesised_rows_follow_the_recorded_ones_and_are_told_apart_by_their_weights(tmp_path, monkeypatch):
    drawn = []

    class Fives:
        def __init__(self, trace, indices):
            drawn.append(indices)

        def experts(self, index, tokens, rng):
            return np.full((tokens, 1, 1), 5, dtype=np.int16)

    monkeypatch.setattr("simulator.binding.Synthesiser", Fives)
    with TraceWriter(tmp_path / "toy.parquet", META) as writer:
        writer.write(request(7, SEVEN, 0, 2))
    plan = Plan(open_trace(tmp_path / "toy.parquet"), Workload(decode_tokens=5, binding="synthesise"))
    assert experts(list(plan)) == [2, 3, 4, 5, 5]
    assert drawn == [[0]]
    _, decode = plan._binding.request(plan.served[0])
    assert decode is not None
    assert decode.weights is not None
    assert np.isnan(decode.weights.ravel()).tolist() == [False] * 3 + [True] * 2


def test_a_fitted_model_gives_valid_rows_for_what_was_not_recorded(tmp_path):
    rng = np.random.default_rng(0)
    meta = TraceMeta(model="toy", num_experts=4, top_k=2, native_top_k=2, layers=(0, 1))
    rows = np.argsort(rng.random((60, 2, 4)))[..., :2].astype(np.int16)
    with TraceWriter(tmp_path / "toy.parquet", meta) as writer:
        writer.write(
            RequestTrace(id=0, positions=np.arange(60, dtype=np.int32), phases=np.ones(60, dtype=np.int8), experts=rows)
        )
    trace = open_trace(tmp_path / "toy.parquet")
    steps = served(trace, decode_tokens=90, binding="synthesise")
    made = np.concatenate([step.rows[0] for step in steps])
    assert made[:60].tolist() == rows.tolist()
    assert ((made >= 0) & (made < 4)).all()
    assert (made[..., 0] != made[..., 1]).all()
    again = np.concatenate([step.rows[0] for step in served(trace, decode_tokens=90, binding="synthesise")])
    assert again.tolist() == made.tolist()


# ---- what is told of it


def test_context_limits_are_what_the_steps_reach(trace):
    plan = Plan(trace, Workload(batch_size=2, prompt_tokens=7, decode_tokens=9, binding="cycle"))
    reached = {number: length for step in plan for number, length in zip(step.requests, step.kv_tokens, strict=True)}
    assert plan.context_limits() == [[reached[7], reached[2]]] == [[16, 16]]


@pytest.mark.parametrize(
    ("workload", "tokens", "unrecorded"),
    [
        (Workload(), 7, 0),
        (Workload(max_decode_tokens=1), 4, 0),
        (Workload(decode_tokens=4, binding="cycle"), 10, 1 + 2),
        (Workload(prompt_tokens=6, binding="cycle"), 11, 4),  # of request 2 the context alone
        (Workload(synthetic_prefill=True), 12, 5),
    ],
)
def test_tokens_that_were_not_recorded_are_counted_and_remarked_upon(trace, workload, tokens, unrecorded):
    plan = Plan(trace, workload)
    assert sum(step.tokens for step in plan) == plan.tokens == tokens
    said = facts(plan)
    assert (said["unrecorded_tokens"], said["unrecorded_token_share"]) == (unrecorded, unrecorded / tokens)
    told = [remark for remark in remarks(plan) if "of the tokens were not recorded" in remark]
    assert len(told) == bool(unrecorded)
    assert all(f"binding {workload.binding})" in remark for remark in told)


def test_the_default_workload_says_nothing_new(trace):
    assert remarks(Plan(trace, Workload())) == []
    assert facts(Plan(trace, Workload())) == {
        "binding": "exact",
        "tokens": 7,
        "unrecorded_tokens": 0,
        "unrecorded_token_share": 0.0,
        "request_list_sha256": None,
    }


# ---- tasks and request lists


def test_tasks_choose_the_requests_and_the_others_are_for_training(trace):
    plan = Plan(trace, Workload(tasks=["art"]))
    assert [request.id for request in plan.served] == [2]
    assert [entry.id for entry in plan.training()] == [7]


def listed(tmp_path: Path, text: str) -> str:
    (tmp_path / "list.csv").write_text(text)
    return str(tmp_path / "list.csv")


def test_a_request_list_says_what_is_served_and_rows_may_follow_the_same_request(trace, tmp_path):
    file = listed(tmp_path, "trace_request,decode_tokens,arrival_s\n2,1,0\n7,3,0.5\n2,2,2\n2,4,3\n")
    steps = served(trace, file=file, requests=3, batch_size=3)
    assert [step.requests for step in steps] == [[1], [0, 1, 2], [1, 2], [1]]  # rows; one with a recorded prompt
    assert [step.kv_tokens for step in steps] == [[2], [6, 3, 6], [4, 7], [5]]
    told = remarks(Plan(trace, Workload(file=file, requests=3)))
    assert told == [
        "3 requests follow 2 of the trace: a repeated one asks for the same experts again",
        "arrival times are carried, not simulated: requests run in order, batch after batch",
    ]
    assert [step.requests for step in served(trace, file=file, first_request=2, requests=1)] == [[2], [2]]


def test_rows_that_follow_the_same_request_draw_for_themselves(trace, tmp_path):
    file = listed(tmp_path, "trace_request,decode_tokens\n7,60\n7,60\n")
    steps = served(trace, file=file, binding="resample")
    first, second = (experts([step for step in steps if step.requests == [row]]) for row in (0, 1))
    assert first[:3] == second[:3] == [2, 3, 4]
    assert first != second


@pytest.mark.parametrize(
    ("workload", "sentence"),
    [
        (
            {"binding": "repeat"},
            "workload.binding is 'repeat'; expected one of exact, cycle, resample, synthesise.",
        ),
        (
            {"decode_tokens": 3},
            "request 2 asks for 3 decode tokens, but the trace recorded 2 and workload.binding is exact; expected"
            " another binding (cycle, resample, synthesise).",
        ),
        (
            {"prompt_tokens": 1, "requests": 1},
            "request 7 asks for 1 prompt tokens, but the trace recorded 2 and workload.binding is exact; expected"
            " another binding (cycle, resample, synthesise).",
        ),
        ({"decode_tokens": 0}, "workload.decode_tokens is 0; expected at least 1, or null for those of the trace."),
        ({"tasks": ["arts"]}, "workload.tasks names 'arts'; did you mean 'art'?"),
        ({"tasks": ["maths"]}, "workload.tasks names 'maths'; the trace has art, law."),
        ({"tasks": []}, "workload.tasks is empty; expected at least one task of the trace, or null for all."),
        (
            {"tasks": ["art"], "first_request": 1},
            "workload.first_request is 1; of these tasks the trace has requests 0 to 0.",
        ),
    ],
)
def test_what_cannot_be_bound_is_refused_in_one_sentence(trace, workload, sentence):
    with pytest.raises(PlanError) as caught:
        Plan(trace, Workload(**workload))
    assert str(caught.value) == sentence


def test_a_list_and_keys_that_say_the_same_are_refused_together(trace, tmp_path):
    file = listed(tmp_path, "decode_tokens\n1\n")
    with pytest.raises(PlanError, match=r"^workload.decode_tokens is set, but workload.file says what is asked for"):
        Plan(trace, Workload(file=file, decode_tokens=2))
    with pytest.raises(PlanError, match=r"^workload.first_request is 1; .*list.csv has rows 0 to 0\.$"):
        Plan(trace, Workload(file=file, first_request=1))


# ---- a whole run


def test_a_run_with_a_list_tables_its_columns_and_says_what_it_followed(tmp_path):
    spec = {
        "requests": 3,
        "arrivals": {"kind": "poisson", "rate_per_s": 2},
        "decode_tokens": 700,
        "tasks": {"anatomy": 1},
        "tenants": {"a": 1},
    }
    (tmp_path / "spec.yaml").write_text(json.dumps(spec))
    overrides = [f"workload.file={tmp_path / 'spec.yaml'}", "workload.binding=cycle", "workload.requests=2"]
    config = compose_config([*overrides, "workload.max_decode_tokens=520", "reference=false", "cache_gib=4"])
    result = run_config(config)
    table = result.requests
    assert table["request"].tolist() == [0, 1]
    assert table["trace_request"].tolist() == [4, 4]
    assert (table["task"].tolist(), table["tenant"].tolist()) == (["anatomy"] * 2, ["a"] * 2)
    assert 0 < table["arrival_s"][0] < table["arrival_s"][1]
    assert result.summary["decode_tokens"] == tokens_of(plain(config)) == 1040
    # 511 of the 520 were recorded
    assert result.provenance["served"]["unrecorded_token_share"] == pytest.approx(9 / 520)
    assert "1.73 % of the tokens were not recorded (binding cycle)" in result.provenance["remarks"]


def test_a_default_run_has_no_new_columns_and_no_new_remarks():
    result = run_config(compose_config(SHORT))
    assert not {"trace_request", "task", "tenant", "arrival_s"} & set(result.requests.columns)
    assert not any("recorded (" in remark or "arrival" in remark for remark in result.provenance["remarks"])


def test_another_content_of_the_list_is_another_point_of_a_sweep(tmp_path):
    file = listed(tmp_path, "decode_tokens\n1\n2\n")
    config = plain(compose_config([*SHORT, f"workload.file={file}"]))
    before = point_id(config)
    assert point_id(config) == before
    listed(tmp_path, "decode_tokens\n1\n3\n")
    assert point_id(config) != before


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["workload.file=none.csv"], "none.csv: there is no such file."),
        (["workload.binding=all"], "workload.binding is 'all'; expected one of exact, cycle, resample, synthesise."),
    ],
)
def test_the_command_line_refuses_in_one_sentence(tmp_path, monkeypatch, capsys, overrides, sentence):
    monkeypatch.chdir(tmp_path)
    assert main(["run", "-q", *overrides]) == 2
    assert capsys.readouterr().err == f"{sentence}\n"
