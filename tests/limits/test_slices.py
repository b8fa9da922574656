"""Experts of which workers hold unequal slices, and messages over a mesh, against closed forms and against layouts."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwmodels import Platform, operators, time_s
from simulator.layout_choice import LayoutChoice
from simulator.plan import Workload
from simulator.policies.execution.cpu_in_place import CpuInPlace
from simulator.policies.placement.balanced_slices import BalancedSlices, candidates, cut
from simulator.policies.placement.popular import PopularFirst
from simulator.scenario import ScenarioError
from tests.helpers import (
    EXPERT_BYTES,
    HIDDEN,
    WIDTH,
    random_trace,
    run,
    shipped,
    system,
    tiny_model,
    tiny_platform,
    tiny_trace,
)

TRACE = random_trace(seed=3, requests=6, tokens=3, layers=2, experts=4, top_k=2)
FOUR = Workload(requests=4, batch_size=4)


def sliced(*shares: list[float]) -> type:
    """A placement with these shares of each expert, by worker, the same in all layers."""

    class Given(PopularFirst):
        slices = True

        def shares(self, layer, workers, moves):
            return shares

    return Given


@cache
def mesh() -> Platform:
    return Platform.from_mapping(shipped("platform", "hd_moe"), "hd_moe")


def test_even_slices_are_the_layout_that_cuts_experts() -> None:
    even = run(tiny_model(), TRACE, tiny_platform(4), system(placement=sliced(*[[0.25] * 4] * 4)), FOUR)
    layout = LayoutChoice(attention_dp=4, moe_tp=4)
    cut_evenly = run(tiny_model(), TRACE, tiny_platform(4), system(placement=PopularFirst), FOUR, layout)
    assert [r.end_ps for r in even.records] == [r.end_ps for r in cut_evenly.records]
    assert even.summary["energy_j"] == cut_evenly.summary["energy_j"]


def test_whole_slices_are_owned_experts() -> None:
    owned = run(tiny_model(), TRACE, tiny_platform(2), system(placement=PopularFirst), FOUR)
    whole = run(tiny_model(), TRACE, tiny_platform(2), system(placement=sliced([1, 0], [0, 1], [1, 0], [0, 1])), FOUR)
    assert [(r.end_ps, r.waited_ps) for r in whole.records] == [(r.end_ps, r.waited_ps) for r in owned.records]


def test_a_worker_holds_and_takes_its_columns_share() -> None:
    """Expert 0 is cut 3 to 1 over two workers: 48 of its 64 columns take 48/64 of the weights and operations."""
    trace = tiny_trace([[[[0]]], [[[0]]]], experts=3)
    platform = tiny_platform(2, launch_s=0.0, peer_latency_s=0.0, peer_bytes_per_s=1e15)
    found = run(
        tiny_model(layers=1, experts=3, top_k=1),
        trace,
        platform,
        system(placement=sliced([0.75, 0.25], [1.0, 0.0], [0.0, 1.0])),
        Workload(batch_size=2),
    )
    first, second = (worker.tier.sizes for worker in found.run.workers)
    devices = found.devices.set_index("device")
    assert devices.memory_peak_bytes["dram"] == 3 * EXPERT_BYTES
    assert (first[0], second[0]) == (EXPERT_BYTES * 3 // 4, EXPERT_BYTES // 4)
    work = operators.expert(2, HIDDEN, WIDTH * 3 // 4, 3, EXPERT_BYTES * 3 // 4, "bf16")
    apart = found.run.workers[0].slices.launch(False, (0,), (2,))
    assert apart[0] == pytest.approx(time_s(work, platform.device("gpu0")) * 1e12, abs=1)


def test_routes_of_the_mesh_are_xy() -> None:
    for a in range(16):
        for b in set(range(16)) - {a}:
            names = [link.name[0] for link in mesh().route(f"node{a}", f"node{b}")]
            assert names == ["x"] * abs(a % 4 - b % 4) + ["y"] * abs(a // 4 - b // 4)


def test_messages_of_a_mesh_share_the_links_that_their_routes_share() -> None:
    """Expert e lies on node e. Requests of nodes 0 and 1 choose expert 3, and both cross the links from 1 to 2 to 3:
    the vectors of both take twice as long as of one, there and back."""

    def all_to_all_s(chosen: list[int]) -> float:
        ids = [[[[expert]]] for expert in chosen]
        model = tiny_model(layers=1, experts=16, top_k=1, hidden=1 << 20)
        whole = sliced(*np.eye(16).tolist())
        found = run(model, tiny_trace(ids, 16), mesh(), system(placement=whole), Workload(batch_size=16))
        return found.records[0].waited_ps["all_to_all"] / 1e12

    vector_s = (1 << 20) * 2 / 50e9
    here = list(range(16))
    assert all_to_all_s([3, *here[1:]]) == pytest.approx(2 * vector_s + 6e-7, rel=1e-3)
    assert all_to_all_s([3, 3, *here[2:]]) == pytest.approx(4 * vector_s + 6e-7, rel=5e-3)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 50), min_size=4, max_size=12), st.sampled_from([2, 3, 4]), st.sampled_from([1.0, 1.3]))
def test_cut_keeps_the_limit_and_divides_few_experts(chosen: list[int], groups: int, limit: float) -> None:
    load = np.array(chosen) + 0.1
    dealt = np.eye(groups)[np.arange(len(load)) % groups]
    shares = cut(load, dealt, limit)
    assert shares.sum(axis=1) == pytest.approx(1)
    assert shares.min() >= 0
    assert (load @ shares).max() <= limit * load.sum() / groups * (1 + 1e-6)
    assert (shares > 0).sum() <= len(load) + groups - 1
    above = (load @ dealt - limit * load.sum() / groups).clip(0).sum()  # what has to move, and no more does
    assert (((1 - dealt) * shares).sum(axis=1) * load).sum() == pytest.approx(above, abs=1e-6 * load.sum())


def test_slices_suit_what_binds() -> None:
    """Free moves: every expert over all workers, so that none waits; dear ones: whole experts, each token to one."""
    placement = BalancedSlices(step_tokens=8, most_tokens=64)
    placement._experts = 4
    placement._rows = np.random.default_rng(1).integers(0, 4, (64, 1, 1))
    free, dear = placement.shares(0, 4, 0.0), placement.shares(0, 4, 1e6)
    assert free == pytest.approx(np.full((4, 4), 0.25))
    assert ((dear > 0).sum(axis=1) == 1).all()
    assert len(list(candidates(np.array([1.0, 1, 1, 1]), 4))) == 3  # balanced as they are: groups of 1, 2 and 4


def test_what_goes_without_slices_is_refused() -> None:
    cuts = system(placement=sliced(*[[0.5, 0.5]] * 4))
    with pytest.raises(ScenarioError, match=r"cuts experts into slices; expected no layout\."):
        run(tiny_model(), TRACE, tiny_platform(2), cuts, FOUR, LayoutChoice(tp=2))
    some = system(placement=sliced(*[[0.5, 0.5]] * 4), execution=CpuInPlace)
    with pytest.raises(ScenarioError, match=r"expected policy/execution=fetch\."):
        run(tiny_model(), TRACE, tiny_platform(2), some, FOUR)
    with pytest.raises(ScenarioError, match=r"expected shares \[4 experts, 2\] of at least 0 that sum to 1"):
        run(tiny_model(), TRACE, tiny_platform(2), system(placement=sliced(*[[0.5, 0.4]] * 4)), FOUR)
