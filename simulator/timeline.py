"""A run as Chrome-trace JSON, which opens in Perfetto (ui.perfetto.dev) and chrome://tracing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

PS_PER_US = 1_000_000


def chrome_trace(
    segments: list[tuple[str, str, int, int]],
    transfers: list[tuple[str, int, bool, int, int, int]],
    experts: int,
    limit_ps: int | None = None,
) -> dict[str, Any]:
    """Events of compute segments (lane, label, begin, end) and transfers, up to `limit_ps`.

    One track per lane; ts and dur in microseconds as the format asks.
    """
    names = sorted({segment[0] for segment in segments}) + sorted({transfer[0] for transfer in transfers})
    tracks = {name: number for number, name in enumerate(dict.fromkeys(names), start=1)}
    events: list[dict[str, Any]] = [
        {"ph": "M", "name": "thread_name", "pid": 1, "tid": track, "args": {"name": name}}
        for name, track in tracks.items()
    ]
    for lane, label, begin, end in segments:
        if limit_ps is None or begin < limit_ps:
            events.append(_complete(label, "compute", tracks[lane], begin, end, {}))
    for lane, blob, urgent, begin, end, size_bytes in transfers:
        if limit_ps is None or begin < limit_ps:
            label = f"layer {blob // experts} expert {blob % experts}" if blob >= 0 else "activations"
            kind = "demand" if urgent else "prefetch"
            events.append(_complete(label, kind, tracks[lane], begin, end, {"bytes": size_bytes}))
    return {"traceEvents": events, "displayTimeUnit": "ms"}


def _complete(name: str, kind: str, track: int, begin: int, end: int, args: dict[str, Any]) -> dict[str, Any]:
    return {
        "ph": "X",
        "name": name,
        "cat": kind,
        "pid": 1,
        "tid": track,
        "ts": begin / PS_PER_US,
        "dur": (end - begin) / PS_PER_US,
        "args": args,
    }


def write_chrome_trace(path: Path, trace: dict[str, Any]) -> None:
    """Write the trace as compact JSON."""
    path.write_text(json.dumps(trace, separators=(",", ":")), encoding="utf-8")
