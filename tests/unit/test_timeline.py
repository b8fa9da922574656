"""A recorded run: what its slices, flows and counters say, and that looking on changes nothing.

By hand: 1 GB/s, 1 us latency, so a load of an expert takes 13.288 us.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from simulator.chrome_trace import chrome_trace, write_chrome_trace
from simulator.plan import Workload
from simulator.policies.prediction.base import PredictionPolicy
from simulator.policies.prefetch.ahead import FetchAhead
from simulator.result import Result
from simulator.runtime.recorder import CUT
from simulator.scenario import ScenarioError, Settings
from simulator.timeline import Flow, Timeline, timeline_of
from tests.helpers import EXPERT_BYTES, random_trace, run, steps_of, system, tiny_model, tiny_platform, tiny_trace
from tests.limits.random_runs import Case, cases

LOAD = 1_000_000 + EXPERT_BYTES * 1000
MODEL = tiny_model(2, 4, 1)


class Says(PredictionPolicy):
    """After layer 0: these experts of layer 1. After layer 1: nothing."""

    def __init__(self, *experts: int) -> None:
        self._experts = experts

    def guess(self, rows, following):
        guesses = np.full((rows.tokens, 2, len(self._experts)), -1)
        guesses[:, 0] = np.array(self._experts) + 4
        return guesses


def one_token(*guessed: int, home: str = "dram", **options: Any) -> Result:
    """Expert 0 of layer 0, then expert 1 of layer 1."""
    choice = system(prediction=partial(Says, *guessed)) if guessed else system()
    platform = tiny_platform(home=home)
    return run(MODEL, tiny_trace([[[[0], [1]]]]), platform, choice, cache_bytes=8 * EXPERT_BYTES, **options)


def names(flow: Flow) -> list[str]:
    return [made.name for made, _ in flow.points]


# ---- by hand


def test_a_load_flows_from_the_router_over_the_link_to_the_expert_that_waits_for_it():
    timeline = timeline_of(one_token().run)
    assert [(flow.kind, names(flow), flow.used) for flow in timeline.flows] == [
        ("demand", ["dense 0", "demand 0/0", "expert 0/0"], True),
        ("demand", ["dense 1", "demand 1/1", "expert 1/1"], True),
    ]
    (dense, asked), (load, start), (expert, use) = timeline.flows[0].points
    assert (asked, start, use) == (dense.end_ps, dense.end_ps, dense.end_ps + LOAD)
    assert (load.begin_ps, load.end_ps, expert.begin_ps) == (start, use, use)


def test_a_right_guess_flows_from_the_layer_that_made_it_to_the_layer_that_uses_it():
    timeline = timeline_of(one_token(1).run)
    assert [(flow.kind, names(flow), flow.used) for flow in timeline.flows] == [
        ("demand", ["dense 0", "demand 0/0", "expert 0/0"], True),
        ("prefetch", ["dense 0", "prefetch 1/1", "expert 1/1"], True),
    ]


def test_a_guess_that_landed_in_time_flows_to_the_launch_of_the_resident_experts():
    """Two guesses do not fit in time, one does on a link a hundred times as fast."""
    choice = system(prediction=partial(Says, 1))
    fast = tiny_platform(link_bytes_per_s=1e12, link_latency_s=0)
    timeline = timeline_of(run(MODEL, tiny_trace([[[[0], [1]]]]), fast, choice, cache_bytes=8 * EXPERT_BYTES).run)
    assert names(timeline.flows[1]) == ["dense 0", "prefetch 1/1", "experts 1: 1 resident"]


def test_a_wrong_guess_ends_at_its_transfer():
    timeline = timeline_of(one_token(2).run)
    wrong = [flow for flow in timeline.flows if flow.kind == "prefetch"]
    assert [(names(flow), flow.used) for flow in wrong] == [(["dense 0", "prefetch 1/2"], False)]


def test_a_load_from_an_ssd_flows_over_both_hops():
    timeline = timeline_of(one_token(home="ssd", host_cache_bytes=4 * EXPERT_BYTES).run)
    first = timeline.flows[0].points
    assert [(made.track.name, made.name) for made, _ in first] == [
        ("compute", "dense 0"),
        ("ssd->dram 1", "demand 0/0"),
        ("dram->gpu0", "demand 0/0"),
        ("compute", "expert 0/0"),
    ]
    assert timeline.devices == ["run", "gpu0", "dram"]


def test_a_displaced_prefetch_is_one_flow_over_its_pieces():
    """Expert 2 is asked for beside the expert that is used; chunks of 4 kB let layer 1's own load overtake it."""
    timeline = timeline_of(one_token(2, chunk_bytes=4096).run)
    (flow,) = (flow for flow in timeline.flows if flow.kind == "prefetch")
    pieces = [made for made, _ in flow.points[1:]]
    log = [entry for entry in one_token(2, chunk_bytes=4096).run.fabric.log if entry[1] == 6]
    assert [(made.begin_ps, made.end_ps, made.args["bytes"]) for made in pieces] == [
        (begin, end, size_bytes) for *_, begin, end, size_bytes in log
    ]


