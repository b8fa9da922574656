"""What a run tells: tidy tables, a summary with reasons, bounds, provenance."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from simulator.bounds import Bounds, bounds
from simulator.build import Run, build
from simulator.engine import seconds
from simulator.runtime.loader import StagedLoader
from simulator.runtime.worker import StepRecord
from simulator.scenario import Scenario
from simulator.tables import device_rows, layer_rows, link_rows, peak_bytes, request_rows, step_rows
from simulator.unrecorded import facts, list_columns

if TYPE_CHECKING:
    from collections.abc import Callable

    import pandas as pd

VERSION = "0.1.0"


class InvariantError(AssertionError):
    """The simulator contradicts itself: a defect of the program, not of the input."""


def simulate(scenario: Scenario, progress: Callable[[int], None] | None = None) -> Result:
    """Run a scenario to its end: a pure function of it.

    `progress(tokens)` is called for every step. Raises the one-sentence errors of `build` before
    the first event, and InvariantError if the books do not balance afterwards.
    """
    run = build(scenario, progress)
    run_clock(run)
    result = Result(run)
    result.check()
    return result


@cache
def _threads() -> ThreadpoolController:
    """The libraries with threads of their own; finding them takes a millisecond."""
    return ThreadpoolController()


def run_clock(run: Run) -> None:
    """Start the workers of a built run and let the clock run to the end.

    Cyclic garbage collection pauses meanwhile (a run makes many small objects and no cycles), and
    BLAS keeps to one thread: its idle threads spin, and a run is one core's work.
    """
    processes = [run.clock.process(worker.process()) for worker in run.workers]
    collecting = gc.isenabled()
    gc.disable()
    try:
        with _threads().limit(limits=1, user_api="blas"):
            run.clock.run(until=run.clock.all_of(processes))
    finally:
        if collecting:
            gc.enable()
    run.fabric.advance(max(worker.records[-1].end_ps for worker in run.workers))  # the books close with the last step


@dataclass
class Result:
    """A finished run. Tables are built when asked for; times in seconds, sizes in bytes."""

    run: Run
    draws: list[dict[str, Any]] = field(default_factory=list)
    """Of runs on machines with drawn constants: number of the draw, and metrics (experiments.uncertainty)."""

    def __repr__(self) -> str:
        made = self.run.scenario
        return f"<Result of {made.system.name}: {made.model.name} on {made.platform.name}, {len(self.records)} steps>"

    def _repr_html_(self) -> str:
        from simulator.drawing import result_html

        return result_html(self)

    # ---- tables

    @cached_property
    def records(self) -> list[StepRecord]:
        """Steps with the counts of all workers added; times and attribution of the whole."""
        return _merged(self.run)

    @cached_property
    def warmup_batches(self) -> int:
        """Batches at the start that are left out of the metrics."""
        workload = self.run.scenario.workload
        return -(-workload.warmup_requests // workload.batch_size)

    @cached_property
    def steps(self) -> pd.DataFrame:
        """One row per step: latency, what was asked of the cache, and where the time went."""
        import pandas as pd

        return pd.DataFrame(step_rows(self.records, self.warmup_batches))

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request. Missing: ttft_s where the trace has no prompt routing, hits and accesses in batches."""
        import pandas as pd

        return pd.DataFrame(self.request_rows)

    @cached_property
    def request_rows(self) -> list[dict[str, Any]]:
        """The rows of `requests` as plain values."""
        rows = request_rows(self.records, self.warmup_batches)
        return [row | list_columns(self.run.plan, row["request"]) for row in rows]

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per phase and routed layer (warm-up included): hits, late, loads, on_cpu, hit_rate."""
        import pandas as pd

        return pd.DataFrame(layer_rows(self.run)).astype({"hit_rate": "float64"})

    @cached_property
    def experts(self) -> pd.DataFrame:
        """One row per expert (warm-up included): tokens routed to it, and loads on demand."""
        import pandas as pd

        count = self.run.scenario.model.experts
        selections = np.zeros(len(self.run.layer_expert_bytes) * count, dtype=np.int64)
        for step in self.run.plan:
            for blobs, tokens in step.groups:
                selections[blobs] += 1 if tokens is None else tokens
        loads = np.sum([worker.expert_loads for worker in self.run.workers], axis=0)
        layer, expert = np.divmod(np.arange(len(selections)), count)
        return pd.DataFrame({"layer": layer, "expert": expert, "selections": selections, "loads": loads})

    @cached_property
    def devices(self) -> pd.DataFrame:
        """One row per worker, host CPU and memory: busy time, high-water mark, energy from idle and full power."""
        import pandas as pd

        return pd.DataFrame(device_rows(self.run, seconds(self.duration_ps)))

    @cached_property
    def links(self) -> pd.DataFrame:
        """One row per lane: transfers, bytes asked for, delivered and cancelled, busy time."""
        import pandas as pd

        return pd.DataFrame(link_rows(self.run, seconds(self.duration_ps)))

    # ---- figures of the whole run

    @property
    def duration_ps(self) -> int:
        """From the first step's start to the last step's end."""
        return self.records[-1].end_ps if self.records else 0

    @cached_property
    def bounds(self) -> Bounds:
        """Physics bound and clairvoyant reference."""
        return bounds(self.run, self.warmup_batches)

    @cached_property
    def attribution_ps(self) -> dict[str, int]:
        """Picoseconds on the critical path by cause, after warm-up; they sum to the steps' latencies exactly."""
        totals: dict[str, int] = {}
        for record in self._measured():
            for name, value in record.waited_ps.items():
                totals[name] = totals.get(name, 0) + value
        return dict(sorted(totals.items()))

    def _measured(self) -> list[StepRecord]:
        return [record for record in self.records if record.batch >= self.warmup_batches]

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Plain values for a table or JSON; warm-up is left out, None where something does not apply."""
        measured = self._measured()
        decode = [r for r in measured if not r.prefill]
        prefill = [r for r in measured if r.prefill]
        latencies = np.array([r.end_ps - r.start_ps for r in decode], dtype=np.float64) / 1e12
        decode_s = float(latencies.sum())
        prefill_s = seconds(sum(r.end_ps - r.start_ps for r in prefill))
        decode_tokens = sum(r.tokens for r in decode)
        total_s = seconds(sum(self.attribution_ps.values()))
        rows = [r for r in self.request_rows if not r["warmup"]]
        ttfts = [r["ttft_s"] for r in rows if r["ttft_s"] is not None]
        energy = sum(row["energy_j"] for row in device_rows(self.run, seconds(self.duration_ps)))
        all_tokens = sum(r.tokens for r in self.records)
        prefetches = sum(r.prefetches for r in measured)
        return {
            "requests": len(rows),
            "prefill_tokens": sum(r.tokens for r in prefill),
            "decode_tokens": decode_tokens,
            "duration_s": total_s,
            "ttft_mean_s": float(np.mean(ttfts)) if ttfts else None,
            "tpot_mean_s": decode_s / len(decode) if decode else None,
            "tpot_p50_s": float(np.percentile(latencies, 50)) if decode else None,
            "tpot_p99_s": float(np.percentile(latencies, 99)) if decode else None,
            "tokens_per_s": decode_tokens / decode_s if decode else None,
            "prefill_tokens_per_s": sum(r.tokens for r in prefill) / prefill_s if prefill else None,
            "request_latency_mean_s": float(np.mean([r["latency_s"] for r in rows])),
            "hit_rate": _hit_rate(measured),
            "hit_rate_decode": _hit_rate(decode),
            "hit_rate_prefill": _hit_rate(prefill),
            "host_hit_rate": _host_hit_rate(self.run),
            "late_rate": _share(measured, "late"),
            "on_cpu_rate": _share(measured, "on_cpu"),
            "load_bytes": sum(r.load_bytes for r in measured),
            "prefetch_bytes": sum(r.prefetch_bytes for r in measured),
            "prefetch_useful_rate": sum(r.useful_prefetches for r in measured) / prefetches if prefetches else None,
            "attribution": {name: value / 1e12 / total_s for name, value in self.attribution_ps.items()}
            if total_s
            else {},
            "cache_bytes": sum(memory.cache_bytes for memory in self.run.memories),
            "memory_peak_bytes": max(peak_bytes(self.run, rank) for rank in range(len(self.run.workers))),
            "energy_j": energy,
            "energy_per_token_j": energy / all_tokens if all_tokens else None,
            **asdict(self.bounds),
            **_intervals(self.draws),
        }

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """Where the numbers come from: version, data digests, seed, remarks."""
        scenario = self.run.scenario
        meta = scenario.trace.meta
        return {
            "moesim_version": VERSION,
            "model": {"name": scenario.model.name, "source": scenario.model.source},
            "platform": {
                "name": scenario.platform.name,
                "home": scenario.platform.home,
                "workers": list(scenario.platform.workers),
            },
            "system": scenario.system.name,
            "trace": {
                "model": meta.model,
                "digest": meta.digest,
                "dataset": meta.dataset,
                "licence": meta.licence,
                "source": meta.source,
                "top_k": meta.top_k,
                "native_top_k": meta.native_top_k,
            },
            "workload": asdict(scenario.workload),
            "served": facts(self.run.plan),
            "settings": asdict(scenario.settings),
            "remarks": list(self.run.remarks),
        }

    # ---- invariants

    def check(self) -> None:
        """Raise InvariantError unless the books balance (cheap; every run does it)."""
        for record in self.records:
            if sum(record.waited_ps.values()) != record.end_ps - record.start_ps:
                raise InvariantError(f"step {record.number}: attribution does not sum to its latency.")
        for lane in self.run.fabric.lanes:
            moved = lane.delivered_bytes + lane.cancelled_bytes + lane.pending_bytes
            if lane.requested_bytes != moved:
                raise InvariantError(f"lane {lane.name}: {lane.requested_bytes} bytes asked for, {moved} accounted.")
        for tier in (*self.run.tiers, *([self.run.host] if self.run.host else [])):
            for partition in tier.partitions:
                if partition.peak_bytes > partition.capacity_bytes:
                    raise InvariantError(
                        f"{tier.name}: {partition.peak_bytes} of {partition.capacity_bytes} bytes used."
                    )


def _merged(run: Run) -> list[StepRecord]:
    first, *others = [worker.records for worker in run.workers]
    for mine, *rest in zip(first, *others, strict=True):
        for other in rest:
            mine.hits += other.hits
            mine.late += other.late
            mine.loads += other.loads
            mine.on_cpu += other.on_cpu
            mine.load_bytes += other.load_bytes
            mine.prefetches += other.prefetches
            mine.prefetch_bytes += other.prefetch_bytes
            mine.useful_prefetches += other.useful_prefetches
    return first


def _intervals(draws: list[dict[str, Any]]) -> dict[str, float | None]:
    """Metric -> 5th and 95th percentile over draws, as `<metric>_p5` and `<metric>_p95`; None where it is missing."""
    found: dict[str, float | None] = {}
    for name in [name for name in (draws or [{}])[0] if name != "draw"]:
        values = [row[name] for row in draws]
        for percent in (5, 95):
            found[f"{name}_p{percent}"] = None if None in values else float(np.percentile(values, percent))
    return found


def _share(records: list[StepRecord], name: str) -> float | None:
    total = sum(r.hits + r.late + r.loads + r.on_cpu for r in records)
    return sum(getattr(r, name) for r in records) / total if total else None


def _host_hit_rate(run: Run) -> float | None:
    """Share of loads that found their expert in host memory, where home is an SSD (warm-up included)."""
    staged = [worker.loader for worker in run.workers if isinstance(worker.loader, StagedLoader)]
    hits = sum(loader.host_hits for loader in staged)
    total = hits + sum(loader.host_misses for loader in staged)
    return hits / total if total else None


def _hit_rate(records: list[StepRecord]) -> float | None:
    return _share(records, "hits")
