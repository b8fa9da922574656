"""All-to-all messages by hand: 32 hidden values of 2 bytes are 64 bytes per token."""

from __future__ import annotations

from collections import Counter

from simulator.plan import Workload
from simulator.policies.placement.popular import PopularFirst
from tests.helpers import EXPERT_BYTES, run, system, tiny_model, tiny_platform, tiny_trace

TOKEN_BYTES = 64


def messages(requests, batch_size, layers=1, workers=2, experts=4, top_k=2):
    result = run(
        tiny_model(layers, experts, top_k),
        tiny_trace(requests, experts),
        tiny_platform(workers),
        system(placement=PopularFirst),
        Workload(batch_size=batch_size),
        cache_bytes=layers * experts * EXPERT_BYTES,
    )
    return result, Counter((name, size) for name, blob, *_, size in result.run.fabric.log if blob < 0)


def test_a_token_goes_once_to_each_other_worker_that_owns_one_of_its_experts_and_comes_back():
    """Request 0 is on GPU 0: experts 0 (its own) and 1. Request 1 is on GPU 1: experts 0 and 2, both GPU 0's."""
    _, sent = messages([[[[0, 1]]], [[[0, 2]]]], batch_size=2)
    assert sent == {("gpu0->gpu1", TOKEN_BYTES): 2, ("gpu1->gpu0", TOKEN_BYTES): 2}


def test_tokens_for_one_worker_share_a_message():
    """Requests 0 and 2 are on GPU 0 and both need expert 1 of GPU 1: one message of two tokens each way."""
    _, sent = messages([[[[0, 1]]], [[[1, 3]]], [[[2, 1]]]], batch_size=3)
    assert sent == {("gpu0->gpu1", 2 * TOKEN_BYTES): 1, ("gpu1->gpu0", 2 * TOKEN_BYTES): 1}


def test_experts_at_home_need_no_message():
    result, sent = messages([[[[0, 2]]], [[[1, 3]]]], batch_size=2)
    assert not sent
    assert "all_to_all" not in result.attribution_ps


def test_a_request_keeps_its_worker_when_an_earlier_one_of_its_batch_has_ended():
    """Request 1 is on GPU 1 for both of its tokens, so expert 1 is at home for it also after request 0 has ended."""
    result, sent = messages([[[[0, 2]]], [[[1, 3]], [[1, 3]]]], batch_size=2)
    assert not sent
    dense = [name for name, label, *_ in result.run.recorder.segments if label == "dense 0"]
    assert sorted(dense) == ["gpu0", "gpu1", "gpu1"]


def test_what_a_lone_request_waits_for_is_the_message_there_and_back():
    """1 us and 64 bytes at 2 GB/s, twice; GPU 1 runs the only expert."""
    result, _ = messages([[[[1]]]], batch_size=1, top_k=1)
    assert result.attribution_ps["all_to_all"] == 2 * (1_000_000 + 32_000)


def test_four_workers_run_too():
    result, sent = messages([[[[0, 1, 2, 3]]]], batch_size=1, workers=4, top_k=4)
    assert sum(sent.values()) == 6  # from GPU 0 to three others and back
    assert sum(record.hits for record in result.records) == 4
