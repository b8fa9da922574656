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
from simulator.runtime.costs import DenseCosts, ExpertCosts

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

MOST_STEPS = 512  # at once
FLUSHED = 4096  # steps after which their records are written


class _Stretch(NamedTuple):
    """Steps of the same requests, n of each other thing: times in ps."""

    batch: int
    prompt_tokens: int
    tokens: int
    requests: list[int]
    contexts: np.ndarray  # [steps, requests]
    start_ps: int
    ends_ps: np.ndarray
    hits: np.ndarray
    parts_ps: np.ndarray  # [steps, 3]
    last: bool


class Stretches:
    """Runs a worker ahead of its steps. The worker must be the only one, fetch all it lacks, and observe nothing."""

    def __init__(
        self, worker: Worker, batcher: Batcher, dense: DenseCosts, experts: ExpertCosts, framework_ps: int
    ) -> None:
        self._worker, self._batcher, self._experts = worker, batcher, experts
        self._dense = DenseTables(dense, framework_ps)
        self._preparer = Preparer(batcher.plan, batcher.steps)
        plan = batcher.plan
        self._shape = plan.layers, plan.experts
        self._by_active: dict[int, np.ndarray | None] = {}
        self._here = False
        self._pending: list[_Stretch] = []
        self._steps = 0  # of the pending
        self._layer_hits = np.zeros((2, plan.layers), dtype=np.int64)
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

    def _cost(self, parts: Parts, time_ps: int) -> _Stretch | None:
        """The steps from here on in which these requests run; None where the worker has to take one itself."""
        decoding = [request for request, _ in parts if request.done >= request.fresh]
        if any(not self._preparer.of(request).whole for request in decoding):
            return None
        if len(decoding) < len(parts):
            return self._mixed(parts, decoding, time_ps)
        return self._decode(decoding, time_ps)

    def _decode(self, requests: list[Request], time_ps: int) -> _Stretch:
        count, batcher = len(requests), self._batcher
        left = min(request.rows - request.done for request in requests)
        steps = min(left, MOST_STEPS)
        arrival_ps = batcher.arrivals.next_ps()
        if arrival_ps is not None and self._step_ps:
            steps = min(steps, (arrival_ps - time_ps) // self._step_ps + 2)
        while steps > 1 and not batcher.pages.has_room(requests, steps):
            steps //= 2
        contexts = np.array([request.context_after(1) for request in requests]) + np.arange(steps)[:, None]
        if count not in self._by_active:
            self._by_active[count] = self._experts.by_active(count, self._shape[1])
        table = self._by_active[count]
        active = self._active(requests, steps)
        if table is not None:
            experts_ps = table[active].sum(axis=1)
        else:
            experts_ps = self._experts.launches(self._counts(requests, steps)).sum(axis=1)
        parts_ps = self._dense.decode(contexts) + experts_ps
        ends_ps = time_ps + np.cumsum(parts_ps.sum(axis=1))
        if arrival_ps is not None:
            steps = min(steps, int(np.searchsorted(ends_ps, arrival_ps)) + 1)
        ends_ps, active = ends_ps[:steps], active[:steps]
        self._step_ps = max(1, int(ends_ps[-1] - time_ps) // steps)
        self._layer_hits[0] += active.sum(axis=0)
        return _Stretch(
            batch=min(request.order for request in requests),
            prompt_tokens=0,
            tokens=count,
            requests=[request.id for request in requests],
            contexts=contexts[:steps],
            start_ps=time_ps,
            ends_ps=ends_ps,
            hits=active.sum(axis=1),
            parts_ps=parts_ps[:steps],
            last=steps == left,
        )

    def _active(self, requests: list[Request], steps: int) -> np.ndarray:
        """Distinct experts that each layer asks for, [steps, layers]."""
        union: np.ndarray | None = None
        for request in requests:
            row = request.done - request.prompt_rows
            masks = self._preparer.of(request).masks[row : row + steps]
            union = masks.copy() if union is None else np.bitwise_or(union, masks, out=union)
        assert union is not None
        bits = np.bitwise_count(union)
        return bits[:, 0].astype(np.int64) if bits.shape[1] == 1 else bits.sum(axis=1, dtype=np.int64)

    def _counts(self, requests: list[Request], steps: int) -> np.ndarray:
        """Tokens that each expert serves, [steps, layers, experts]."""
        size = self._shape[0] * self._shape[1]
        rows = [self._preparer.of(request).cells[request.done : request.done + steps] for request in requests]
        cells = np.concatenate(rows, axis=1) + np.arange(steps)[:, None] * size
        return counted(cells, steps * size).reshape(steps, *self._shape)

    def _mixed(self, parts: Parts, decoding: list[Request], time_ps: int) -> _Stretch | None:
        """One step with chunks of prompts."""
        chunks = [(request, tokens) for request, tokens in parts if request.done < request.fresh]
        if decoding and any(tokens == 1 for _, tokens in chunks):
            return None  # they would share a launch with those that decode
        size = self._shape[0] * self._shape[1]
        counts = self._counts(decoding, 1).reshape(size) if decoding else np.zeros(size, dtype=np.int64)
        for request, tokens in chunks:
            counts = counts + self._preparer.of(request).counts(request.done, request.done + tokens)
        counts = counts.reshape(self._shape)
        contexts = np.array([request.context_after(1) for request in decoding], dtype=np.int64)
        prompts = tuple((tokens, request.context_after(tokens)) for request, tokens in chunks)
        sampled = sum(request.done + tokens >= request.fresh for request, tokens in parts)
        parts_ps = self._dense.mixed(contexts, prompts, sampled) + self._experts.launches(counts).sum(axis=0)
        active = (counts > 0).sum(axis=1)
        self._layer_hits[1] += active
        batch, last = self._batcher.batch_of(parts)
        return _Stretch(
            batch=batch,
            prompt_tokens=sum(tokens for _, tokens in chunks),
            tokens=sum(tokens for _, tokens in parts),
            requests=[request.id for request, _ in parts],
            contexts=np.array([[request.context_after(tokens) for request, tokens in parts]]),
            start_ps=time_ps,
            ends_ps=np.array([time_ps + parts_ps.sum()]),
            hits=active.sum(keepdims=True),
            parts_ps=parts_ps[None],
            last=last,
        )

    def _flush(self, number: int) -> None:
        """Write the records of the pending steps, the last of which has the number before this one."""
        pending, worker = self._pending, self._worker
        if not pending:
            return
        steps = np.array([len(stretch.ends_ps) for stretch in pending])
        widths = np.array([len(stretch.requests) for stretch in pending])
        ends_ps = np.concatenate([stretch.ends_ps for stretch in pending])
        starts_ps = np.concatenate([np.append(s.start_ps, s.ends_ps[:-1]) for s in pending])
        parts_ps = np.concatenate([stretch.parts_ps for stretch in pending])
        last = np.zeros(len(ends_ps), dtype=np.int64)
        last[np.cumsum(steps) - 1] = [stretch.last for stretch in pending]
        prompt_tokens = np.repeat([stretch.prompt_tokens for stretch in pending], steps)
        lengths = np.repeat(widths, steps)
        worker.records.extend(
            len(ends_ps),
            {
                "number": np.arange(number - len(ends_ps), number),
                "batch": np.repeat([stretch.batch for stretch in pending], steps),
                "prefill": (prompt_tokens > 0).astype(np.int64),
                "tokens": np.repeat([stretch.tokens for stretch in pending], steps),
                "start_ps": starts_ps,
                "end_ps": ends_ps,
                "last": last,
                "prompt_tokens": prompt_tokens,
                "hits": np.concatenate([stretch.hits for stretch in pending]),
                "busy_ps": ends_ps - starts_ps,
            },
            {
                "requests": (np.concatenate([np.tile(s.requests, len(s.ends_ps)) for s in pending]), lengths),
                "kv_tokens": (np.concatenate([stretch.contexts.ravel() for stretch in pending]), lengths),
            },
            {"waited_ps": dict(zip(worker.path.names, parts_ps.T, strict=True))},
        )
        worker.busy_ps += int(parts_ps.sum())
        for counters, hits in zip(worker.layer_counts, self._layer_hits.tolist(), strict=True):
            for layer, found in enumerate(hits):
                counters[layer][0] += found
        self._layer_hits[:] = 0
        self._pending, self._steps = [], 0
