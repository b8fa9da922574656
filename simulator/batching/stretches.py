"""Many steps at once on one worker, where nothing can happen in between: all experts are resident.

The numbers are those of the worker, step by step; only the order of the work differs: experts and dense costs of all
steps from one decision of the scheduler to the next are looked up in arrays.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.batching.batcher import Batcher, Parts
from simulator.batching.dense_tables import DenseTables
from simulator.batching.prepared import Preparer, counted
from simulator.batching.request import Request
from simulator.batching.run_ahead import RunAhead, Span, columns, lists
from simulator.engine.fabric import LANDED
from simulator.residency import RESIDENT
from simulator.runtime.collectives import CATEGORY, CollectiveTimes
from simulator.runtime.costs import DenseCosts, ExpertCosts
from simulator.tenants.dense import InstanceCosts, InstanceTables

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker


class Stretch(NamedTuple):
    """Steps of the same requests; times in ps."""

    span: Span
    active: np.ndarray  # distinct experts, [steps, layers]
    dense_ps: np.ndarray  # [steps, 4]
    experts_ps: np.ndarray | None  # [steps, 3]; None: as many as are active say
    sums_ps: int  # of a step, see simulator.runtime.collectives
    pairs: int  # of tokens and experts, in all of them


class Stretches(RunAhead):
    """Runs a worker ahead of its steps. The worker must be the only one, fetch all it lacks, and observe nothing."""

    def __init__(
        self,
        worker: Worker,
        batcher: Batcher,
        dense: DenseCosts | InstanceCosts,
        experts: ExpertCosts,
        framework_ps: int,
        keep_steps: bool = True,
        times: CollectiveTimes | None = None,
    ) -> None:
        super().__init__(batcher, Preparer(batcher.plan, batcher.steps), keep_steps)
        self._worker, self._experts, self._times = worker, experts, times
        self._several = InstanceTables(dense, framework_ps) if isinstance(dense, InstanceCosts) else None
        self._dense = DenseTables(dense.each if isinstance(dense, InstanceCosts) else dense, framework_ps)
        plan = batcher.plan
        self._shape = plan.layers, plan.experts
        self._by_active: dict[int, np.ndarray | None] = {}
        self._here = False
        self._pending: list[Stretch] = []

    def ready(self) -> bool:
        """Whether all experts are resident; none will leave then."""
        if not self._here:
            slots = self._worker.tier.slots
            self._here = all(slot is RESIDENT or (slot is not None and slot.state == LANDED) for slot in slots)  # type: ignore[union-attr]
        return self._here

    def _keep(self, stretch: Stretch) -> None:  # type: ignore[override]
        self._pending.append(stretch)

    def _decode(self, requests: list[Request], time_ps: int) -> Stretch:
        count, steps = len(requests), self._most(requests, time_ps)
        contexts = [request.base + request.done + 1 for request in requests]
        if count not in self._by_active:
            self._by_active[count] = self._experts.by_active(count, self._shape[1])
        table = self._by_active[count]
        active = self._active(requests, steps)
        if self._several is None:
            dense_ps = self._dense.decode(contexts, steps)
        else:
            dense_ps = self._several.decode(contexts, steps, [request.instance for request in requests])
        experts_ps = None
        if table is not None:
            lasts_ps = np.add.reduce(table[:, 3].take(active), axis=1)
        else:
            experts_ps = self._experts.launches(self._counts(requests, steps)).sum(axis=1)
            lasts_ps = experts_ps.sum(axis=1)
        sums_ps = self._times.step_ps(count, count) if self._times is not None else 0
        ends_ps = np.add.accumulate(lasts_ps + dense_ps[:, 3] + sums_ps)
        ends_ps += time_ps
        span = self._decoded(requests, time_ps, ends_ps)
        steps = len(span.ends_ps)
        return Stretch(
            span=span,
            active=active[:steps],
            dense_ps=dense_ps[:steps],
            experts_ps=None if experts_ps is None else experts_ps[:steps],
            sums_ps=sums_ps,
            pairs=steps * sum([request.prepared.cells.shape[1] for request in requests]),  # type: ignore[attr-defined]
        )

    def _active(self, requests: list[Request], steps: int) -> np.ndarray:
        """Distinct experts that each layer asks for, [steps, layers]."""
        union: np.ndarray | None = None
        for request in requests:
            row = request.done - request.prompt_rows
            masks = request.prepared.masks[row : row + steps]  # type: ignore[attr-defined]
            union = masks.copy() if union is None else np.bitwise_or(union, masks, out=union)
        assert union is not None
        bits = np.bitwise_count(union)
        found: np.ndarray = bits[:, 0] if bits.shape[1] == 1 else bits.sum(axis=1)
        return found

    def _counts(self, requests: list[Request], steps: int) -> np.ndarray:
        """Tokens that each expert serves, [steps, layers, experts]."""
        size = self._shape[0] * self._shape[1]
        rows = [request.prepared.cells[request.done : request.done + steps] for request in requests]  # type: ignore[attr-defined]
        cells = np.concatenate(rows, axis=1) + np.arange(steps)[:, None] * size
        return counted(cells, steps * size).reshape(steps, *self._shape)

    def _mixed(self, parts: Parts, decoding: list[Request], time_ps: int) -> Stretch | None:
        """One step with chunks of prompts."""
        chunks = [(request, tokens) for request, tokens in parts if request.done < request.fresh]
        if self._several is not None or (decoding and any(tokens == 1 for _, tokens in chunks)):
            return None  # a chunk of one token would share a launch with those that decode
        counts = self._counts(decoding, 1)[0] if decoding else np.zeros(self._shape, dtype=np.int64)
        for request, tokens in chunks:
            counts = counts + request.prepared.counts(request.done, request.done + tokens)  # type: ignore[attr-defined]
        contexts = [request.context_after(1) for request in decoding]
        prompts = tuple([(tokens, request.context_after(tokens)) for request, tokens in chunks])
        sampled = sum([request.done + tokens >= request.fresh for request, tokens in parts])
        dense_ps = self._dense.mixed(contexts, prompts, sampled)
        experts_ps = self._experts.launches(counts).sum(axis=0)
        total = sum([tokens for _, tokens in parts])
        sums_ps = self._times.step_ps(total, sampled) if self._times is not None else 0
        self._worker.processed.mixed(contexts, prompts, total, sampled)
        return Stretch(
            span=self._one(parts, time_ps, time_ps + int(dense_ps[3]) + int(experts_ps.sum()) + sums_ps),
            active=(counts > 0).sum(axis=1)[None],
            dense_ps=dense_ps[None],
            experts_ps=experts_ps[None],
            sums_ps=sums_ps,
            pairs=int(counts.sum()),
        )

    def _flush(self, number: int) -> None:
        pending, worker = self._pending, self._worker
        if not pending:
            return
        spans = [stretch.span for stretch in pending]
        steps = [len(span.ends_ps) for span in spans]
        numbers = columns(spans, number)
        numbers["busy_ps"] = numbers["end_ps"] - numbers["start_ps"]
        active = np.concatenate([stretch.active for stretch in pending])
        numbers["hits"] = active.sum(axis=1, dtype=np.int64)
        for prefill, counters in enumerate(worker.layer_counts):
            for layer, hits in enumerate(active[numbers["prefill"] == prefill].sum(axis=0, dtype=np.int64).tolist()):
                counters[layer][0] += hits
        parts_ps = self._parts_ps(np.repeat([stretch.experts_ps is None for stretch in pending], steps))
        waited_ps = dict(zip(worker.path.names, parts_ps.T, strict=True))
        if self._times is not None:
            waited_ps[CATEGORY] = np.repeat([stretch.sums_ps for stretch in pending], steps)
        worker.busy_ps += int(sum(ps.sum() for ps in waited_ps.values()))
        worker.processed.repeated(pending)
        if self._keep_steps:
            worker.records.extend(len(numbers["number"]), numbers, lists(spans), {"waited_ps": waited_ps})
        else:
            self._add_sums(worker, numbers, waited_ps)
        self._pending = []

    def _parts_ps(self, by_active: np.ndarray) -> np.ndarray:
        """What the pending steps took by what bounds it, [steps, 3]; `by_active`: whose experts are still to be looked
        up, bool [steps]."""
        pending = self._pending
        parts_ps = np.concatenate([stretch.dense_ps[:, :3] for stretch in pending])
        known = [stretch.experts_ps for stretch in pending if stretch.experts_ps is not None]
        if known:
            parts_ps[~by_active] += np.concatenate(known)
        steps = [len(stretch.span.ends_ps) for stretch in pending]
        counts = np.repeat([stretch.span.tokens if stretch.experts_ps is None else 0 for stretch in pending], steps)
        for count in sorted({stretch.span.tokens for stretch in pending if stretch.experts_ps is None}):
            table = self._by_active[count]
            assert table is not None
            some = [
                stretch.active for stretch in pending if stretch.experts_ps is None and stretch.span.tokens == count
            ]
            parts_ps[counts == count] += table[np.concatenate(some), :3].sum(axis=1)
        return parts_ps
