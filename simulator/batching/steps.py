"""From what a scheduler chose to a step: its experts, guesses and dense costs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.batching.request import Request
from simulator.binding import rows_of
from simulator.plan import BLOCK_TOKENS, Block, Group, Plan, Step, joint_guesses, union
from traces import RequestTrace

AHEAD_STEPS = 32  # whose dense costs are tabulated together while the same requests decode


class StepMaker:
    """Makes the steps of a run whose requests come and go. A step of requests that all decode is as in a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.ahead_steps = AHEAD_STEPS
        self._offsets = np.arange(plan.layers, dtype=np.int64)[None, :, None] * plan.experts
        self._blocks: dict[int, tuple[Block, tuple[tuple[int, int], ...]]] = {}
        """Instance -> its last block of decode steps, and of whom: requests, and where they were at its first step."""

    def step(self, parts: Sequence[tuple[Request, int]], batch: int, last: bool) -> Step:
        """The step in which so many tokens of each request are processed."""
        for request, _ in parts:
            self.bind(request)
        if all(request.done >= request.fresh for request, _ in parts):
            return self._decode([request for request, _ in parts], batch, last)
        return self._mixed(parts, batch, last)

    def forget(self, request: Request) -> None:
        """A request has ended."""
        self._plan.forget(request.prompt)
        self._plan.forget(request.decode)
        request.prompt = request.decode = request.guesses = request.prepared = None
        request.blobs = []

    def bind(self, request: Request) -> None:
        """Read a request's rows."""
        if not request.bound:
            request.prompt, request.decode = self._plan.bound(request.served)
            request.bound = True

    def ahead(self, request: Request) -> np.ndarray:
        """Experts of the tokens of a request that could run next, [tokens, layers, top_k]: what is left of its
        prompt (or of a lost KV cache), or one decoded token."""
        self.bind(request)
        spans = _spans(request, request.done, request.done + (request.prompt_left or 1))
        return np.concatenate([rows.experts[span] for rows, span in spans])

    def _decode(self, requests: list[Request], batch: int, last: bool) -> Step:
        rows = [self._decode_row(request) for request in requests]
        block, row = self._decode_block(requests)
        if len(requests) == 1:
            request, at = requests[0], rows[0] % BLOCK_TOKENS
            groups: list[Group] = [([blob for blob in layer if blob >= 0], None) for layer in request.blobs[at]]
        else:
            each = [request.blobs[at % BLOCK_TOKENS] for request, at in zip(requests, rows, strict=True)]
            groups = [union(layers) for layers in zip(*each, strict=True)]
        named = [found for r, at in zip(requests, rows, strict=True) if (found := _guessed(r, at)) is not None]
        guesses, scores = named[0] if len(named) == len(requests) == 1 else joint_guesses(named)
        decodes = [_part(request.decode) for request in requests]
        return Step(
            batch=batch,
            prefill=False,
            tokens=len(requests),
            requests=[request.id for request in requests],
            kv_tokens=block.kv_tokens[row],
            groups=groups,
            guesses=guesses,
            row=row,
            block=block,
            rows=[rows_.experts[at : at + 1] for rows_, at in zip(decodes, rows, strict=True)],
            last=last,
            scores=scores,
            weights=self._carried("weights", decodes, rows),
            probabilities=self._carried("probabilities", decodes, rows),
            lost=self._plan.lost_in(decodes, [slice(at, at + 1) for at in rows]),
        )

    def _decode_block(self, requests: list[Request]) -> tuple[Block, int]:
        """The block and row that tell the dense costs of a step."""
        first = requests[0]
        if first.instance in self._blocks:
            block, of = self._blocks[first.instance]
            row = first.done - of[0][1]
            if 0 <= row < len(block.kv_tokens) and of == tuple(
                (request.order, request.done - row) for request in requests
            ):
                return block, row
        ahead = min(self.ahead_steps, *(request.rows - request.done for request in requests))
        contexts = [[request.context_after(1 + n) for request in requests] for n in range(ahead)]
        workers = [request.worker for request in requests]
        instances = [request.instance for request in requests]
        block = Block(False, [[1] * len(requests)] * ahead, contexts, workers, instances=instances)
        self._blocks[first.instance] = block, tuple((request.order, request.done) for request in requests)
        return block, 0

    def _mixed(self, parts: Sequence[tuple[Request, int]], batch: int, last: bool) -> Step:
        experts: list[np.ndarray] = []
        prompts: list[RequestTrace] = []
        following: list[np.ndarray | None] = []
        beside = []
        pieces: list[tuple[RequestTrace, slice]] = []  # prompts may have two: a lost KV cache is computed again
        prompt_tokens = 0
        for request, tokens in parts:
            if request.done >= request.fresh:
                at = self._decode_row(request)
                spans = [(_part(request.decode), slice(at, at + 1))]
                if (found := _guessed(request, at)) is not None:
                    beside.append(found)
            else:
                prompt_tokens += tokens
                spans = _spans(request, request.done, request.done + tokens)
                after = _spans(request, request.done + tokens, min(request.done + tokens + 1, request.rows))
                prompts += [rows_of(*span) for span in spans]
                following += [None] * (len(spans) - 1)
                following.append(after[0][0].experts[after[0][1]] if after else None)
            experts.append(np.concatenate([rows.experts[span] for rows, span in spans]))
            pieces += spans
        samples = [int(request.done + tokens >= request.fresh) for request, tokens in parts]
        block = Block(
            True,
            [[tokens for _, tokens in parts]],
            [[request.context_after(tokens) for request, tokens in parts]],
            [request.worker for request, _ in parts],
            mixed=any(request.done >= request.fresh for request, _ in parts),
            samples=None if all(samples) else [samples],
            instances=[request.instance for request, _ in parts],
        )
        guesses, scores = self._plan.merged_guesses(prompts, following, beside)
        return Step(
            batch=batch,
            prefill=True,
            tokens=sum(block.request_tokens[0]),
            requests=[request.id for request, _ in parts],
            kv_tokens=block.kv_tokens[0],
            groups=self._plan.merge(np.concatenate(experts)),
            guesses=guesses,
            row=0,
            block=block,
            rows=experts,
            last=last,
            scores=scores,
            weights=_several(self._plan, "weights", pieces),
            probabilities=_several(self._plan, "probabilities", pieces),
            lost=self._plan.lost_in([rows for rows, _ in pieces], [span for _, span in pieces]),
            prompt_tokens=prompt_tokens,
        )

    def _decode_row(self, request: Request) -> int:
        """Which of its decode rows is next; its experts as lists, and its guesses, are at hand from here on."""
        row = request.done - request.prompt_rows
        chunk = row // BLOCK_TOKENS
        if request.chunk != chunk:
            decode = _part(request.decode)
            start, stop = chunk * BLOCK_TOKENS, min((chunk + 1) * BLOCK_TOKENS, decode.tokens)
            experts = decode.experts[start:stop]
            request.blobs = np.where(experts >= 0, experts + self._offsets, -1).tolist()
            request.guesses = self._plan.guesses(decode, start, stop)
            request.chunk = chunk
        return row

    def _carried(self, part: str, decodes: list[RequestTrace], rows: list[int]) -> list[np.ndarray] | None:
        return _several(self._plan, part, [(d, slice(at, at + 1)) for d, at in zip(decodes, rows, strict=True)])


def _several(plan: Plan, part: str, pieces: list[tuple[RequestTrace, slice]]) -> list[np.ndarray] | None:
    """A part of the router's output for rows of several requests, as `Plan.carried`."""
    found = [plan.carried(part, [rows], span) for rows, span in pieces]
    return None if any(arrays is None for arrays in found) else [arrays[0] for arrays in found]  # type: ignore[index]


def _guessed(request: Request, row: int) -> tuple[list[list[int]], list[list[float]] | None] | None:
    """What the prediction names at a decode row, blobs and scores by layer."""
    if request.guesses is None:
        return None
    blobs, scores = request.guesses
    at = row % BLOCK_TOKENS
    return blobs[at], None if scores is None else scores[at]


def _spans(request: Request, start: int, stop: int) -> list[tuple[RequestTrace, slice]]:
    """Rows `start` to `stop` of a request, counted from the first of its prompt."""
    border = request.prompt_rows
    spans = []
    if start < min(stop, border):
        spans.append((_part(request.prompt), slice(start, min(stop, border))))
    if max(start, border) < stop:
        spans.append((_part(request.decode), slice(max(start, border) - border, stop - border)))
    return spans


def _part(rows: RequestTrace | None) -> RequestTrace:
    assert rows is not None
    return rows
