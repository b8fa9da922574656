"""What a run tells: tidy tables, a summary with reasons, bounds, provenance."""

from __future__ import annotations

import gc
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
from threadpoolctl import ThreadpoolController

from simulator.batching import tables as batching
from simulator.batching.staged import StagedBatcher
from simulator.bounds import Bounds, bounds
from simulator.build import Run, build
from simulator.energy.report import COLUMNS as ENERGY_COLUMNS
from simulator.energy.report import EnergyReport
from simulator.engine import PS_PER_S, seconds
from simulator.runtime.loader import StagedLoader
from simulator.runtime.record_log import RecordLog
from simulator.runtime.worker import StepRecord
from simulator.scenario import Scenario
from simulator.tables import (
    COUNTS,
    LOST,
    device_rows,
    layer_rows,
    link_rows,
    lost_shares,
    peak_bytes,
    request_rows,
    step_columns,
)
from simulator.tenants.serve import instance_figures, with_instances
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
    if scenario.pools is not None:
        from simulator.pools.serve import simulate_pools

        return simulate_pools(scenario, progress)
    return finish(build(scenario, progress))


def finish(run: Run) -> Result:
    """Let a built run go on to its end. Raises InvariantError if the books do not balance."""
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
    run.fabric.advance(max(worker.end_ps for worker in run.workers))  # the books close with the last step


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
    def records(self) -> RecordLog[StepRecord]:
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

        return pd.DataFrame(step_columns(self.records, self.warmup_batches), copy=False)

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request. Missing: ttft_s where the trace has no prompt routing, hits and accesses in batches."""
        import pandas as pd

        return pd.DataFrame(self.request_rows)

    @cached_property
    def request_rows(self) -> list[dict[str, Any]]:
        """The rows of `requests` as plain values."""
        plan, batcher = self.run.plan, self.run.batcher
        if batcher is not None:
            known = batching.request_rows(plan, batcher.log, self.warmup_batches, batcher.prefixes is not None)
            return with_instances(self.run, [list_columns(plan, row["request"]) | row for row in known])
        rows = request_rows(self.records, self.warmup_batches)
        return [row | list_columns(plan, row["request"]) for row in rows]

    @cached_property
    def tasks(self) -> pd.DataFrame:
        """One row per task label, after the warm-up, where requests come and go: requests, decode_tokens, mean times,
        slo_attainment, goodput_requests_per_s. Empty for lock-step runs."""
        import pandas as pd

        plan, rows = self.run.plan, [row for row in self.request_rows if not row["warmup"]]
        served = self.run.batcher is not None
        known = batching.task_rows(plan, rows, self.summary["makespan_s"]) if served else []
        return pd.DataFrame(known)

    @cached_property
    def layers(self) -> pd.DataFrame:
        """One row per phase and routed layer (warm-up included): hits, late, loads, on_cpu, hit_rate; and, where the
        system changes what the router chose, shares of gate weight dropped, substituted, run at low precision."""
        import pandas as pd

        table = pd.DataFrame(layer_rows(self.run)).astype({"hit_rate": "float64"})
        lost = self._lost
        if lost is not None:  # rows are those of prefill, then those of decode
            for name, shares in lost.items():
                table[name] = np.concatenate([shares[1], shares[0]])
        return table

    @cached_property
    def _lost(self) -> dict[str, np.ndarray] | None:
        return lost_shares(self.run, self._tokens_by_phase)

    @property
    def _tokens_by_phase(self) -> tuple[int, int]:
        """Decoded tokens and those of prompts, warm-up included."""
        tokens, prefill = self.records.column("tokens"), self.records.column("prefill")
        return int(tokens[~prefill].sum()), int(tokens[prefill].sum())

    @cached_property
    def experts(self) -> pd.DataFrame:
        """One row per expert (warm-up included): tokens routed to it, and loads on demand."""
        import pandas as pd

        count = self.run.plan.experts
        selections = np.zeros(len(self.run.layer_expert_bytes) * count, dtype=np.int64)
        for step in self.run.plan:  # if KV cache was lost and computed again, that does not count
            for blobs, tokens in step.groups:
                if blobs:  # a prompt that was cut may have no token in the last layer
                    selections[blobs] += 1 if tokens is None else tokens
        loads = np.sum([worker.expert_loads for worker in self.run.workers], axis=0)
        loads = loads.reshape(-1, len(selections)).sum(axis=0)  # over levels of precision
        layer, expert = np.divmod(np.arange(len(selections)), count)
        return pd.DataFrame({"layer": layer, "expert": expert, "selections": selections, "loads": loads})

    @cached_property
    def devices(self) -> pd.DataFrame:
        """One row per worker, host CPU and memory: busy time, high-water mark, energy by power: idle, and full while
        busy."""
        import pandas as pd

        return pd.DataFrame(device_rows(self.run, seconds(self.duration_ps)))

    @cached_property
    def links(self) -> pd.DataFrame:
        """One row per lane: transfers, bytes asked for, delivered and cancelled, busy time."""
        import pandas as pd

        return pd.DataFrame(link_rows(self.run.fabric.lanes, seconds(self.duration_ps)))

    @cached_property
    def energy(self) -> pd.DataFrame:
        """One row per device or link, what it did, part of the model and phase (warm-up included): amount, price and
        energy; no rows where `energy_report.missing` says which constant is not known."""
        import pandas as pd

        return pd.DataFrame(self.energy_report.rows, columns=list(ENERGY_COLUMNS))

    @cached_property
    def energy_report(self) -> EnergyReport:
        """The account of energy, bottom up and by power."""
        by_power_j = sum(row["energy_j"] for row in device_rows(self.run, seconds(self.duration_ps)))
        return EnergyReport(self.run, self.records, self.duration_ps, by_power_j)

    # ---- figures of the whole run

    @property
    def duration_ps(self) -> int:
        """From the first step's start to the last step's end."""
        return max(worker.end_ps for worker in self.run.workers)

    @cached_property
    def bounds(self) -> Bounds:
        """Physics bound and clairvoyant reference."""
        return bounds(self.run, self.warmup_batches)

    @cached_property
    def attribution_ps(self) -> dict[str, int]:
        """Picoseconds on the critical path by cause, after warm-up; they sum to the steps' latencies exactly."""
        measured, waited = self.measured, self.records.mapping("waited_ps")
        return {name: int(ps[measured].sum()) for name, (ps, there) in waited.items() if there[measured].any()}

    @property
    def measured(self) -> np.ndarray:
        """Which steps are after the warm-up, bool [steps]."""
        found: np.ndarray = self.records.column("batch") >= self.warmup_batches
        return found

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Plain values for a table or JSON; warm-up is left out, None where something does not apply."""
        records, measured = self.records, self.measured
        prefill = measured & records.column("prefill")
        decode = measured & ~prefill
        latency_ps = records.column("end_ps") - records.column("start_ps")
        latencies = latency_ps[decode] / PS_PER_S
        decode_s = float(latencies.sum())
        prefill_s = seconds(int(latency_ps[prefill].sum()))

        def total(name: str, steps: np.ndarray = measured) -> int:
            return int(records.column(name)[steps].sum())

        prefill_tokens = total("prompt_tokens")
        decode_tokens = total("tokens") - prefill_tokens
        total_s = seconds(sum(self.attribution_ps.values()))
        rows = [r for r in self.request_rows if not r["warmup"]]
        ttfts = [r["ttft_s"] for r in rows if r["ttft_s"] is not None]
        prefetches = total("prefetches")
        figures = {
            "requests": len(rows),
            "prefill_tokens": prefill_tokens,
            "decode_tokens": decode_tokens,
            "duration_s": total_s,
            "ttft_mean_s": float(np.mean(ttfts)) if ttfts else None,
            "tpot_mean_s": decode_s / len(latencies) if len(latencies) else None,
            "tpot_p50_s": float(np.percentile(latencies, 50)) if len(latencies) else None,
            "tpot_p99_s": float(np.percentile(latencies, 99)) if len(latencies) else None,
            "tokens_per_s": decode_tokens / decode_s if len(latencies) else None,
            "prefill_tokens_per_s": prefill_tokens / prefill_s if prefill.any() else None,
            "request_latency_mean_s": float(np.mean([r["latency_s"] for r in rows])),
            "hit_rate": _share(records, "hits", measured),
            "hit_rate_decode": _share(records, "hits", decode),
            "hit_rate_prefill": _share(records, "hits", prefill),
            "host_hit_rate": _host_hit_rate(self.run),
            "late_rate": _share(records, "late", measured),
            "on_cpu_rate": _share(records, "on_cpu", measured),
            "load_bytes": total("load_bytes") * self.run.ranks.each,
            "prefetch_bytes": total("prefetch_bytes") * self.run.ranks.each,
            "prefetch_useful_rate": total("useful_prefetches") / prefetches if prefetches else None,
            "attribution": {name: value / 1e12 / total_s for name, value in self.attribution_ps.items()}
            if total_s
            else {},
            **(dict.fromkeys(batching.FIGURES) if self.run.batcher is None else self._served(rows, decode_tokens)),
            "cache_bytes": sum(memory.cache_bytes for memory in self.run.memories) * self.run.ranks.each,
            "memory_peak_bytes": max(peak_bytes(self.run, rank) for rank in range(len(self.run.workers))),
            **self.energy_report.summary(),
            **self._quality(),
            **instance_figures(self.run, records, measured),
            **asdict(self.bounds),
            **intervals(self.draws),
        }
        return figures | self.run.ranks.facts(figures["tokens_per_s"])

    def _served(self, rows: list[dict[str, Any]], decode_tokens: int) -> dict[str, Any]:
        assert self.run.batcher is not None
        return batching.figures(rows, decode_tokens, sum(self.run.batcher.pages.peak_bytes))

    def _quality(self) -> dict[str, float | None]:
        """Share of gate weight that did not run as the router chose; None where the system changes nothing."""
        if self._lost is None:
            return {f"{name}_share": None for name in LOST}
        tokens = np.array(self._tokens_by_phase)
        return {
            f"{name}_share": float((shares.mean(axis=1) * tokens).sum() / tokens.sum())
            for name, shares in self._lost.items()
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
            **({"tenants": asdict(scenario.tenants)} if scenario.tenants.count > 1 else {}),
            **({"layout": asdict(self.run.ranks.layout)} if self.run.ranks.layout is not None else {}),
            "energy": self.energy_report.told,
            "remarks": list(self.run.remarks),
        }

    # ---- invariants

    def check(self) -> None:
        """Raise InvariantError unless the books balance (cheap; every run does it)."""
        records = self.records
        wrong = records.column("end_ps") - records.column("start_ps")
        for waited_ps, _ in records.mapping("waited_ps").values():
            wrong -= waited_ps
        if wrong.any():
            raise InvariantError(
                f"step {records[int(np.flatnonzero(wrong)[0])].number}: attribution does not sum to its latency."
            )
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


def _merged(run: Run) -> RecordLog[StepRecord]:
    logs = [worker.records for worker in run.workers]
    if isinstance(run.batcher, StagedBatcher):  # a step has ended when the last stage has done it
        logs.reverse()
    first, *others = logs
    for other in others:
        first.add(other, COUNTS)
    return first


def intervals(draws: list[dict[str, Any]]) -> dict[str, float | None]:
    """Metric -> 5th and 95th percentile over draws, as `<metric>_p5` and `<metric>_p95`; None where it is missing."""
    found: dict[str, float | None] = {}
    for name in [name for name in (draws or [{}])[0] if name != "draw"]:
        values = [row[name] for row in draws]
        for percent in (5, 95):
            found[f"{name}_p{percent}"] = None if None in values else float(np.percentile(values, percent))
    return found


def _share(records: RecordLog[StepRecord], name: str, steps: np.ndarray) -> float | None:
    """Of what the given steps (bool [steps]) asked for, the share that `name` counts."""
    asked = {kind: int(records.column(kind)[steps].sum()) for kind in ("hits", "late", "loads", "on_cpu")}
    total = sum(asked.values())
    return asked[name] / total if total else None


def _host_hit_rate(run: Run) -> float | None:
    """Share of loads that found their expert in host memory, where home is an SSD (warm-up included)."""
    staged = [worker.loader for worker in run.workers if isinstance(worker.loader, StagedLoader)]
    hits = sum(loader.host_hits for loader in staged)
    total = hits + sum(loader.host_misses for loader in staged)
    return hits / total if total else None
