"""Requests that begin alike: what is kept of their prefixes, what is not computed again, and that the ledger holds."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from simulator.batching.prefixes import PrefixPages
from simulator.model_attention import AttentionSpec
from simulator.plan import Workload
from simulator.policies.placement.popular import PopularFirst
from simulator.policies.scheduling.continuous import Continuous
from simulator.scenario import ScenarioError
from tests.helpers import random_trace, run, steps_of, system, tiny_model, tiny_platform

MODEL = {"layers": 2, "experts": 4, "top_k": 2}
WINDOW = AttentionSpec(heads=2, kv_heads=2, head_dim=16, window=8)
PAGE_BYTES = 1024  # 4 tokens of 256 bytes


def listed(tmp_path, rows):
    path = tmp_path / "requests.csv"
    head = "arrival_s,prompt_tokens,decode_tokens,prefix,prefix_tokens"
    path.write_text("\n".join([head, *(",".join(map(str, row)) for row in rows)]) + "\n")
    return Workload(file=str(path), binding="cycle")


def serve(workload, *, workers=1, roles=None, model=None, **settings):
    scheduling = partial(Continuous, max_batch=4, token_budget=64)
    return run(
        model or tiny_model(**MODEL),
        random_trace(3, 5, 12, prompt=4, **MODEL),
        tiny_platform(workers),
        system(**{"scheduling": scheduling, **(roles or {})}),
        workload,
        **{"timeline": False, "kv_page_tokens": 4, "prefix_cache": True, **settings},
    )


def test_a_prefix_is_computed_once_and_whole_pages_of_it_are_found(tmp_path):
    rows = [(0, 20, 2, "a", 18), (1, 24, 2, "a", 18), (2, 24, 2, "b", 10), (3, 16, 2, "a", 16), (4, 12, 1, "a", 12)]
    result = serve(listed(tmp_path, rows))
    assert result.requests.reused_tokens.tolist() == [0, 16, 0, 12, 8]  # at least a token of the prompt is computed
    assert [r.prompt_tokens for r in result.records if r.prompt_tokens] == [20, 8, 24, 4, 4]
    assert result.summary["prefill_tokens"] == 60
    assert result.summary["reused_tokens"] == 36
    assert result.requests.context_tokens.tolist() == [22, 26, 26, 18, 13]


def test_the_next_turn_of_a_conversation_finds_the_answer_too(tmp_path):
    rows = [(0, 10, 6, "talk", 16), (1, 20, 4, "talk", 24), (2, 30, 4, "talk", 34)]
    result = serve(listed(tmp_path, rows))
    assert result.requests.reused_tokens.tolist() == [0, 16, 24]


def test_requests_that_run_side_by_side_share_pages(tmp_path):
    rows = [(0, 40, 8, "a", 32), (0.0001, 40, 8, "a", 32), (0.0001, 40, 8, "a", 32)]
    alone, shared = (serve(listed(tmp_path, rows), prefix_cache=cache) for cache in (False, True))
    assert shared.summary["kv_peak_bytes"] == 12 * PAGE_BYTES + 2 * 4 * PAGE_BYTES
    assert alone.summary["kv_peak_bytes"] == 3 * 12 * PAGE_BYTES
    assert shared.requests.ttft_s[1] < alone.requests.ttft_s[1]


def test_the_least_recently_used_prefix_makes_room(tmp_path):
    rows = [(0, 16, 1, "a", 16), (1, 16, 1, "b", 16), (2, 18, 1, "a", 16), (3, 20, 1, "c", 16), (4, 18, 1, "a", 16)]
    result = serve(listed(tmp_path, [*rows, (5, 18, 1, "b", 16)]), kv_cache_bytes=11 * PAGE_BYTES)
    assert result.requests.reused_tokens.tolist() == [0, 0, 16, 0, 16, 0]


def random_rows(seed, count=25):
    rng = np.random.default_rng(seed)
    arrivals_s = np.sort(rng.choice([0.0, 1e-4, 3e-4, 1e-3, 2e-3, 5e-3], count))
    for arrival_s in arrivals_s:
        prompt, decode, name = int(rng.integers(2, 24)), int(rng.integers(1, 7)), rng.choice(["", "x", "y", "z"])
        yield arrival_s, prompt, decode, name, int(rng.integers(1, prompt + decode + 1)) if name else ""


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("pages", [12, None])
def test_every_token_is_computed_once_or_found_however_the_run_is_simulated(tmp_path, workers, pages):
    room = {} if pages is None else {"kv_cache_bytes": pages * PAGE_BYTES}
    resident = {"placement": PopularFirst}
    found = 0
    for seed in range(4):
        workload = listed(tmp_path, random_rows(seed))
        one, other = (serve(workload, workers=workers, roles=resident, stepwise=s, **room) for s in (False, True))
        assert steps_of(one) == steps_of(other)
        assert one.request_rows == other.request_rows
        rows, batcher = one.requests, one.run.batcher
        if not rows.preemptions.sum():
            assert one.summary["prefill_tokens"] + rows.reused_tokens.sum() == batcher.plan.listed.prompt_tokens.sum()
        assert batcher.pages.free_bytes == batcher.pages.capacity_bytes
        found += rows.reused_tokens.sum()
    assert found > 0


def test_a_prefix_that_leaves_its_own_request_no_room_is_not_kept(tmp_path):
    model = replace(tiny_model(**MODEL), attention={"near": WINDOW, "all": replace(WINDOW, window=None)})
    rows = [(0, 16, 8, "a", 24), (0, 16, 8, "a", 24), (0, 12, 12, "b", 24)]
    result = serve(listed(tmp_path, rows), model=replace(model, attention_pattern=("near", "all")), kv_cache_bytes=4096)
    assert result.requests.decode_tokens.tolist() == [8, 8, 12]
    assert result.summary["preemptions"] < 10


class Asked:
    """What the ledger reads of a request."""

    def __init__(self, prefix, prefix_tokens, rows):
        self.prefix, self.prefix_tokens, self.rows, self.fresh = prefix, prefix_tokens, rows, rows
        self.base = self.done = self.instance = 0
        self.home = -1

    def context_after(self, tokens):
        return self.done + tokens


def size_bytes(tokens):
    return 64 + 8 * tokens + 4 * min(tokens, 10)  # a state, layers that keep all, and a window of ten


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5), st.integers(1, 40)), max_size=60))
def test_the_ledger_is_what_requests_and_prefixes_take(moves):
    capacity_bytes, page = 900, 4
    pages, running = PrefixPages(page, size_bytes, [capacity_bytes] * 2), []
    for kind, which, tokens in moves:
        if kind == 0:
            request = Asked([None, "a", "b"][which % 3], tokens if which % 3 else 0, tokens + which)
            request.done = pages.reusable(request)
            if pages.take(request, request.rows - request.done):
                running.append(request)
        elif running:
            request = running[which % len(running)]
            if kind == 1:
                request.done = request.rows
                pages.publish(request)
            elif kind == 2 and pages.grow([request], request.rows - request.done + 1):
                request.done = request.rows
                request.rows += 1
            elif kind == 3:
                pages.give_back(request)
                running.remove(request)
        for worker in (0, 1):
            own = sum(pages.held_bytes(r) - pages._shared.get(r, 0) for r in running if pages.worker_of(r) == worker)
            there = [p for p in pages._prefixes.values() if p.worker == worker]
            held = sum(p.size_bytes for p in there if p.holders)
            idle = sum(p.size_bytes for p in there if not p.holders)
            assert pages.free_bytes[worker] == capacity_bytes - own - held >= idle == pages._idle_bytes[worker]
    assert sum(p.holders for p in pages._prefixes.values()) == len(pages._shared)


def test_what_it_does_not_go_with_is_one_sentence(tmp_path):
    workload = listed(tmp_path, [(0, 8, 1, "a", 8)])
    with pytest.raises(ScenarioError, match=r"^settings\.prefix_cache is true and policy\.scheduling\.preempt swap;"):
        serve(workload, roles={"scheduling": partial(Continuous, preempt="swap")})
    with pytest.raises(ScenarioError, match=r"^settings\.prefix_cache is true, but no request names a prefix;"):
        serve(Workload())