def test_memory_counts_what_is_in_flight_apart():
    """Nothing but two experts ever comes: one in flight, one here and one in flight, both here."""
    (memory,) = (counter for counter in timeline_of(one_token().run).counters if counter.name == "expert memory")
    values = [
        (value["resident bytes"] / EXPERT_BYTES, value["bytes in flight"] / EXPERT_BYTES) for _, value in memory.values
    ]
    assert values == [(0, 1), (1, 0), (1, 1), (2, 0)]


def test_hit_rate_is_that_of_each_step():
    """The second token repeats one expert of two, the third both."""
    trace = tiny_trace([[[[0], [1]], [[0], [2]], [[0], [2]]]])
    result = run(MODEL, trace, tiny_platform(), cache_bytes=8 * EXPERT_BYTES)
    (rate,) = (counter for counter in timeline_of(result.run).counters if counter.name == "hit rate")
    assert [value["of the step"] for _, value in rate.values] == [0, 0.5, 1]


def test_the_queue_of_a_lane_holds_what_waits_and_runs():
    """Two guesses behind the load of layer 0: three transfers, then two when it has landed."""
    timeline = timeline_of(one_token(1, 2).run)
    (queue,) = (counter for counter in timeline.counters if counter.name == "queue dram->gpu0")
    assert [value["transfers"] for _, value in queue.values][:2] == [3, 2]
    assert queue.values[1][0] - queue.values[0][0] == LOAD


# ---- any run


@settings(max_examples=40, deadline=None, derandomize=True)
@given(cases())
def test_any_run_gives_a_valid_trace(case: Case):
    result = case.run()
    timeline = timeline_of(result.run)
    slices_on_a_track_do_not_overlap(timeline)
    every_load_and_every_useful_prefetch_has_a_flow_to_its_use(result, timeline)
    counters_stay_within_bounds(result, timeline)
    flow_events_lie_in_their_slices(chrome_trace(result.run)["traceEvents"])


def slices_on_a_track_do_not_overlap(timeline: Timeline) -> None:
    rows = defaultdict(list)
    for made in timeline.slices:
        rows[made.track].append(made)
    assert list(rows) == timeline.tracks
    for row in rows.values():
        assert all(before.end_ps <= after.begin_ps for before, after in pairwise(row))
        assert all(made.begin_ps <= made.end_ps for made in row)


def every_load_and_every_useful_prefetch_has_a_flow_to_its_use(result: Result, timeline: Timeline) -> None:
    ends = Counter(flow.kind for flow in timeline.flows if flow.used)
    assert ends["demand"] == sum(record.loads for record in result.records)
    assert ends["prefetch"] == sum(record.useful_prefetches for record in result.records)
    assert ends["cpu"] == sum(record.on_cpu for record in result.records)
    for flow in timeline.flows:
        (first, _), (last, use_ps) = flow.points[0], flow.points[-1]
        assert first.kind in ("dense", "expert", "experts", "results", "activations")
        assert not flow.used or use_ps == last.begin_ps
        assert flow.used or last.kind == "prefetch"
        times = [time_ps for _, time_ps in flow.points]
        assert times == sorted(times)
        assert all(made.begin_ps <= time_ps <= made.end_ps for made, time_ps in flow.points)


def counters_stay_within_bounds(result: Result, timeline: Timeline) -> None:
    tiers = {worker.name: worker.tier for worker in result.run.workers}
    room = {name: sum({id(p): p.capacity_bytes for p in tier.partitions}.values()) for name, tier in tiers.items()}
    if result.run.host is not None:
        room[result.run.host.name] = result.run.host.partitions[0].capacity_bytes
    for counter in timeline.counters:
        times = [time_ps for time_ps, _ in counter.values]
        assert times == sorted(set(times))
        assert all(value >= 0 for _, values in counter.values for value in values.values())
        if counter.name == "expert memory":
            assert all(sum(values.values()) <= room[counter.device] for _, values in counter.values)


def flow_events_lie_in_their_slices(events: list[dict[str, Any]]) -> None:
    """The rules of the Trace Event Format: a flow's event belongs to the slice of its thread that encloses it."""
    threads = {(e["pid"], e["tid"]) for e in events if e["ph"] == "M" and e["name"] == "thread_name"}
    processes = {e["pid"] for e in events if e["ph"] == "M" and e["name"] == "process_name"}
    slices = defaultdict(list)
    flows = defaultdict(list)
    for event in events:
        assert event["ph"] in "MXstfC"
        assert event["pid"] in processes
        if event["ph"] == "X":
            assert (event["pid"], event["tid"]) in threads
            slices[event["pid"], event["tid"]].append((event["ts"], event["ts"] + event["dur"]))
        elif event["ph"] in "stf":
            flows[event["cat"], event["name"], event["id"]].append(event)
    for flow in flows.values():
        phases = "".join(event["ph"] for event in flow)
        assert phases == "s" + "t" * (len(flow) - 2) + "f"
        assert flow[-1]["bp"] == "e"
        assert [event["ts"] for event in flow] == sorted(event["ts"] for event in flow)
        for event in flow:
            around = [s for s in slices[event["pid"], event["tid"]] if s[0] <= event["ts"] <= max(s)]
            assert around


