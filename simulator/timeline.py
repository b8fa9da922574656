"""A recorded run as tracks, slices, flows and counters: what the Chrome trace and the timeline strip show."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from simulator.build import Run
from simulator.counters import Counter, device_of, hit_rates, memories, queues
from simulator.engine.fabric import Transfer
from simulator.runtime.near import KERNELS
from simulator.runtime.recorder import Issue, Recorder
from simulator.scenario import ScenarioError

RUN = "run"  # the first group of tracks: steps
ANYBODY = ""


class Track(NamedTuple):
    """A row of slices that do not overlap. device: the group it belongs to."""

    device: str
    name: str


@dataclass(slots=True)
class Slice:
    """Something that takes time. Times in ps.

    kind: step; dense, management, experts, expert, results, tail (of a worker); demand, prefetch, activations (of a
    lane); cpu (an expert on the host CPU). layer: routed layer, -1 where there is none.
    """

    track: Track
    name: str
    kind: str
    begin_ps: int
    end_ps: int
    layer: int = -1
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True)
class Flow:
    """From the slice that caused a transfer, over its slices on the lanes, to the slice that used it.

    points: (slice, time within it in ps), in order of time. used: whether the last one is a use.
    """

    kind: str
    points: list[tuple[Slice, int]]
    used: bool


@dataclass(slots=True)
class Timeline:
    """devices and tracks in the order to show them; slices by track and time; about: what was recorded."""

    devices: list[str]
    tracks: list[Track]
    slices: list[Slice]
    flows: list[Flow]
    counters: list[Counter]
    about: dict[str, Any]


def timeline_of(run: Run) -> Timeline:
    """The timeline of a finished run. Raises ScenarioError if it was not recorded."""
    recorder = run.recorder
    if recorder is None:
        raise ScenarioError("the run was not recorded; expected timeline=true (Settings.timeline).")
    experts = run.plan.experts
    ahead = _ahead(recorder.issues)
    computed: dict[str, list[Slice]] = {worker.name: [] for worker in run.workers}
    used_by: dict[Transfer, Slice] = {}
    for segment in recorder.segments:
        name, label, begin, end, kind, layer, _ = segment
        made = Slice(Track(name, "compute"), label, kind, begin, end, layer)
        computed[name].append(made)
        used_by.update(dict.fromkeys(segment.uses, made))
    moved, pieces = _moved(run, recorder, ahead, experts)
    steps = _steps(run, recorder)
    order = [RUN, *computed, *(device_of(lane) for lane in run.fabric.lanes)]
    devices = [*dict.fromkeys([*order, *([run.host.name] if run.host else [])])]
    slices = [*steps, *(made for row in computed.values() for made in row), *moved]
    tracks = list(dict.fromkeys(made.track for made in slices))
    tracks.sort(key=lambda track: devices.index(track.device))  # stable: computing, then lanes as they were built
    place = {track: number for number, track in enumerate(tracks)}
    slices.sort(key=lambda made: (place[made.track], made.begin_ps, made.end_ps))
    return Timeline(
        devices=devices,
        tracks=tracks,
        slices=slices,
        flows=list(_flows(recorder, computed, used_by, pieces, ahead)),
        counters=[*hit_rates(recorder), *memories(run, recorder), *queues(run, ahead)],
        about=_about(run, recorder),
    )


# ---- slices


def _steps(run: Run, recorder: Recorder) -> list[Slice]:
    first = run.workers[0].name
    return [
        Slice(
            Track(RUN, "steps"),
            f"{'prefill' if step.prefill else 'decode'} {step.number}",
            "step",
            step.begin_ps,
            step.end_ps,
            args={"requests": list(step.requests), "context_tokens": list(step.kv_tokens)},
        )
        for step in recorder.steps
        if step.worker == first
    ]


def _ahead(issues: Iterable[Issue]) -> dict[Transfer, bool]:
    """All transfers of the issues, hops before the last too, and whether they were asked for ahead of need."""
    ahead: dict[Transfer, bool] = {}
    for issue in issues:
        hop: Transfer | None = issue.transfer
        while hop is not None:
            ahead.setdefault(hop, issue.ahead)
            hop = hop.cause
    return ahead


def _moved(
    run: Run, recorder: Recorder, ahead: dict[Transfer, bool], experts: int
) -> tuple[list[Slice], dict[Transfer, list[Slice]]]:
    """What was on the lanes, and the pieces of each transfer that is known."""
    coming: dict[tuple[str, int], deque[Transfer]] = defaultdict(deque)
    for transfer in sorted((tr for tr in ahead if tr.lane is not None), key=lambda tr: tr.submitted_ps):
        assert transfer.lane is not None
        coming[transfer.lane.name, transfer.blob].append(transfer)
    lanes = {lane.name: lane for lane in run.fabric.lanes}
    free: dict[str, list[int]] = defaultdict(list)  # when each place of a lane is free again
    moved: dict[str, list[Slice]] = {name: [] for name in lanes}
    pieces: dict[Transfer, list[Slice]] = defaultdict(list)
    for entry in sorted(recorder.log, key=lambda entry: (entry[3], entry[4])):
        name, blob, urgent, begin, end, size_bytes = entry
        if name.endswith(KERNELS):  # shown as what the worker computes
            continue
        lane, places = lanes[name], free[name]
        place = next((number for number, until in enumerate(places) if until <= begin), len(places))
        places[place:] = [end, *places[place + 1 :]]
        owner = _whose(coming[name, blob], begin, end)
        track = Track(device_of(lane), name if lane.width == 1 else f"{name} {place + 1}")
        early = ahead[owner] if owner is not None else not urgent
        in_place = lane.category in ("cpu", "ndp")
        kind = "activations" if blob < 0 else "cpu" if in_place else "prefetch" if early else "demand"
        layer, expert = divmod(blob, experts) if blob >= 0 else (-1, -1)
        label = f"{f'on {lane.category.upper()}' if kind == 'cpu' else kind} {layer}/{expert}" if blob >= 0 else kind
        made = Slice(track, label, kind, begin, end, layer, {"bytes": size_bytes})
        moved[name].append(made)
        if owner is not None:
            pieces[owner].append(made)
    return [made for row in moved.values() for made in row], pieces


def _whose(candidates: deque[Transfer], begin: int, end: int) -> Transfer | None:
    """The oldest transfer that was submitted at `begin` and had not landed before `end`."""
    while candidates and candidates[0].landed_ps is not None and candidates[0].landed_ps <= begin:
        candidates.popleft()
    return next(
        (tr for tr in candidates if tr.submitted_ps <= begin and (tr.landed_ps is None or end <= tr.landed_ps)), None
    )


# ---- flows


def _flows(
    recorder: Recorder,
    computed: dict[str, list[Slice]],
    used_by: dict[Transfer, Slice],
    pieces: dict[Transfer, list[Slice]],
    ahead: dict[Transfer, bool],
) -> Iterable[Flow]:
    begins = {worker: [made.begin_ps for made in row] for worker, row in computed.items()}
    steps: dict[str, list[int]] = defaultdict(list)
    for span in recorder.steps:
        steps[span.worker].append(span.begin_ps)
    before = _before(computed, pieces)
    for issue in recorder.issues:
        hops = [issue.transfer]
        while hops[-1].cause is not None:
            hops.append(hops[-1].cause)
        way = [made for hop in reversed(hops) for made in pieces.get(hop, ()) if made.end_ps > issue.time_ps]
        if not way:
            continue
        points = [(made, max(made.begin_ps, issue.time_ps)) for made in way]
        step_ps = steps[issue.worker][bisect_right(steps[issue.worker], issue.time_ps) - 1]
        for who in (issue.worker, ANYBODY):
            ends, causes = before[who]
            number = bisect_right(ends, issue.time_ps) - 1
            if number >= 0 and ends[number] > step_ps:
                points.insert(0, (causes[number], ends[number]))
                break
        use = used_by.get(issue.transfer)
        if issue.transfer.blob < 0 and issue.transfer.lane is not None:  # a message: whatever its receiver does next
            there = device_of(issue.transfer.lane)
            number = bisect_right(begins[there], (issue.transfer.landed_ps or 0) - 1)
            use = computed[there][number] if number < len(begins[there]) else None
        if use is not None:
            points.append((use, use.begin_ps))
        if len(points) > 1:
            yield Flow(way[-1].kind, points, use is not None)


def _before(
    computed: dict[str, list[Slice]], pieces: dict[Transfer, list[Slice]]
) -> dict[str, tuple[list[int], list[Slice]]]:
    """What may have made a worker ask for something, by its end: its own work, messages to it, anybody's work."""
    rows = {worker: list(row) for worker, row in computed.items()}
    rows[ANYBODY] = [made for row in computed.values() for made in row]
    for transfer, row in pieces.items():
        if transfer.blob < 0 and row[-1].track.device in rows:
            rows[row[-1].track.device].append(row[-1])
    for row in rows.values():
        row.sort(key=lambda made: (made.end_ps, made.kind != "activations"))
    return {who: ([made.end_ps for made in row], row) for who, row in rows.items()}


def _about(run: Run, recorder: Recorder) -> dict[str, Any]:
    scenario = run.scenario
    first = [step for step in recorder.steps if step.worker == run.workers[0].name]
    return {
        "program": "moesim",
        "model": scenario.model.name,
        "platform": scenario.platform.name,
        "system": scenario.system.name,
        "requests_shown": list(dict.fromkeys(request for step in first for request in step.requests)),
        "requests_served": len(run.plan.indices),
        "steps_shown": len(first),
        "steps_served": len(run.workers[0].records),
        "remarks": [remark for remark in run.remarks if remark.startswith("the timeline")],
    }
