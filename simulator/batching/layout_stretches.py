"""Many steps at once on the GPUs of a layout, whose sums and messages have fitted durations.

As `stretches.py`, with all experts resident on the parts that hold them. Workers meet before and after the experts of
every layer (`meetings.py`); the numbers are those of the workers, step by step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.batching.batcher import Batcher, Parts
from simulator.batching.dense_tables import StretchTables
from simulator.batching.meetings import MESSAGES, SUMS, Costs, Meetings
from simulator.batching.placed import ExpertParts, Placed
from simulator.batching.prepared import Preparer, counted
from simulator.batching.request import Request
from simulator.batching.run_ahead import FLUSHED, Lists, RunAhead, Span, columns, lists
from simulator.batching.stretches import Stretch
from simulator.engine.fabric import LANDED
from simulator.residency import RESIDENT
from simulator.runtime import collectives
from simulator.runtime.busiest import busiest_bytes
from simulator.runtime.collectives import CollectiveTimes
from simulator.runtime.costs import DenseCosts, ExpertCosts
from simulator.runtime.ranks import Ranks

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

MOST_KEPT = 1 << 20  # numbers of costs that wait for their records


class _Stretch(NamedTuple):
    """Steps of the same requests, and what they cost.

    active: experts of each part that run, [steps, parts, layers]; pairs: of tokens and experts in all steps, [parts];
    contexts: of each group's requests after the first step, where all decode.
    """

    span: Span
    costs: Costs
    active: np.ndarray
    pairs: np.ndarray
    contexts: list[list[int]]

    def of(self, group: int, part: int) -> Stretch:
        """As one worker sees it."""
        span = self.span
        if not span.prompt_tokens:
            span = span._replace(contexts=self.contexts[group], tokens=len(self.contexts[group]))
        nothing = np.empty(0)
        return Stretch(span, self.active[:, part], nothing, None, 0, int(self.pairs[part]))


_Records = tuple[dict[str, np.ndarray], np.ndarray, Lists, dict[str, np.ndarray]]
"""Of one worker: numbers, experts that ran [steps, layers], requests and context lengths, and causes of the time."""


class WorkerStretches:
    """A worker's view of `LayoutStretches`, as it asks for many steps at once."""

    def __init__(self, together: LayoutStretches, rank: int) -> None:
        self._together, self._rank = together, rank

    def ready(self) -> bool:
        """Workers always ask: they are answered together."""
        return True

    def run(self, number: int, time_ps: int) -> tuple[int, int]:
        """As `RunAhead.run`."""
        found = self._together.after(number, time_ps)
        self._together.write(self._rank)
        return found


