"""The summary of pools: that of a run, over all replicas, and what only pools have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.batching import tables as batching
from simulator.energy.carbon import carbon_g
from simulator.engine import PS_PER_S, seconds
from simulator.result import intervals
from simulator.tables import peak_bytes

if TYPE_CHECKING:
    from simulator.pools.result import PooledResult, Replica


def pooled_summary(result: PooledResult) -> dict[str, Any]:
    """Plain values by name, in the order of a run's summary; None where something is not defined for pools."""
    each = result.replicas
    rows = [row for row in result.request_rows if not row["warmup"]]
    some = next(one for one in each if one.result.measured.any())
    found: dict[str, Any] = dict.fromkeys(some.result.summary)
    prefill_tokens = _total(each, "prompt_tokens")
    decode_tokens = _total(each, "tokens") - prefill_tokens
    prefill_s = sum(_time_s(one, _measured(one, prefill=True)) for one in each)
    parts_ps = result.attribution_ps
    total_ps = sum(parts_ps.values())
    kv_peak = sum(sum(one.result.run.batcher.pages.peak_bytes) for one in each if one.result.run.batcher is not None)
    ttfts = [row["ttft_s"] for row in rows if row["ttft_s"] is not None]
    energy_j = result.energy_report.by_power_j or None
    given = result.run.scenario.settings.carbon_g_per_kwh
    all_tokens = sum(int(one.result.records.column("tokens").sum()) for one in each)
    found |= {
        "requests": len(rows),
        "prefill_tokens": prefill_tokens,
        "decode_tokens": decode_tokens,
        "duration_s": seconds(total_ps),
        "ttft_mean_s": float(np.mean(ttfts)) if ttfts else None,
        "prefill_tokens_per_s": prefill_tokens / prefill_s if prefill_s else None,
        "request_latency_mean_s": float(np.mean([row["latency_s"] for row in rows])) if rows else None,
        "hit_rate": _rate(each, "hits"),
        "hit_rate_decode": _rate(each, "hits", prefill=False),
        "hit_rate_prefill": _rate(each, "hits", prefill=True),
        "late_rate": _rate(each, "late"),
        "on_cpu_rate": _rate(each, "on_cpu"),
        **{name: _total(each, name) for name in ("load_bytes", "prefetch_bytes")},
        "attribution": {name: time_ps / total_ps for name, time_ps in parts_ps.items()} if total_ps else {},
        **batching.figures(rows, decode_tokens, kv_peak),
        "cache_bytes": sum(
            memory.cache_bytes * one.result.run.ranks.each for one in each for memory in one.result.run.memories
        ),
        "memory_peak_bytes": max(
            peak_bytes(one.result.run, rank) for one in each for rank in range(len(one.result.run.workers))
        ),
        "energy_j": energy_j,
        "energy_by_power_j": result.energy_report.by_power_j,
        "carbon_g": None
        if given is None or energy_j is None
        else carbon_g(energy_j, seconds(result.duration_ps), given),
        "energy_per_token_j": energy_j / all_tokens if all_tokens and energy_j is not None else None,
    }
    return found | intervals(result.draws) | _pools(result, rows, found["tokens_per_s"])


def _pools(result: PooledResult, rows: list[dict[str, Any]], tokens_per_s: float | None) -> dict[str, Any]:
    """What only pools have. Utilisation: time in steps over the time from the start of the run to its end."""
    pools = result.run.scenario.pools
    assert pools is not None
    words, busy, whole_s = [], {}, seconds(result.duration_ps)
    for name, pool in pools.used.items():
        mine = [one for one in result.replicas if one.pool == name]
        if mine:
            words.append(f"{name} {pool.replicas} x ({mine[0].result.run.ranks.layout})")
        steps_s = sum(_time_s(one, slice(None)) for one in mine)
        under_way = pool.replicas * (pool.layout.pp or 1)  # steps that may run at once
        busy[f"{name}_utilisation"] = steps_s / under_way / whole_s if whole_s else None
    columns = {name: [row[name] for row in rows if row[name] is not None] for name in ("kv_transfer_s", "kv_bytes")}
    waits = [row["decode_queued_s"] for row in rows if row["decode_queued_s"] is not None]
    times = columns["kv_transfer_s"]
    return {
        "layout": "; ".join(words),
        "gpus": pools.gpus,
        "tokens_per_s_per_gpu": None if tokens_per_s is None else tokens_per_s / pools.gpus,
        **busy,
        "kv_transfer_bytes": sum(columns["kv_bytes"]),
        "kv_transfer_mean_s": float(np.mean(times)) if times else None,
        "kv_transfer_p99_s": float(np.percentile(times, 99)) if times else None,
        "decode_queued_mean_s": float(np.mean(waits)) if waits else None,
        "decode_queued_p99_s": float(np.percentile(waits, 99)) if waits else None,
        "kv_between_peak_bytes": _between_bytes(result),
    }


def _between_bytes(result: PooledResult) -> int:
    """Most KV cache that was under way or had arrived and waited to be admitted, which no pool's memory counts."""
    starts = {decode.order: decode.start_ps for _, decode in result.log if decode is not None}
    changes = [(one.first_ps, one.size_bytes) for one in result.sent]
    changes += [(starts[one.order], -one.size_bytes) for one in result.sent]
    return int(np.cumsum([0, *(size for _, size in sorted(changes))]).max())


def _measured(replica: Replica, prefill: bool | None = None) -> np.ndarray:
    """Which steps are after the warm-up, bool [steps]; of those with prompts (True) or without (False) alone."""
    measured = replica.result.measured
    return measured if prefill is None else measured & (replica.result.records.column("prefill") == prefill)


def _total(each: list[Replica], name: str, prefill: bool | None = None) -> int:
    """Of a count of steps, after the warm-up."""
    return sum(int(one.result.records.column(name)[_measured(one, prefill)].sum()) for one in each)


def _rate(each: list[Replica], name: str, prefill: bool | None = None) -> float | None:
    """Of what the steps asked for, the share that `name` counts."""
    asked = {kind: _total(each, kind, prefill) for kind in ("hits", "late", "loads", "on_cpu")}
    total = sum(asked.values())
    return asked[name] / total if total else None


def _time_s(replica: Replica, steps: np.ndarray | slice) -> float:
    """Time in some of the steps."""
    records = replica.result.records
    return float((records.column("end_ps") - records.column("start_ps"))[steps].sum() / PS_PER_S)
