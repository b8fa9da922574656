"""The rows of a result's tables, as plain values: times in seconds, sizes in bytes."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from simulator.build import Run
from simulator.engine import PS_PER_S, Lane, seconds
from simulator.runtime.record_log import RecordLog
from simulator.runtime.worker import StepRecord

LOST = ("dropped_weight", "substituted_weight", "low_precision_weight")
PHASES = np.array(["prefill", "decode"], dtype=object)
COUNTS = ("hits", "late", "loads", "on_cpu", "load_bytes", "prefetches", "useful_prefetches", "prefetch_bytes")


def step_columns(records: RecordLog[StepRecord], warmup_batches: int) -> dict[str, np.ndarray]:
    """For each step: latency, what was asked of the cache, and where the time went."""
    batch, start_ps, end_ps = (records.column(name) for name in ("batch", "start_ps", "end_ps"))
    return {
        "step": records.column("number"),
        "batch": batch,
        "phase": np.where(records.column("prefill"), PHASES[0], PHASES[1]),
        "warmup": batch < warmup_batches,
        "requests": records.lengths("requests"),
        "tokens": records.column("tokens"),
        "prompt_tokens": records.column("prompt_tokens"),
        "context_tokens": records.sums("kv_tokens"),
        "start_s": start_ps / PS_PER_S,
        "latency_s": (end_ps - start_ps) / PS_PER_S,
        **{name: records.column(name) for name in COUNTS},
        **{
            f"attributed_{name}_s": waited_ps / PS_PER_S
            for name, (waited_ps, _) in records.mapping("waited_ps").items()
        },
    }


def request_rows(records: Iterable[StepRecord], warmup_batches: int) -> list[dict[str, Any]]:
    """A row for each request. Missing: ttft_s without prompt routing, hits and accesses in batches."""
    rows: dict[tuple[int, int], dict[str, Any]] = {}
    for record in records:
        for request, context in zip(record.requests, record.kv_tokens, strict=True):
            row = rows.get((record.batch, request))
            if row is None:
                row = rows[record.batch, request] = {
                    "request": request,
                    "batch": record.batch,
                    "warmup": record.batch < warmup_batches,
                    "start_ps": record.start_ps,
                    "prefill_ps": None,
                    "decode_ps": 0,
                    "decode_tokens": 0,
                    "hits": 0,
                    "accesses": 0,
                }
            if len(record.requests) > 1:
                row["hits"] = row["accesses"] = None  # of the batch, not of a request
            elif row["hits"] is not None:
                row["hits"] += record.hits
                row["accesses"] += record.hits + record.late + record.loads + record.on_cpu
            if record.prefill:
                row["prefill_ps"] = record.end_ps - row["start_ps"]
            else:
                row["decode_ps"] += record.end_ps - record.start_ps
                row["decode_tokens"] += 1
            row["end_ps"] = record.end_ps
            row["context_tokens"] = context
    return [
        {
            "request": row["request"],
            "batch": row["batch"],
            "warmup": row["warmup"],
            "context_tokens": row["context_tokens"],
            "decode_tokens": row["decode_tokens"],
            "start_s": seconds(row["start_ps"]),
            "ttft_s": seconds(row["prefill_ps"]) if row["prefill_ps"] is not None else None,
            "tpot_s": seconds(row["decode_ps"]) / row["decode_tokens"] if row["decode_tokens"] else None,
            "latency_s": seconds(row["end_ps"] - row["start_ps"]),
            "hits": row["hits"],
            "accesses": row["accesses"],
        }
        for row in rows.values()
    ]


def layer_rows(run: Run) -> list[dict[str, Any]]:
    """A row for each phase and routed layer, warm-up included."""
    rows = []
    for phase, name in ((1, "prefill"), (0, "decode")):
        for layer in range(len(run.layer_expert_bytes)):
            counts = [worker.layer_counts[phase][layer] for worker in run.workers]
            hits, late, loads, on_cpu = map(sum, zip(*counts, strict=True))
            total = hits + late + loads + on_cpu
            rows.append(
                {
                    "phase": name,
                    "layer": layer,
                    "hits": hits,
                    "late": late,
                    "loads": loads,
                    "on_cpu": on_cpu,
                    "hit_rate": hits / total if total else None,
                }
            )
    return rows


def lost_shares(run: Run, tokens: tuple[int, int]) -> dict[str, np.ndarray] | None:
    """Share of gate weight that did not run as the router chose: [phase, layer], phase 0 decode, 1 prefill.

    dropped: of experts that did not run; substituted: for which others ran; low_precision: of experts run below the
    best precision. `tokens`: decoded, and of prompts. None where the system changes nothing. Warm-up included.
    """
    worker = run.workers[0]
    layers = len(run.layer_expert_bytes)
    if worker.adapter is None and all(part is None for part in worker.rewritten):
        return None
    lost = np.zeros((2, layers, 3))
    for phase, part in enumerate(worker.rewritten):
        if part is not None:
            lost[phase, :, :2] += part
    if worker.adapter is not None:
        lost += np.array(worker.adapter.lost)
    shares = lost / np.maximum(np.array(tokens, dtype=np.float64), 1)[:, None, None]
    return {name: shares[:, :, n] for n, name in enumerate(LOST)}


def device_rows(run: Run, total_s: float) -> list[dict[str, Any]]:
    """A row for each worker, host CPU and memory. `energy_j` is by power: idle all the time, and full while busy."""
    platform = run.scenario.platform
    alike = zip(run.workers, run.ranks.places, strict=True)
    busy = {gpu: seconds(worker.busy_ps) for worker, place in alike for gpu in place.gpus}
    for lane in run.fabric.lanes:
        if lane.category == "cpu" and platform.cpu is not None:
            busy[platform.cpu] = seconds(lane.busy_ps)
        elif lane.category == "ndp":
            busy[lane.name.removesuffix(" experts")] = seconds(lane.busy_ps)
    rows = []
    for name, device in platform.devices.items():
        if device.kind == "switch":
            continue
        rank = run.ranks.worker_of(name)
        busy_s = busy.get(name, 0.0)
        peak = None
        if rank is not None and platform.memory_of(name).name == name:
            peak = peak_bytes(run, rank)
        elif run.host is not None and name == run.host.name:
            peak = run.host.peak_bytes() * run.ranks.each
        elif device.kind == "dram" and rank is None and name in {platform.memory_of(w).name for w in run.ranks.gpus}:
            peak = peak_bytes(run, 0)
        elif name == platform.home:
            peak = _experts_bytes(run)
        rows.append(
            {
                "device": name,
                "kind": device.kind,
                "busy_s": busy_s,
                "utilisation": busy_s / total_s if total_s else 0.0,
                "memory_capacity_bytes": device.memory_capacity_bytes if device.kind not in ("cpu", "ndp") else None,
                "memory_peak_bytes": peak,
                "energy_j": device.idle_power_w * total_s + max(0.0, device.tdp_w - device.idle_power_w) * busy_s,
            }
        )
    return rows


def _experts_bytes(run: Run) -> int:
    """Bytes of all experts where they lie at the start, whole, at every precision of which there is a copy."""
    sizes, adapter = run.tiers[0].sizes, run.workers[0].adapter
    if adapter is not None and adapter.nested:
        sizes = sizes[: len(run.layer_expert_bytes) * run.scenario.model.experts]
    if run.workers[0].slices is not None:
        return sum(run.layer_expert_bytes) * (len(sizes) // len(run.layer_expert_bytes))
    return sum(sizes) * (run.ranks.layout.moe_tp if run.ranks.layout is not None else 1)


def link_rows(lanes: Iterable[Lane], total_s: float) -> list[dict[str, Any]]:
    """A row for each lane."""
    rows = []
    for lane in lanes:
        rows.append(
            {
                "lane": lane.name,
                "kind": lane.category,
                "transfers": lane.transfers,
                "requested_bytes": lane.requested_bytes,
                "delivered_bytes": lane.delivered_bytes,
                "cancelled_bytes": lane.cancelled_bytes,
                "pending_bytes": lane.pending_bytes,
                "busy_s": seconds(lane.busy_ps),
                "utilisation": seconds(lane.busy_ps) / lane.width / total_s if total_s else 0.0,
            }
        )
    return rows


def peak_bytes(run: Run, rank: int) -> int:
    """Most bytes in use in a worker's memory."""
    memory = run.memories[rank]
    return memory.dense_bytes + memory.kv_bytes + memory.workspace_bytes + run.tiers[rank].peak_bytes()
