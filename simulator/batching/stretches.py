"""Many steps at once, where nothing can happen in between: all experts are resident and the requests stay the same.

The numbers are those of the worker, step by step; only the order of the work differs. From one decision of the
scheduler to the next, experts and dense costs of all steps are looked up in arrays, and the steps end where a request
ends, where one arrives, or where the KV cache would be full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.batching.batcher import Batcher, Parts
from simulator.batching.dense_tables import DenseTables
from simulator.batching.prepared import Preparer, counted
from simulator.batching.request import Request
from simulator.engine.fabric import LANDED
from simulator.residency import RESIDENT
from simulator.runtime.collectives import CATEGORY, CollectiveTimes
from simulator.runtime.costs import DenseCosts, ExpertCosts
from simulator.tenants.dense import InstanceCosts, InstanceTables

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

MOST_STEPS = 512  # at once
FLUSHED = 4096  # steps after which their records are written


class Stretch(NamedTuple):
    """Steps of the same requests; times in ps."""

    batch: int
    prompt_tokens: int
    tokens: int
    requests: list[int]
    contexts: list[int]  # after the first step
    start_ps: int
    ends_ps: np.ndarray
    active: np.ndarray  # distinct experts, [steps, layers]
    dense_ps: np.ndarray  # [steps, 4]
    experts_ps: np.ndarray | None  # [steps, 3]; None: as many as are active say
    last: bool
    sums_ps: int  # of a step, see simulator.runtime.collectives
    pairs: int  # of tokens and experts, in each step


class Stretches:
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
        self._keep_steps, self._times = keep_steps, times
        self._worker, self._batcher, self._experts = worker, batcher, experts
        self._several = InstanceTables(dense, framework_ps) if isinstance(dense, InstanceCosts) else None
        self._dense = DenseTables(dense.each if isinstance(dense, InstanceCosts) else dense, framework_ps)
        self._preparer = Preparer(batcher.plan, batcher.steps)
        plan = batcher.plan
        self._shape = plan.layers, plan.experts
        self._by_active: dict[int, np.ndarray | None] = {}
        self._here = False
        self._pending: list[Stretch] = []
        self._steps = 0  # of the pending
        self._step_ps = 0  # the last one took

    def ready(self) -> bool:
        """Whether all experts are resident; none will leave then."""
        if not self._here:
            slots = self._worker.tier.slots
            self._here = all(slot is RESIDENT or (slot is not None and slot.state == LANDED) for slot in slots)  # type: ignore[union-attr]
        return self._here

    def run(self, number: int, time_ps: int) -> tuple[int, int]:
        """From step `number` at this time on, as far as it goes; the number and the time of the step after."""
        batcher = self._batcher
        while True:
            parts = batcher.compose(time_ps)
            if isinstance(parts, int):
                time_ps = parts
                continue
            if parts is None:
                break
            stretch = None if batcher.swaps else self._cost(parts, time_ps)
            if stretch is None:
                batcher.composed = parts
                break
            steps = len(stretch.ends_ps)
            batcher.repeat(steps)
            self._pending.append(stretch)
            self._steps += steps
            number += steps
            time_ps = int(stretch.ends_ps[-1])
            if self._steps >= FLUSHED:
                self._flush(number)
        self._flush(number)
        return number, time_ps

    def _cost(self, parts: Parts, time_ps: int) -> Stretch | None:
        """The steps from here on in which these requests run; None where the worker has to take one itself."""
        decoding = []
        for request, _ in parts:
            prepared = request.prepared or self._preparer.of(request)
            if request.done >= request.fresh:
                decoding.append(request)
                if not prepared.whole:  # type: ignore[attr-defined]
                    return None
        if len(decoding) < len(parts):
            return self._mixed(parts, decoding, time_ps)
        return self._decode(decoding, time_ps)

    def _decode(self, requests: list[Request], time_ps: int) -> Stretch:
        count, batcher = len(requests), self._batcher
        left = min([request.rows - request.done for request in requests])
        steps = min(left, MOST_STEPS)
        arrival_ps = batcher.arrivals.next_ps()
        if arrival_ps is not None and self._step_ps:
            steps = min(steps, (arrival_ps - time_ps) // self._step_ps + 2)
        steps = batcher.room(steps)
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
        if arrival_ps is not None and ends_ps[-1] >= arrival_ps:
            steps = int(ends_ps.searchsorted(arrival_ps)) + 1
        self._step_ps = max(1, (int(ends_ps[steps - 1]) - time_ps) // steps)
        return Stretch(
            batch=min([request.order for request in requests]),
            prompt_tokens=0,
            tokens=count,
            requests=[request.id for request in requests],
            contexts=contexts,
            start_ps=time_ps,
            ends_ps=ends_ps[:steps],
            active=active[:steps],
            dense_ps=dense_ps[:steps],
            experts_ps=None if experts_ps is None else experts_ps[:steps],
            last=steps == left,
            sums_ps=sums_ps,
            pairs=sum([request.prepared.cells.shape[1] for request in requests]),  # type: ignore[attr-defined]
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
        batch, last = self._batcher.batch_of(parts)
        total = sum([tokens for _, tokens in parts])
        sums_ps = self._times.step_ps(total, sampled) if self._times is not None else 0
        self._worker.processed.mixed(contexts, prompts, total, sampled)
        return Stretch(
            batch=batch,
            prompt_tokens=sum([tokens for _, tokens in chunks]),
            tokens=total,
            requests=[request.id for request, _ in parts],
            contexts=[request.context_after(tokens) for request, tokens in parts],
            start_ps=time_ps,
            ends_ps=np.array([time_ps + int(dense_ps[3]) + int(experts_ps.sum()) + sums_ps]),
            active=(counts > 0).sum(axis=1)[None],
            dense_ps=dense_ps[None],
            experts_ps=experts_ps[None],
            last=last,
            sums_ps=sums_ps,
            pairs=int(counts.sum()),
        )

    def _flush(self, number: int) -> None:
        """Write the records of the pending steps, the last of which has the number before this one."""
        pending, worker = self._pending, self._worker
        if not pending:
            return
        steps = np.array([len(stretch.ends_ps) for stretch in pending])
        ends_ps = np.concatenate([stretch.ends_ps for stretch in pending])
        last_steps = np.cumsum(steps) - 1
        starts_ps = np.append(0, ends_ps[:-1])
        starts_ps[last_steps - steps + 1] = [stretch.start_ps for stretch in pending]
        parts_ps = self._parts_ps(np.repeat([stretch.experts_ps is None for stretch in pending], steps))
        last = np.zeros(len(ends_ps), dtype=np.int64)
        last[last_steps] = [stretch.last for stretch in pending]
        numbers = {
            "number": np.arange(number - len(ends_ps), number),
            "batch": np.repeat([stretch.batch for stretch in pending], steps),
            "prompt_tokens": np.repeat([stretch.prompt_tokens for stretch in pending], steps),
            "tokens": np.repeat([stretch.tokens for stretch in pending], steps),
            "start_ps": starts_ps,
            "end_ps": ends_ps,
            "last": last,
            "busy_ps": ends_ps - starts_ps,
        }
        numbers["prefill"] = (numbers["prompt_tokens"] > 0).astype(np.int64)
        active = np.concatenate([stretch.active for stretch in pending])
        numbers["hits"] = active.sum(axis=1, dtype=np.int64)
        for prefill, counters in enumerate(worker.layer_counts):
            for layer, hits in enumerate(active[numbers["prefill"] == prefill].sum(axis=0, dtype=np.int64).tolist()):
                counters[layer][0] += hits
        waited_ps = dict(zip(worker.path.names, parts_ps.T, strict=True))
        if self._times is not None:
            waited_ps[CATEGORY] = np.repeat([stretch.sums_ps for stretch in pending], steps)
        worker.busy_ps += int(sum(ps.sum() for ps in waited_ps.values()))
        worker.processed.repeated(pending)
        if self._keep_steps:
            lengths = np.repeat([len(stretch.requests) for stretch in pending], steps)
            contexts = [(np.array(s.contexts) + np.arange(len(s.ends_ps))[:, None]).ravel() for s in pending]
            requests = np.concatenate([np.tile(stretch.requests, len(stretch.ends_ps)) for stretch in pending])
            lists = {"requests": (requests, lengths), "kv_tokens": (np.concatenate(contexts), lengths)}
            worker.records.extend(len(ends_ps), numbers, lists, {"waited_ps": waited_ps})
        else:
            self._add_sums(numbers, waited_ps)
        self._pending, self._steps = [], 0

    def _add_sums(self, numbers: dict[str, np.ndarray], waited_ps: dict[str, np.ndarray]) -> None:
        """One record for all steps of a kind: with or without prompts, of warm-up or not. It lasts as long as they."""
        warm = numbers["batch"] < self._batcher.plan.workload.warmup_requests
        kinds = 2 * warm + numbers["prefill"]
        for kind in np.unique(kinds):
            of_it = kinds == kind
            sums = {name: values[of_it].sum(keepdims=True) for name, values in numbers.items()}
            for name in ("number", "batch", "start_ps", "prefill", "last"):
                sums[name] = numbers[name][of_it][-1:]
            sums["end_ps"] = sums["start_ps"] + sums["busy_ps"]
            nothing = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
            waited = {name: ps[of_it].sum(keepdims=True) for name, ps in waited_ps.items()}
            lists = {"requests": nothing, "kv_tokens": nothing}
            self._worker.records.extend(1, sums, lists, {"waited_ps": waited})

    def _parts_ps(self, by_active: np.ndarray) -> np.ndarray:
        """What the pending steps took by what bounds it, [steps, 3]; `by_active`: whose experts are still to be looked
        up, bool [steps]."""
        pending = self._pending
        parts_ps = np.concatenate([stretch.dense_ps[:, :3] for stretch in pending])
        known = [stretch.experts_ps for stretch in pending if stretch.experts_ps is not None]
        if known:
            parts_ps[~by_active] += np.concatenate(known)
        steps = [len(stretch.ends_ps) for stretch in pending]
        counts = np.repeat([stretch.tokens if stretch.experts_ps is None else 0 for stretch in pending], steps)
        for count in sorted({stretch.tokens for stretch in pending if stretch.experts_ps is None}):
            table = self._by_active[count]
            assert table is not None
            some = [stretch.active for stretch in pending if stretch.experts_ps is None and stretch.tokens == count]
            parts_ps[counts == count] += table[np.concatenate(some), :3].sum(axis=1)
        return parts_ps
