"""A recorded run as Chrome-trace JSON, which opens in Perfetto (ui.perfetto.dev) and chrome://tracing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from simulator.build import Run
from simulator.timeline import Slice, Timeline, Track, timeline_of

PS_PER_NS = 1000


def chrome_trace(run: Run) -> dict[str, Any]:
    """The trace of a finished run that was recorded (else ScenarioError).

    A process per device, a thread per track; `ts` and `dur` in microseconds, in whole nanoseconds, as
    viewers keep no more. A flow's event lies within the slice that it is bound to.
    """
    timeline = timeline_of(run)
    processes = {device: number for number, device in enumerate(timeline.devices, start=1)}
    threads = {track: number for number, track in enumerate(timeline.tracks, start=1)}
    shown = {track.device for track in timeline.tracks} | {counter.device for counter in timeline.counters}
    events = [event for device in timeline.devices if device in shown for event in _process(device, processes[device])]
    for track, thread in threads.items():
        events += _thread(track, processes[track.device], thread)
    events += [_complete(made, processes[made.track.device], threads[made.track]) for made in timeline.slices]
    events += _flow_events(timeline, processes, threads)
    for counter in timeline.counters:
        head = {"ph": "C", "name": counter.name, "pid": processes[counter.device]}
        events += [{**head, "ts": _us(time_ps), "args": values} for time_ps, values in counter.values]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": timeline.about}


def write_chrome_trace(path: Path, trace: dict[str, Any]) -> None:
    """Write the trace as compact JSON."""
    path.write_text(json.dumps(trace, separators=(",", ":")), encoding="utf-8")


def _us(time_ps: int) -> float:
    return time_ps // PS_PER_NS / 1000


def _process(name: str, number: int) -> list[dict[str, Any]]:
    return [
        {"ph": "M", "name": "process_name", "pid": number, "args": {"name": name}},
        {"ph": "M", "name": "process_sort_index", "pid": number, "args": {"sort_index": number}},
    ]


def _thread(track: Track, process: int, number: int) -> list[dict[str, Any]]:
    return [
        {"ph": "M", "name": "thread_name", "pid": process, "tid": number, "args": {"name": track.name}},
        {"ph": "M", "name": "thread_sort_index", "pid": process, "tid": number, "args": {"sort_index": number}},
    ]


def _complete(made: Slice, process: int, thread: int) -> dict[str, Any]:
    begin, end = made.begin_ps // PS_PER_NS, made.end_ps // PS_PER_NS
    event = {"ph": "X", "name": made.name, "cat": made.kind, "pid": process, "tid": thread}
    event |= {"ts": begin / 1000, "dur": (end - begin) / 1000}
    return {**event, "args": made.args} if made.args else event


def _flow_events(timeline: Timeline, processes: dict[str, int], threads: dict[Track, int]) -> list[dict[str, Any]]:
    """Start, steps and end of each flow: s, t and f. Viewers tell flows apart by category, name and id."""
    events = []
    for number, flow in enumerate(timeline.flows, start=1):
        for place, (made, time_ps) in enumerate(flow.points):
            begin, end = made.begin_ps // PS_PER_NS, made.end_ps // PS_PER_NS
            ts = max(begin, min(time_ps // PS_PER_NS, end - 1)) / 1000  # at its very end the next slice may begin
            event: dict[str, Any] = {"ph": "t", "name": flow.kind, "cat": "flow", "id": number}
            event |= {"pid": processes[made.track.device], "tid": threads[made.track], "ts": ts}
            if place == 0:
                event["ph"] = "s"
            elif place == len(flow.points) - 1:
                event |= {"ph": "f", "bp": "e"}
            events.append(event)
    return events
