"""Running ahead of steps: from one decision of the scheduler to the next, where nothing can happen in between.

The steps end where a request ends, where one arrives, or where the KV cache would be full. What they cost is said by
who holds the tables (`stretches.py` for one worker, `layout_stretches.py` for several).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from simulator.batching.batcher import Batcher, Parts
from simulator.batching.prepared import Preparer
from simulator.batching.request import Request

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

MOST_STEPS = 512  # at once
FLUSHED = 4096  # steps after which their records are written
Lists = dict[str, tuple[np.ndarray, np.ndarray]]  # items of all records, and how many each has


class Span(NamedTuple):
    """Steps of the same requests; times in ps."""

    batch: int
    prompt_tokens: int
    tokens: int
    requests: list[int]
    contexts: list[int]  # after the first step
    start_ps: int
    ends_ps: np.ndarray
    last: bool  # whether one of the requests ends with the last of these steps


class Stretch(Protocol):
    """Steps of the same requests, with what they cost."""

    @property
    def span(self) -> Span: ...


class RunAhead:
    """Takes steps from the batcher as long as `_decode` and `_mixed` can say what they cost.

    `flushed`: steps after which their records are written.
    """

    def __init__(self, batcher: Batcher, preparer: Preparer, keep_steps: bool, flushed: int = FLUSHED) -> None:
        self._batcher, self._preparer, self._keep_steps, self._flushed = batcher, preparer, keep_steps, flushed
        self._steps = 0  # that wait for their records
        self._step_ps = 0  # the last one took

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
            ends_ps = stretch.span.ends_ps
            steps = len(ends_ps)
            batcher.repeat(steps)
            self._keep(stretch)
            self._steps += steps
            number += steps
            time_ps = int(ends_ps[-1])
            if self._steps >= self._flushed:
                self._flush(number)
                self._steps = 0
        self._flush(number)
        self._steps = 0
        return number, time_ps

    def _keep(self, stretch: Stretch) -> None:
        """These steps run; their records are still to be written."""
        raise NotImplementedError

    def _decode(self, requests: list[Request], time_ps: int) -> Stretch:
        """Steps in which these requests decode."""
        raise NotImplementedError

    def _mixed(self, parts: Parts, decoding: list[Request], time_ps: int) -> Stretch | None:
        """One step with chunks of prompts."""
        raise NotImplementedError

    def _flush(self, number: int) -> None:
        """Write the records of the steps that were kept, the last of which has the number before this one."""
        raise NotImplementedError

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

    def _most(self, requests: list[Request], time_ps: int) -> int:
        """How many steps are worth looking at in which these requests decode."""
        steps = min(min([request.rows - request.done for request in requests]), MOST_STEPS)
        arrival_ps = self._batcher.arrivals.next_ps()
        if arrival_ps is not None and self._step_ps:
            steps = min(steps, (arrival_ps - time_ps) // self._step_ps + 2)
        return self._batcher.room(steps)

    def _decoded(self, requests: list[Request], time_ps: int, ends_ps: np.ndarray) -> Span:
        """Steps in which these requests decode, up to the next arrival."""
        steps, arrival_ps = len(ends_ps), self._batcher.arrivals.next_ps()
        if arrival_ps is not None and ends_ps[-1] >= arrival_ps:
            steps = int(ends_ps.searchsorted(arrival_ps)) + 1
        self._step_ps = max(1, (int(ends_ps[steps - 1]) - time_ps) // steps)
        return Span(
            batch=min([request.order for request in requests]),
            prompt_tokens=0,
            tokens=len(requests),
            requests=[request.id for request in requests],
            contexts=[request.base + request.done + 1 for request in requests],
            start_ps=time_ps,
            ends_ps=ends_ps[:steps],
            last=steps == min([request.rows - request.done for request in requests]),
        )

    def _one(self, parts: Parts, time_ps: int, end_ps: int) -> Span:
        """One step with chunks of prompts."""
        batch, last = self._batcher.batch_of(parts)
        return Span(
            batch=batch,
            prompt_tokens=sum([tokens for request, tokens in parts if request.done < request.fresh]),
            tokens=sum([tokens for _, tokens in parts]),
            requests=[request.id for request, _ in parts],
            contexts=[request.context_after(tokens) for request, tokens in parts],
            start_ps=time_ps,
            ends_ps=np.array([end_ps]),
            last=last,
        )

    def _add_sums(self, worker: Worker, numbers: dict[str, np.ndarray], waited_ps: dict[str, np.ndarray]) -> None:
        """One record for all steps of a kind: with or without prompts, of warm-up or not. It lasts as long as they."""
        warm = numbers["batch"] < self._batcher.plan.workload.warmup_requests
        kinds = 2 * warm + numbers["prefill"]
        lasted_ps = numbers["end_ps"] - numbers["start_ps"]
        for kind in np.unique(kinds):
            of_it = kinds == kind
            sums = {name: values[of_it].sum(keepdims=True) for name, values in numbers.items()}
            for name in ("number", "batch", "start_ps", "prefill", "last"):
                sums[name] = numbers[name][of_it][-1:]
            sums["end_ps"] = sums["start_ps"] + lasted_ps[of_it].sum()
            nothing = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
            waited = {name: ps[of_it].sum(keepdims=True) for name, ps in waited_ps.items()}
            lists = {"requests": nothing, "kv_tokens": nothing}
            worker.records.extend(1, sums, lists, {"waited_ps": waited})


def columns(spans: Sequence[Span], number: int) -> dict[str, np.ndarray]:
    """What records say of these steps whoever ran them, by column; `number` of the step after the last."""
    steps = np.array([len(span.ends_ps) for span in spans])
    ends_ps = np.concatenate([span.ends_ps for span in spans])
    last_steps = np.cumsum(steps) - 1
    starts_ps = np.append(0, ends_ps[:-1])
    starts_ps[last_steps - steps + 1] = [span.start_ps for span in spans]
    last = np.zeros(len(ends_ps), dtype=np.int64)
    last[last_steps] = [span.last for span in spans]
    prompt_tokens = np.repeat([span.prompt_tokens for span in spans], steps)
    return {
        "number": np.arange(number - len(ends_ps), number),
        "batch": np.repeat([span.batch for span in spans], steps),
        "prompt_tokens": prompt_tokens,
        "tokens": np.repeat([span.tokens for span in spans], steps),
        "start_ps": starts_ps,
        "end_ps": ends_ps,
        "last": last,
        "prefill": (prompt_tokens > 0).astype(np.int64),
    }


def lists(spans: Sequence[Span]) -> Lists:
    """Requests of each of these steps and their context lengths."""
    lengths = np.repeat([len(span.requests) for span in spans], [len(span.ends_ps) for span in spans])
    contexts = [(np.array(span.contexts) + np.arange(len(span.ends_ps))[:, None]).ravel() for span in spans]
    requests = np.concatenate([np.tile(span.requests, len(span.ends_ps)) for span in spans])
    return {"requests": (requests, lengths), "kv_tokens": (np.concatenate(contexts), lengths)}