@settings(max_examples=20, deadline=None, derandomize=True)
@given(cases())
def test_looking_on_changes_nothing(case: Case):
    seen, unseen = case.run(timeline=True), case.run(timeline=False)
    some = case.run(timeline=True, timeline_requests=1, timeline_slices=20)
    assert steps_of(seen) == steps_of(unseen) == steps_of(some)
    assert seen.summary == unseen.summary
    assert unseen.run.recorder is None
    assert unseen.run.fabric.log is None
    assert set(some.run.fabric.log) <= set(seen.run.fabric.log)
    parts = [{segment[:6] for segment in result.run.recorder.segments} for result in (some, seen)]
    assert parts[0] <= parts[1]


# ---- sampling


def many(requests: int, tokens: int = 4, **options: Any) -> Result:
    trace = random_trace(3, requests, tokens, 2, 4, 2)
    batch_size = options.pop("batch_size", 1)
    return run(
        tiny_model(),
        trace,
        tiny_platform(),
        None,
        Workload(batch_size=batch_size),
        cache_bytes=3 * EXPERT_BYTES,
        **options,
    )


def test_the_requests_that_are_shown_are_spread_evenly_over_the_run_and_it_says_so():
    """3 of 9: 0, 3 and 6."""
    result = many(9, timeline_requests=3)
    about = timeline_of(result.run).about
    assert about["requests_shown"] == [0, 3, 6]
    assert "the timeline shows 3 of 9 requests (settings.timeline_requests)" in result.provenance["remarks"]
    assert about["remarks"] == result.provenance["remarks"]
    steps = [(row.start_s, row.start_s + row.latency_s) for row in result.steps.itertuples() if row.batch in (0, 3, 6)]
    for *_, begin_ps, end_ps, _ in result.run.fabric.log:
        assert any(begin_ps / 1e12 <= stop and end_ps / 1e12 >= start for start, stop in steps)


def test_of_a_batch_all_requests_are_shown():
    """3 of 8 in batches of two: two batches of the four, the first and the third."""
    assert timeline_of(many(8, batch_size=2, timeline_requests=3).run).about["requests_shown"] == [0, 1, 4, 5]


def test_a_request_is_shown_up_to_its_share_of_the_slices_in_whole_steps():
    """A step makes dense 0, dense 1, tail, two layers of at most two experts, and as many loads: 11 at most."""
    result = many(4, tokens=40, timeline_requests=2, timeline_slices=100)
    timeline = timeline_of(result.run)
    assert CUT in result.provenance["remarks"]
    shown = Counter(made.args["requests"][0] for made in timeline.slices if made.kind == "step")
    assert set(shown) == {0, 2}
    for request in shown:
        assert 50 / 11 <= shown[request] <= 1 + 50 / 5  # a step makes five slices at least
    slices = [made for made in timeline.slices if made.kind != "step"]
    assert len(slices) <= 2 * (50 + 11)


def test_a_slice_with_its_flows_and_counters_takes_less_than_400_bytes(tmp_path: Path):
    """So a run of any length stays below 40 MB by default."""
    result = many(20, tokens=20)
    timeline = timeline_of(result.run)
    write_chrome_trace(tmp_path / "t.json", chrome_trace(result.run))
    assert (tmp_path / "t.json").stat().st_size < 400 * len(timeline.slices)
    assert 400 * (Settings().timeline_slices or 0) <= 40e6


def test_the_same_run_gives_the_same_file(tmp_path: Path):
    for name in "ab":
        write_chrome_trace(tmp_path / name, chrome_trace(one_token(1, 2).run))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text())["otherData"]["steps_shown"] == 1


@pytest.mark.parametrize("name", ["timeline_requests", "timeline_slices"])
def test_a_limit_of_nothing_is_refused(name: str):
    with pytest.raises(ScenarioError, match=rf"settings.{name} is 0; expected at least 1, or null for no limit\."):
        one_token(**{name: 0})


def test_a_run_that_was_not_recorded_has_no_timeline():
    with pytest.raises(ScenarioError, match="was not recorded; expected timeline=true"):
        chrome_trace(one_token(timeline=False).run)


def test_a_prefetch_that_keeps_its_place_is_still_a_prefetch():
    choice = system(prediction=partial(Says, 1), prefetch=partial(FetchAhead, promote=False))
    result = run(MODEL, tiny_trace([[[[0], [1]]]]), tiny_platform(), choice, cache_bytes=8 * EXPERT_BYTES)
    assert [flow.kind for flow in timeline_of(result.run).flows] == ["demand", "prefetch"]