class LayoutStretches(RunAhead):
    """Runs all workers of a layout ahead of their steps. They must be alike, fetch all they lack, and observe nothing.

    owners: part of each expert, [layers, experts]; hidden_bytes: of a token's activations.
    """

    def __init__(
        self,
        workers: Sequence[Worker],
        batcher: Batcher,
        ranks: Ranks,
        owners: np.ndarray,
        dense: DenseCosts,
        experts: ExpertCosts,
        times: CollectiveTimes,
        framework_ps: int,
        hidden_bytes: int,
        keep_steps: bool,
    ) -> None:
        self._where, layers = ExpertParts(owners, ranks.parts), len(owners)
        preparer = Preparer(batcher.plan, batcher.steps, lambda rows, prompt: Placed(rows, prompt, self._where))
        flushed = max(1, min(FLUSHED, MOST_KEPT // (len(ranks.places) * layers)))
        super().__init__(batcher, preparer, keep_steps, flushed)
        self._workers, self._ranks, self._times, self._hidden_bytes = workers, ranks, times, hidden_bytes
        self._experts, self._dense = experts, StretchTables(dense, framework_ps)
        groups, parts = [place.group for place in ranks.places], [place.part for place in ranks.places]
        self._exchanging = ranks.groups > 1
        self._meetings = Meetings(self._dense.at, groups, parts, MESSAGES if self._exchanging else SUMS)
        self._owned = [np.flatnonzero(owners.ravel() == part).tolist() for part in parts]
        self._here = False
        self._pending: list[_Stretch] = []
        self._written: list[list[_Records]] = [[] for _ in workers]  # what each worker is still to write
        self._asked = -1  # the step that was asked for last
        self._answer: tuple[int, int | None] = -1, None

    def after(self, number: int, time_ps: int) -> tuple[int, int]:
        """As `run`. All workers ask at the end of a step; the first one that does decides."""
        if number != self._asked:
            self._asked = number
            self._answer = self.run(number, time_ps) if self._resident() else (number, None)
        after, after_ps = self._answer
        return after, time_ps if after_ps is None else after_ps

    def write(self, rank: int) -> None:
        """Write the records of a worker, whose own ones of the steps before are written."""
        worker = self._workers[rank]
        for numbers, active, items, waited_ps in self._written[rank]:
            for prefill, counters in enumerate(worker.layer_counts):
                for layer, hits in enumerate(active[numbers["prefill"] == prefill].sum(axis=0).tolist()):
                    counters[layer][0] += hits
            worker.busy_ps += int(numbers["busy_ps"].sum())
            if self._keep_steps:
                worker.records.extend(len(active), numbers, items, {"waited_ps": waited_ps})
            else:
                self._add_sums(worker, numbers, waited_ps)
        self._written[rank].clear()

    def _resident(self) -> bool:
        """Whether all experts are where they belong; none will leave then."""
        if not self._here:
            both = zip(self._workers, self._owned, strict=True)
            slots = (worker.tier.slots[blob] for worker, blobs in both for blob in blobs)
            self._here = all(slot is RESIDENT or (slot is not None and slot.state == LANDED) for slot in slots)  # type: ignore[union-attr]
        return self._here

    def _keep(self, stretch: _Stretch) -> None:  # type: ignore[override]
        self._pending.append(stretch)

    def _decode(self, requests: list[Request], time_ps: int) -> _Stretch:
        steps = self._most(requests, time_ps)
        groups = self._by_group([(request, 1) for request in requests])
        dense, reached = [], []
        contexts_of = [[request.base + request.done + 1 for request, _ in own] for own in groups]
        for own, contexts in zip(groups, contexts_of, strict=True):
            dense.append(self._dense.decode(contexts, steps) if own else np.tile(self._dense.idle(), (steps, 1, 1)))
            rows = [_placed(request).touched[request.done : request.done + steps] for request, _ in own]
            reached.append(np.sum(rows, axis=0) if rows else np.zeros((steps, *self._layer_parts), dtype=np.int64))
        cells = np.concatenate([_placed(r).cells[r.done : r.done + steps] for r in requests], axis=1)
        size = self._where.size
        counts = counted(cells + np.arange(steps)[:, None] * size, steps * size).reshape(steps, *self._where.shape)
        tokens = [len(own) for own in groups]
        costs = self._costs(np.stack(dense, axis=1), counts, np.stack(reached, axis=2), tokens, tokens, True)
        span = self._decoded(requests, time_ps, time_ps + self._meetings.lasts_ps(costs).cumsum())
        counts = counts[: len(span.ends_ps)]
        pairs = counts.sum(axis=(0, 2, 3))
        return _Stretch(span, costs.first(len(span.ends_ps)), (counts > 0).sum(axis=3), pairs, contexts_of)

    def _mixed(self, parts: Parts, decoding: list[Request], time_ps: int) -> _Stretch | None:
        chunks = [(request, tokens) for request, tokens in parts if request.done < request.fresh]
        if decoding and any(tokens == 1 for _, tokens in chunks):
            return None  # a chunk of one token would share a launch with those that decode
        groups = self._by_group(parts)
        dense = np.stack([self._dense_of(own) for own in groups])
        counts = sum(_placed(request).counts(request.done, request.done + tokens) for request, tokens in parts)
        reached = np.zeros((len(groups), *self._layer_parts), dtype=np.int64)
        for group, own in enumerate(groups):
            for request, tokens in own:
                reached[group] += _placed(request).reached(request.done, request.done + tokens)
        each = [sum([tokens for _, tokens in own]) for own in groups]
        sampled = [_sampled(own) for own in groups]
        assert isinstance(counts, np.ndarray)
        costs = self._costs(dense[None], counts[None], reached.transpose(1, 0, 2)[None], each, sampled, False)
        span = self._one(parts, time_ps, time_ps + int(self._meetings.lasts_ps(costs)[0]))
        for place, worker in zip(self._ranks.places, self._workers, strict=True):
            if own := groups[place.group]:
                worker.processed.mixed(*_tokens_of(own), each[place.group], sampled[place.group])
        return _Stretch(span, costs, (counts > 0).sum(axis=2)[None], counts.sum(axis=(1, 2)), [])

    @property
    def _layer_parts(self) -> tuple[int, int]:
        parts, layers, _ = self._where.shape
        return layers, parts

    def _by_group(self, parts: Parts) -> list[Parts]:
        """Requests of each attention group, and their tokens."""
        groups: list[Parts] = [[] for _ in range(self._ranks.groups)]
        for request, tokens in parts:
            groups[request.worker].append((request, tokens))
        return groups

    def _dense_of(self, own: Parts) -> np.ndarray:
        """Of a group in a step with chunks of prompts, [D, 3]."""
        contexts, prompts = _tokens_of(own)
        if prompts:
            return self._dense.mixed(contexts, prompts, _sampled(own))
        found: np.ndarray = self._dense.decode(contexts, 1)[0] if contexts else self._dense.idle()
        return found

    def _costs(
        self,
        dense: np.ndarray,
        counts: np.ndarray,
        reached: np.ndarray,
        tokens: list[int],
        sampled: list[int],
        decode: bool,
    ) -> Costs:
        """From dense costs [S, G, D, 3], tokens that each expert serves [S, P, L, slots], those of a group with experts
        of a part [S, L, G, P], and each group's tokens and those of which logits are wanted."""
        times = self._times
        sums = np.outer([times.reduce_ps(count) for count in tokens], times.reductions)
        sums[:, -1] += [times.gather_ps(wanted) for wanted in sampled]
        steps, layers = reached.shape[:2]
        if self._exchanging:
            sizes = busiest_bytes(self._ranks, reached, self._hidden_bytes)
            out, back = (times.exchanges_ps(sizes, phase, decode) for phase in ("dispatch", "combine"))
        else:
            out = np.zeros((steps, layers), dtype=np.int64)
            back = np.full((steps, layers), times.join_ps(tokens[0]))
        return Costs(dense, np.broadcast_to(sums, (steps, *sums.shape)), out, self._experts.launches(counts), back)

    def _flush(self, number: int) -> None:
        pending = self._pending
        if not pending:
            return
        spans = [stretch.span for stretch in pending]
        numbers, items = columns(spans, number), lists(spans)
        active = np.concatenate([stretch.active for stretch in pending])
        costs = Costs.together([stretch.costs for stretch in pending])
        busy_ps, causes_ps = self._meetings.busy_ps(costs), self._meetings.causes_ps(costs)
        for rank, place in enumerate(self._ranks.places):
            names = (*self._workers[rank].path.names, collectives.CATEGORY, collectives.MESSAGES)
            own = active[:, place.part]
            mine = {**numbers, "hits": own.sum(axis=1), "busy_ps": busy_ps[:, rank]}
            waited_ps = dict(zip(names, causes_ps[:, rank].T, strict=True))
            self._written[rank].append((mine, own, items, waited_ps))
            self._workers[rank].processed.repeated([stretch.of(place.group, place.part) for stretch in pending])
        self._pending = []


def _tokens_of(own: Parts) -> tuple[list[int], tuple[tuple[int, int], ...]]:
    """Contexts of the requests that decode, and (new tokens, context) of the chunks of prompts."""
    contexts = [request.context_after(1) for request, _ in own if request.done >= request.fresh]
    return contexts, tuple([(n, request.context_after(n)) for request, n in own if request.done < request.fresh])


def _placed(request: Request) -> Placed:
    assert isinstance(request.prepared, Placed)
    return request.prepared


def _sampled(parts: Parts) -> int:
    """Of how many requests logits are wanted."""
    return sum([request.done + tokens >= request.fresh for request, tokens in parts])
