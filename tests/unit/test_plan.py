"""From requests to steps, by hand on two small requests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from simulator.plan import BLOCK_TOKENS, Plan, PlanError, Step, Workload
from simulator.policies import PolicyContext
from simulator.policies.prediction.oracle import OraclePrediction
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, open_trace

EXPERTS = 4  # blobs 0-3 are layer 1's experts, 4-7 are layer 3's
META = TraceMeta(model="toy", num_experts=EXPERTS, top_k=2, native_top_k=2, layers=(1, 3))

# request 7: three prompt tokens and two decoded ones; request 2: prompt of five not recorded, three decoded
SEVEN = [[[0, 1], [3, 2]], [[2, 0], [3, 2]], [[1, 3], [3, -1]], [[1, 0], [0, 3]], [[2, 3], [1, -1]]]
TWO = [[[0, 1], [1, 2]], [[0, 1], [1, 2]], [[2, 0], [3, 0]]]


def request(number: int, experts: list, first: int, prompt: int) -> RequestTrace:
    tokens = len(experts)
    return RequestTrace(
        id=number,
        positions=np.arange(first, first + tokens, dtype=np.int32),
        phases=(np.arange(tokens) >= prompt).astype(np.int8),
        experts=np.array(experts, dtype=np.int16),
    )


def written(path: Path, *requests: RequestTrace) -> Trace:
    with TraceWriter(path, META) as writer:
        for entry in requests:
            writer.write(entry)
    return open_trace(path)


@pytest.fixture
def trace(tmp_path: Path) -> Trace:
    return written(tmp_path / "toy.parquet", request(7, SEVEN, 0, 3), request(2, TWO, 5, 0))


def oracle() -> OraclePrediction:
    policy = OraclePrediction()
    policy.bind(PolicyContext(layers=2, experts=EXPERTS, top_k=2, size_bytes=[]))
    return policy


def plain(step: Step) -> tuple:
    """What a step holds, comparable."""
    return (
        step.batch,
        step.prefill,
        step.tokens,
        step.requests,
        step.kv_tokens,
        step.groups,
        step.guesses,
        step.last,
        [rows.tolist() for rows in step.rows],
        step.block.request_tokens[step.row],
        step.block.kv_tokens[step.row],
    )


def test_a_prefill_asks_for_the_union_ordered_by_last_occurrence(trace):
    prefill = next(iter(Plan(trace, Workload())))
    assert (prefill.prefill, prefill.tokens, prefill.requests) == (True, 3, [7])
    # layer 1: 0 1 | 2 0 | 1 3, last occurrences 2 0 1 3; layer 3: 3 2 | 3 2 | 3 -, last occurrences 2 3
    assert prefill.groups == [([2, 0, 1, 3], [1, 2, 2, 1]), ([6, 7], [2, 3])]
    assert prefill.kv_tokens == [3]
    assert not prefill.last


def test_a_decoded_token_asks_for_its_slots_in_order_and_leaves_out_empty_ones(trace):
    decode = list(Plan(trace, Workload(requests=1)))[1:]
    assert [step.groups for step in decode] == [[([1, 0], None), ([4, 7], None)], [([2, 3], None), ([5], None)]]
    assert [step.kv_tokens for step in decode] == [[4], [5]]  # position 3 and 4, plus one
    assert [step.tokens for step in decode] == [1, 1]
    assert [step.last for step in decode] == [False, True]
    assert not any(step.prefill for step in decode)


def test_requests_are_served_one_after_another_in_file_order(trace):
    steps = list(Plan(trace, Workload()))
    assert [(step.batch, step.requests, step.prefill) for step in steps] == [
        (0, [7], True),
        (0, [7], False),
        (0, [7], False),
        (1, [2], False),
        (1, [2], False),
        (1, [2], False),
    ]
    assert [step.kv_tokens for step in steps[3:]] == [[6], [7], [8]]  # the prompt of five counts


def test_a_batch_runs_in_lock_step_until_its_longest_request_ends(trace):
    prefill, *decode = Plan(trace, Workload(batch_size=2))
    assert (prefill.requests, prefill.tokens) == ([7], 3)  # request 2's prompt was not recorded
    assert [step.requests for step in decode] == [[7, 2], [7, 2], [2]]
    assert [step.tokens for step in decode] == [2, 2, 1]
    assert [step.kv_tokens for step in decode] == [[4, 6], [5, 7], [8]]
    assert [step.last for step in decode] == [False, False, True]
    # layer 1: 1 0 | 0 1, then 2 3 | 0 1, then 2 0; layer 3: 0 3 | 1 2, then 1 - | 1 2, then 3 0
    assert [step.groups for step in decode] == [
        [([0, 1], [2, 2]), ([4, 7, 5, 6], [1, 1, 1, 1])],
        [([2, 3, 0, 1], [1, 1, 1, 1]), ([5, 6], [2, 1])],
        [([2, 0], None), ([7, 4], None)],  # alone again: one token each
    ]


@pytest.mark.parametrize("batch_size", [1, 2])
def test_every_routed_pair_is_asked_for_once(trace, batch_size):
    plan = Plan(trace, Workload(batch_size=batch_size))
    served = sum(sum(counts or [1] * len(blobs)) for step in plan for blobs, counts in step.groups)
    routed = sum(int((np.array(rows) >= 0).sum()) for rows in (SEVEN, TWO))
    assert served == routed == 30


def test_max_decode_tokens_cuts_every_request_but_no_prompt(trace):
    steps = list(Plan(trace, Workload(max_decode_tokens=1)))
    assert [(step.requests, step.tokens, step.last) for step in steps] == [
        ([7], 3, False),
        ([7], 1, True),
        ([2], 1, True),
    ]


def test_requests_are_counted_from_the_first_one_asked_for(trace):
    assert {r for step in Plan(trace, Workload(first_request=1)) for r in step.requests} == {2}
    assert {r for step in Plan(trace, Workload(requests=1)) for r in step.requests} == {7}


def test_requests_that_are_not_served_are_for_training(trace):
    assert [entry.id for entry in Plan(trace, Workload(requests=1)).training()] == [2]
    assert list(Plan(trace, Workload()).training()) == []


def test_groups_are_those_of_the_steps_in_order(trace):
    plan = Plan(trace, Workload())
    assert list(plan.groups()) == [blobs for step in plan for blobs, _ in step.groups]


@pytest.mark.parametrize("workload", [Workload(), Workload(batch_size=2), Workload(synthetic_prefill=True)])
def test_a_second_iteration_gives_the_same_steps(trace, workload):
    plan = Plan(trace, workload, guess=oracle().guess)
    assert [plain(step) for step in plan] == [plain(step) for step in plan]


def test_a_synthetic_prefill_has_the_prompts_length_and_rows_of_the_requests_own(trace):
    plan = Plan(trace, Workload(first_request=1, synthetic_prefill=True))
    prefill, *decode = plan
    assert (prefill.prefill, prefill.tokens, prefill.kv_tokens) == (True, 5, [5])
    assert len(decode) == 3
    assert all(row in TWO for row in prefill.rows[0].tolist())


def test_a_synthetic_prefill_depends_on_the_seed_and_the_request_alone(tmp_path):
    rng = np.random.default_rng(0)
    requests = [request(i, np.argsort(rng.random((20, 2, 4)))[..., :2].tolist(), 30, 0) for i in range(3)]
    trace = written(tmp_path / "long.parquet", *requests)

    def prompt(seed: int, **workload) -> dict[int, list]:
        plan = Plan(trace, Workload(synthetic_prefill=True, **workload), np.random.SeedSequence(seed))
        return {
            number: rows.tolist()
            for step in plan
            if step.prefill
            for number, rows in zip(step.requests, step.rows, strict=True)
        }

    everything = prompt(1)
    assert prompt(1, batch_size=3) == everything
    assert prompt(1, first_request=2) == {2: everything[2]}
    assert prompt(2) != everything


def test_a_recorded_prompt_is_not_replaced_by_a_synthetic_one(trace):
    recorded, synthetic = (next(iter(Plan(trace, Workload(synthetic_prefill=s)))) for s in (False, True))
    assert plain(recorded) == plain(synthetic)


def test_guesses_are_lists_of_blobs_without_the_empty_ones(trace):
    prefill, first, second = Plan(trace, Workload(requests=1), guess=oracle().guess)
    assert first.guesses == [[4, 7], [2, 3]]  # its own layer 3, then the next token's layer 1
    assert second.guesses == [[5], []]  # nothing follows
    # the most often named first, ties in order: 3 three times, 2 twice; then the first decoded token's layer 1
    assert prefill.guesses == [[7, 6], [1, 0]]


def test_guesses_of_a_batch_are_merged_the_most_often_named_first(trace):
    _, first, second, third = Plan(trace, Workload(batch_size=2), guess=oracle().guess)
    assert first.guesses == [[4, 7, 5, 6], [2, 3, 0, 1]]  # next: 2 3 of request 7, 0 1 of request 2
    assert second.guesses == [[5, 6], [2, 0]]  # 1 - | 1 2 names 1 twice; only request 2 goes on
    assert third.guesses == [[7, 4], []]


def test_guesses_cross_the_border_between_blocks_of_steps(tmp_path):
    tokens = BLOCK_TOKENS + 2
    rng = np.random.default_rng(1)
    experts = np.argsort(rng.random((tokens, 2, 4)))[..., :2]
    trace = written(tmp_path / "long.parquet", request(1, experts.tolist(), 0, 0))
    steps = list(Plan(trace, Workload(), guess=oracle().guess))
    assert [step.row for step in steps[-3:]] == [BLOCK_TOKENS - 1, 0, 1]
    for token in range(tokens - 1):
        guesses = steps[token].guesses
        assert guesses is not None
        assert guesses[1] == experts[token + 1, 0].tolist()


@pytest.mark.parametrize(
    ("workload", "message"),
    [
        (Workload(batch_size=0), "workload.batch_size is 0; expected at least 1."),
        (Workload(requests=0), "workload.requests is 0; expected at least 1 or null for all."),
        (Workload(max_decode_tokens=0), "workload.max_decode_tokens is 0; expected at least 1 or null."),
        (Workload(first_request=2), "workload.first_request is 2; the trace has requests 0 to 1."),
        (Workload(first_request=-1), "workload.first_request is -1; the trace has requests 0 to 1."),
        (
            Workload(warmup_requests=2),
            "workload.warmup_requests is 2; expected fewer than the 2 requests that are served.",
        ),
        (
            Workload(requests=1, warmup_requests=-1),
            "workload.warmup_requests is -1; expected fewer than the 1 requests that are served.",
        ),
    ],
)
def test_a_workload_that_cannot_be_served_is_refused_in_one_sentence(trace, workload, message):
    with pytest.raises(PlanError) as caught:
        Plan(trace, workload)
    assert str(caught.value) == message


def test_a_synthetic_prefill_without_a_prompts_length_is_refused(tmp_path):
    trace = written(tmp_path / "toy.parquet", request(9, TWO, 0, 0))
    with pytest.raises(PlanError) as caught:
        list(Plan(trace, Workload(synthetic_prefill=True)))
    assert str(caught.value) == (
        "request 9: workload.synthetic_prefill needs a recorded prompt length, but the trace starts at position 0."
    )
