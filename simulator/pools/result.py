"""What pools tell: the tables of their replicas one below the other, and requests from arrival to end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.batching import tables as batching
from simulator.batching.log import RequestRecord
from simulator.bounds import Bounds
from simulator.energy.report import EnergyReport
from simulator.engine import Lane, seconds
from simulator.pools.summary import pooled_summary
from simulator.result import InvariantError, Result
from simulator.runtime.record_log import RecordLog
from simulator.runtime.worker import StepRecord
from simulator.tables import device_rows, link_rows
from simulator.unrecorded import list_columns

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Sent:
    """The KV cache of a request: from a replica that runs prompts to one that decodes, and the attention group there.
    Times in ps: when the first token was there, and when the last byte had landed."""

    order: int
    sender: int
    receiver: int
    group: int
    size_bytes: int
    first_ps: int
    landed_ps: int


@dataclass(frozen=True)
class Replica:
    """A finished replica of a pool."""

    pool: str
    number: int
    result: Result

    @property
    def orders(self) -> Sequence[int]:
        """Of its requests in order, the place of each among all."""
        portion = self.result.run.scenario.portion
        assert portion is not None
        return portion.orders

    @property
    def log(self) -> list[RequestRecord]:
        """Its requests, with their places among all."""
        batcher = self.result.run.batcher
        assert batcher is not None
        return [replace(record, order=self.orders[record.order]) for record in batcher.log]


@dataclass(repr=False)
class PooledResult(Result):
    """A finished run of pools. `run` is the first replica's, with the scenario, plan and remarks of the whole."""

    replicas: list[Replica] = field(default_factory=list)
    sent: list[Sent] = field(default_factory=list)
    lanes: list[Lane] = field(default_factory=list)

    def __repr__(self) -> str:
        made = self.run.scenario
        return f"<Result of {made.system.name}: {made.model.name} on {made.platform.name}, {len(self.replicas)} runs>"

    # ---- tables

    @cached_property
    def records(self) -> RecordLog[StepRecord]:
        """Those of the first replica; each of `replicas` has its own."""
        return self.replicas[0].result.records

    @cached_property
    def steps(self) -> pd.DataFrame:
        """As of a run, with the columns `pool` and `replica`; `step` counts within a replica."""
        return self._below("steps")

    @cached_property
    def layers(self) -> pd.DataFrame:
        """As of a run, with the columns `pool` and `replica`."""
        return self._below("layers")

    @cached_property
    def experts(self) -> pd.DataFrame:
        """As of a run, with the columns `pool` and `replica`."""
        return self._below("experts")

    @cached_property
    def devices(self) -> pd.DataFrame:
        """As of a run; `pool` and `replica` are missing for what belongs to none."""
        import pandas as pd

        return pd.DataFrame(self.device_rows).astype({"replica": "Int64"})

    @cached_property
    def device_rows(self) -> list[dict[str, Any]]:
        """The rows of `devices` as plain values: a GPU's from its replica, all others from the first one."""
        total_s = seconds(self.duration_ps)
        each = [{row["device"]: row for row in device_rows(one.result.run, total_s)} for one in self.replicas]
        found = []
        for name, row in each[0].items():
            owner = next((n for n, one in enumerate(self.replicas) if name in one.result.run.ranks.gpus), None)
            place: dict[str, Any] = {"pool": None, "replica": None}
            if owner is not None:
                place = {"pool": self.replicas[owner].pool, "replica": self.replicas[owner].number}
            found.append(place | (row if owner is None else each[owner][name]))
        return found

    @cached_property
    def energy_report(self) -> EnergyReport:
        """By power alone."""
        return EnergyReport(self.run, self.records, self.duration_ps, sum(row["energy_j"] for row in self.device_rows))

    @cached_property
    def links(self) -> pd.DataFrame:
        """As of a run, with the columns `pool` and `replica`, and below them the lanes of KV cache (pool `kv`)."""
        import pandas as pd

        total_s, rows = seconds(self.duration_ps), []
        for one in self.replicas:
            place = {"pool": one.pool, "replica": one.number}
            rows += [place | row for row in link_rows(one.result.run.fabric.lanes, total_s)]
        rows += [{"pool": "kv", "replica": None} | row for row in link_rows(self.lanes, total_s)]
        return pd.DataFrame(rows).astype({"replica": "Int64"})

    def _below(self, table: str) -> pd.DataFrame:
        import pandas as pd

        found = []
        for one in self.replicas:
            rows = getattr(one.result, table).copy()
            if "batch" in rows:
                rows["batch"] = np.array(one.orders)[rows["batch"]]
            rows.insert(0, "pool", one.pool)
            rows.insert(1, "replica", one.number)
            found.append(rows)
        return pd.concat(found, ignore_index=True)

    @cached_property
    def log(self) -> list[tuple[RequestRecord, RequestRecord | None]]:
        """What became of each request where its prompt ran, and where it decoded if that is elsewhere, by its place
        among all."""
        both: list[dict[int, RequestRecord]] = [{}, {}]
        for one in self.replicas:
            both[one.pool == "decode"] |= {record.order: record for record in one.log}
        return [(both[0][order], both[1].get(order)) for order in sorted(both[0])]

    @cached_property
    def request_rows(self) -> list[dict[str, Any]]:
        """As of a run, where the first token comes from the prefill pool and the transfer counts into `tpot_s`; and
        prefill_replica, decode_replica, kv_bytes, kv_transfer_s (first token to last byte), decode_queued_s (last byte
        to first step), missing where nothing was sent."""
        plan, warm = self.run.plan, self.run.scenario.workload.warmup_requests
        rows = batching.request_rows(plan, map(_joined, self.log), warm)
        sent, alone = {one.order: one for one in self.sent}, self.replicas[0].pool == "aggregated"
        first = {order: one.number for one in self.replicas if one.pool != "decode" for order in one.orders}
        for row, (prompt, decode) in zip(rows, self.log, strict=True):
            one = sent.get(prompt.order)
            there = one is not None and decode is not None
            row |= {
                "prefill_replica": first[prompt.order],
                "decode_replica": one.receiver if one is not None else first[prompt.order] if alone else None,
                "kv_bytes": one.size_bytes if one is not None else None,
                "kv_transfer_s": seconds(one.landed_ps - one.first_ps) if one is not None else None,
                "decode_queued_s": seconds(decode.start_ps - one.landed_ps) if there else None,  # type: ignore[union-attr]
            }
        return [list_columns(plan, row["request"]) | row for row in rows]

    # ---- figures of the whole

    @property
    def duration_ps(self) -> int:
        """From the start of the run to the last step's end."""
        return max(one.result.duration_ps for one in self.replicas)

    @cached_property
    def bounds(self) -> Bounds:
        """None are known."""
        return Bounds(None, None, None, None, None)

    @cached_property
    def attribution_ps(self) -> dict[str, int]:
        """As of a run, the sum over replicas."""
        found: dict[str, int] = {}
        for one in self.replicas:
            for name, time_ps in one.result.attribution_ps.items():
                found[name] = found.get(name, 0) + time_ps
        return found

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As of a run, and what only pools have (docs/layouts.md)."""
        return pooled_summary(self)

    @cached_property
    def provenance(self) -> dict[str, Any]:
        """As of a run, with the layouts and replicas of the pools."""
        found = {key: value for key, value in super().provenance.items() if key != "layout"}
        pools = self.run.scenario.pools
        assert pools is not None
        told: dict[str, Any] = {"dealing": pools.dealing}
        for one in self.replicas:
            layout = one.result.run.ranks.layout
            assert layout is not None
            told[one.pool] = {"replicas": getattr(pools, one.pool).replicas, "layout": asdict(layout)}
        remarks = found.pop("remarks")
        return {**found, "pools": told, "remarks": remarks}

    def check(self) -> None:
        """Raise InvariantError unless every request was served once in either phase and all KV cache arrived."""
        served = self.run.plan.served
        asked = [request for request in served if request.tokens(self.run.plan.workload.synthetic_prefill)[0]]
        decoded = [_joined(both).decode_tokens for both in self.log]
        _same("requests served", len(self.log), len(asked))
        _same("decoded tokens", sum(decoded), sum(request.decode_tokens for request in served))
        delivered = sum(lane.delivered_bytes for lane in self.lanes)
        _same("bytes of KV cache", delivered, sum(one.size_bytes for one in self.sent))


def _joined(both: tuple[RequestRecord, RequestRecord | None]) -> RequestRecord:
    """One record of a request's two phases."""
    prompt, decode = both
    if decode is None:
        return prompt
    preemptions = prompt.preemptions + decode.preemptions
    return replace(decode, arrival_ps=prompt.arrival_ps, start_ps=prompt.start_ps, preemptions=preemptions)


def _same(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise InvariantError(f"pools: {found} {what}, {wanted} expected.")
