"""What a run tells of requests that came and went: a row for each, and the figures of all."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from simulator.batching.log import RequestRecord
from simulator.engine import seconds
from simulator.plan import Plan
from simulator.tasks import task_of
from simulator.unrecorded import slo_s

PERCENTS = (50, 90, 99)
FIGURES = (
    "makespan_s",
    "requests_per_s",
    "goodput_requests_per_s",
    "slo_attainment",
    "queued_mean_s",
    *(f"{name}_p{percent}_s" for name in ("queued", "ttft", "request_latency") for percent in PERCENTS),
    "preemptions",
    "kv_peak_bytes",
)
"""Names in the summary that only such runs fill. Times of requests from arrival on."""


def request_rows(
    plan: Plan, log: Iterable[RequestRecord], warmup_requests: int, prefixes: bool = False
) -> list[dict[str, Any]]:
    """A row for each request, in their order. Missing: ttft_s without a prompt to process, slo_met without SLO.
    `prefixes`: whether the KV cache of shared ones was kept."""
    rows = []
    for record in sorted(log, key=lambda record: record.order):
        first_ps = record.first_ps if record.first_ps >= 0 else record.start_ps
        ttft_s = seconds(record.first_ps - record.arrival_ps) if record.first_ps >= 0 else None
        tpot_s = seconds(record.end_ps - first_ps) / record.decode_tokens if record.decode_tokens else None
        slo_ttft_s, slo_tpot_s = slo_s(plan, record.order)
        rows.append(
            {
                "request": record.request,
                "batch": record.order,
                "warmup": record.order < warmup_requests,
                "context_tokens": record.context_tokens,
                "decode_tokens": record.decode_tokens,
                "start_s": seconds(record.start_ps),
                "ttft_s": ttft_s,
                "tpot_s": tpot_s,
                "latency_s": seconds(record.end_ps - record.arrival_ps),
                "hits": None,
                "accesses": None,
                "arrival_s": seconds(record.arrival_ps),
                "queued_s": seconds(record.start_ps - record.arrival_ps),
                "preemptions": record.preemptions,
                "slo_met": _met((ttft_s, slo_ttft_s), (tpot_s, slo_tpot_s)),
                **({"reused_tokens": record.reused_tokens} if prefixes else {}),
            }
        )
    return rows


def task_rows(plan: Plan, rows: list[dict[str, Any]], makespan_s: float | None) -> list[dict[str, Any]]:
    """A row for each task among the rows of requests, by name (None last): how many, how long, which met their SLO."""
    labels = [task_of(plan, row["batch"]) for row in rows]
    found = []
    for task in sorted(set(labels), key=lambda label: (label is None, str(label))):
        some = [row for row, label in zip(rows, labels, strict=True) if label == task]
        met = [row["slo_met"] for row in some if row["slo_met"] is not None]
        made: dict[str, Any] = {"task": task, "requests": len(some)}
        made["decode_tokens"] = sum(row["decode_tokens"] for row in some)
        for name in ("queued_s", "ttft_s", "tpot_s", "latency_s"):
            values = [row[name] for row in some if row[name] is not None]
            made[f"{name.removesuffix('_s')}_mean_s"] = float(np.mean(values)) if values else None
        made["slo_attainment"] = sum(met) / len(met) if met else None
        made["goodput_requests_per_s"] = sum(met) / makespan_s if met and makespan_s else None
        found.append(made)
    return found


def _met(*pairs: tuple[float | None, float | None]) -> bool | None:
    asked = [(value, most) for value, most in pairs if most is not None]
    return all(value is None or value <= most for value, most in asked) if asked else None


def figures(rows: list[dict[str, Any]], decode_tokens: int, kv_peak_bytes: int) -> dict[str, Any]:
    """Of the rows after the warm-up: rates over the time from the first arrival to the last end, TPOT by request."""
    found: dict[str, Any] = dict.fromkeys(FIGURES)
    if not rows:  # all of the warm-up, or without tokens
        return found
    begin_s = min(row["arrival_s"] for row in rows)
    makespan_s = max(row["arrival_s"] + row["latency_s"] for row in rows) - begin_s
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in ("queued_s", "ttft_s", "tpot_s")}
    columns["request_latency_s"] = [row["latency_s"] for row in rows]
    for name, values in columns.items():
        for percent in PERCENTS:
            key = f"{name.removesuffix('_s')}_p{percent}_s"
            if key in FIGURES or (name == "tpot_s" and percent != 90):
                found[key] = float(np.percentile(values, percent)) if values else None
    met = [row["slo_met"] for row in rows if row["slo_met"] is not None]
    per_s = 1 / makespan_s if makespan_s else None
    found |= {
        "makespan_s": makespan_s,
        "requests_per_s": len(rows) * per_s if per_s else None,
        "tokens_per_s": decode_tokens * per_s if per_s else None,
        "goodput_requests_per_s": sum(met) * per_s if per_s and met else None,
        "slo_attainment": sum(met) / len(met) if met else None,
        "queued_mean_s": float(np.mean(columns["queued_s"])),
        "tpot_mean_s": float(np.mean(columns["tpot_s"])) if columns["tpot_s"] else None,
        "preemptions": sum(row["preemptions"] for row in rows),
        "kv_peak_bytes": kv_peak_bytes,
    }
    if "reused_tokens" in rows[0]:
        found["reused_tokens"] = sum(row["reused_tokens"] for row in rows)
    return found
