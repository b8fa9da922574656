"""From requests to steps: what each forward pass processes and which experts it asks for.

A *step* is one forward pass over a batch: a prefill (all prompt tokens) or a decode (one token per
request). For every routed layer it holds a *group*: the distinct blobs asked for and how many
tokens each serves. A group is ordered by the last occurrence of each expert in the step's
(token, slot) sequence, so that recency within a step is what streaming the tokens would give; for
one decoded token that is the order of the slots.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from simulator.binding import Binding, rows_of
from simulator.routing import lost_weight
from simulator.served import PlanError, Served, served_requests
from traces import RequestTrace, Trace

if TYPE_CHECKING:
    from simulator.pools.portion import Portion
    from simulator.tenants.identity import Identity

BLOCK_TOKENS = 128
Group = tuple[list[int], list[int] | None]  # blobs, tokens of each (None: one token each)
Forecast = Callable[[RequestTrace, np.ndarray], "np.ndarray | tuple[np.ndarray, np.ndarray] | None"]
Rewrite = Callable[[RequestTrace], tuple[np.ndarray, np.ndarray]]


@dataclass(frozen=True)
class Workload:
    """Which requests are served, and how they are grouped.

    requests: how many, in file order (None: all); first_request: where to begin; batch_size:
    requests that run in lock-step; max_decode_tokens: cut each request (None: as recorded);
    warmup_requests: served first, left out of the metrics; synthetic_prefill: give requests whose
    prompt was not recorded a prefill drawn from their own decode rows; binding: what a request does that
    outlasts its recorded routing, exact (refused), cycle, resample or synthesise; decode_tokens: of every
    request (None: as recorded); prompt_tokens: context length before every request's first decoded token
    (None: as recorded); tasks: serve only requests of these labels (None: all); file: a request list, CSV or
    Parquet, or the YAML of one's specification, instead of the requests of the trace in order; slo_ttft_s: seconds
    that a request may take from its arrival to its first token (None: any); slo_tpot_s: and on average for each token
    after it (None: any); rate_per_s: at which the list's requests that are served come, their times stretched
    to it (None: as the list says).
    """

    requests: int | None = None
    first_request: int = 0
    batch_size: int = 1
    max_decode_tokens: int | None = None
    warmup_requests: int = 0
    synthetic_prefill: bool = False
    binding: str = "exact"
    decode_tokens: int | None = None
    prompt_tokens: int | None = None
    tasks: list[str] | None = None
    file: str | None = None
    slo_ttft_s: float | None = None
    slo_tpot_s: float | None = None
    rate_per_s: float | None = None


@dataclass(slots=True)
class Step:
    """One forward pass. kv_tokens: context length of each request after the step; groups: per routed layer.

    guesses: blobs expected after each layer, with `scores` beside them if the predictor gives any; rows, weights,
    probabilities: what the router said to each request, [tokens, layers, top_k or experts] (the last two None
    unless the plan carries them); lost: gate weight that a rewriting of the routing dropped and substituted,
    summed over tokens, [layers, 2]; prompt_tokens: of `tokens`, those of prompts; `prefill` means there are some;
    swaps: (worker, whether to the host, bytes) of KV cache that are copied before the step begins; moved: (worker,
    bytes) of KV cache that are copied within the worker's memory.
    """

    batch: int
    prefill: bool
    tokens: int
    requests: list[int]
    kv_tokens: list[int]
    groups: list[Group]
    guesses: list[list[int]] | None
    row: int  # index into the batch's cost block, see `Block`
    block: Block
    rows: list[np.ndarray] = field(default_factory=list)  # experts [tokens, layers, top_k] per request
    last: bool = False  # the last step of its batch
    scores: list[list[float]] | None = None
    weights: list[np.ndarray] | None = None
    probabilities: list[np.ndarray] | None = None
    lost: np.ndarray | None = None
    prompt_tokens: int = 0
    swaps: Sequence[tuple[int, bool, int]] = ()
    moved: Sequence[tuple[int, int]] = ()


@dataclass(slots=True)
class Block:
    """Steps whose dense costs are tabulated together.

    mixed: requests of one new token and of several stand side by side, so that their attention is two launches;
    samples: per step, 1 for each request whose logits are wanted, else 0 (None: of all); instances: that each request
    asks, where there are several.
    """

    prefill: bool
    request_tokens: list[list[int]]  # per step, new tokens of each request
    kv_tokens: list[list[int]]  # per step, context length of each request after it
    slots: list[int] = field(default_factory=list)  # place of each request in its batch, the same for all steps
    mixed: bool = False
    samples: list[list[int]] | None = None
    instances: list[int] = field(default_factory=list)


class Plan:
    """The steps of a workload over a trace, in order; iterating twice gives the same steps.

    `guess(rows, following)` is a predictor's hook (see policies/prediction/base.py): it turns the
    routing of consecutive tokens into blobs to fetch after each layer. `rewrite(request)` is a gating policy's
    (policies/gating/base.py); predictors see its routing. `carry` names what else of the router the steps hold:
    "weights", "probabilities". With an `identity` requests are of several instances, and experts are places in a
    layer's pool of all of them. With a `portion` it is those requests and that phase alone, which run as they would
    among all.

    >>> from traces import data_path, open_trace
    >>> trace = open_trace(data_path("gpt_oss_20b.parquet"))
    >>> plan = Plan(trace, Workload(requests=1, max_decode_tokens=2))
    >>> for step in plan:  # the context length after it, and the experts asked for in the first layer
    ...     print(step.kv_tokens, step.groups[0][0])
    [127] [31, 21, 22, 6]
    [128] [4, 5, 3, 9]
    """

    def __init__(
        self,
        trace: Trace,
        workload: Workload,
        seed: np.random.SeedSequence | None = None,
        guess: Forecast | None = None,
        rewrite: Rewrite | None = None,
        carry: Collection[str] = (),
        identity: Identity | None = None,
        portion: Portion | None = None,
    ) -> None:
        self.trace = trace
        self.portion = portion
        self._rewrite = rewrite
        self._carry = carry
        self._lost: dict[int, np.ndarray] = {}  # of the batch: id of a request's routing -> [tokens, layers, 2]
        self.workload = workload
        self.layers = len(trace.meta.layers)
        self._identity = identity
        self.experts = trace.meta.num_experts if identity is None else identity.pool
        self._guess = guess
        self._seed = seed or np.random.SeedSequence(0)
        self._offsets = np.arange(self.layers, dtype=np.int64)[None, :, None] * self.experts
        if workload.batch_size < 1:
            raise PlanError(f"workload.batch_size is {workload.batch_size}; expected at least 1.")
        if workload.requests is not None and workload.requests < 1:
            raise PlanError(f"workload.requests is {workload.requests}; expected at least 1 or null for all.")
        if workload.max_decode_tokens is not None and workload.max_decode_tokens < 1:
            raise PlanError(f"workload.max_decode_tokens is {workload.max_decode_tokens}; expected at least 1 or null.")
        entropy = self._seed.entropy
        self.served, self.listed = served_requests(trace, workload, entropy if isinstance(entropy, int) else 0)
        if identity is not None:
            self.served = identity.dealt(self.served, self.listed)
        self.known = [request.index for request in self.served]  # of the trace, whoever serves them
        if not 0 <= workload.warmup_requests < len(self.known):
            raise PlanError(
                f"workload.warmup_requests is {workload.warmup_requests}; expected fewer than the"
                f" {len(self.known)} requests that are served."
            )
        self._binding = Binding(workload.binding, trace, self.served, self._seed, workload.synthetic_prefill)
        if portion is not None:
            self.served = portion.of(self.served)
        self.indices = [request.index for request in self.served]

    def training(self, pooled: bool = True) -> Iterator[RequestTrace]:
        """The requests of the trace that are not served, of the instances in turn; `pooled`: by places in the pool."""
        served = set(self.known)
        for index in range(len(self.trace)):
            if index not in served:
                request = self.trace.request(index)
                yield self._pooled(request, index % self._identity.instances) if self._identity and pooled else request

    def context_limits(self) -> list[list[int]]:
        """Per batch, the context length in tokens that each request reaches (for KV-cache room)."""
        return [[request.prompt_tokens + request.decode_tokens for request in batch] for batch in self._batches()]

    @property
    def source(self) -> str:
        """Where its requests are from, in words."""
        return "the trace" if self.listed is None else str(self.workload.file)

    @property
    def tokens(self) -> int:
        """Tokens that are processed in all steps, each with routing."""
        return sum(request.tokens(self.workload.synthetic_prefill)[0] for request in self.served)

    def _batches(self) -> list[list[Served]]:
        size = self.workload.batch_size
        return [self.served[i : i + size] for i in range(0, len(self.served), size)]

    def __iter__(self) -> Iterator[Step]:
        for number, batch in enumerate(self._batches()):
            yield from self._batch_steps(number, batch)

    def groups(self) -> Iterator[list[int]]:
        """The blobs of every (step, layer), in order."""
        for step in self:
            for blobs, _ in step.groups:
                yield blobs

    def _batch_steps(self, number: int, batch: list[Served]) -> Iterator[Step]:
        prompts: list[RequestTrace] = []
        decodes: list[RequestTrace] = []
        slots: dict[int, int] = {}
        self._lost.clear()
        for slot, served in enumerate(batch):
            slots[served.id] = slot
            prompt, decode = self.bound(served)
            if prompt is not None and not (self.portion is not None and self.portion.decodes):
                prompts.append(prompt)
            if decode is not None:
                decodes.append(decode)
        longest = max((len(decode.positions) for decode in decodes), default=0)
        if prompts:
            step = self._prefill(number, prompts, decodes, slots)
            step.last = longest == 0
            yield step
        if decodes:
            yield from self._decode(number, decodes, slots)

    def _prefill(
        self, number: int, prompts: list[RequestTrace], decodes: list[RequestTrace], slots: dict[int, int]
    ) -> Step:
        rows = [prompt.experts for prompt in prompts]
        contexts = [int(prompt.positions[-1]) + 1 for prompt in prompts]
        block = Block(True, [[len(r) for r in rows]], [contexts], [slots[prompt.id] for prompt in prompts])
        guesses, scores = self.merged_guesses(prompts, [_first_decode(prompt, decodes) for prompt in prompts])
        return Step(
            batch=number,
            prefill=True,
            tokens=sum(block.request_tokens[0]),
            requests=[prompt.id for prompt in prompts],
            kv_tokens=block.kv_tokens[0],
            groups=self.merge(np.concatenate(rows)),
            guesses=guesses,
            scores=scores,
            row=0,
            block=block,
            rows=rows,
            weights=self.carried("weights", prompts, slice(None)),
            probabilities=self.carried("probabilities", prompts, slice(None)),
            lost=self.lost_in(prompts, slice(None)),
            prompt_tokens=sum(block.request_tokens[0]),
        )

    def _decode(self, number: int, requests: list[RequestTrace], slots: dict[int, int]) -> Iterator[Step]:
        """Decode in lock-step, in blocks of steps over which the same requests run."""
        lengths = sorted({request.tokens for request in requests})
        start = 0
        while start < lengths[-1]:
            stop = min(start + BLOCK_TOKENS, next(length for length in lengths if length > start))
            running = [request for request in requests if request.tokens > start]
            yield from self._decode_block(number, running, start, stop, stop == lengths[-1], slots)
            start = stop

    def _decode_block(
        self,
        number: int,
        running: list[RequestTrace],
        start: int,
        stop: int,
        final: bool,
        slots: dict[int, int],
    ) -> Iterator[Step]:
        experts = np.stack([request.experts[start:stop] for request in running])  # [requests, steps, layers, top_k]
        blobs = np.where(experts >= 0, experts + self._offsets, -1).tolist()
        complete = not (experts < 0).any()
        guesses = [self.guesses(request, start, stop) for request in running]
        contexts = np.stack([request.positions[start:stop] + 1 for request in running], axis=1).tolist()
        ids = [request.id for request in running]
        block = Block(False, [[1] * len(running)] * (stop - start), contexts, [slots[i] for i in ids])
        alone = len(running) == 1
        for row in range(stop - start):
            scored: list[list[float]] | None = None
            if alone:
                groups: list[Group] = [
                    (layer if complete else [blob for blob in layer if blob >= 0], None) for layer in blobs[0][row]
                ]
                guessed = guesses[0][0][row] if guesses[0] is not None else None
                if guesses[0] is not None and guesses[0][1] is not None:
                    scored = guesses[0][1][row]
            else:
                groups = [union(layers) for layers in zip(*(request[row] for request in blobs), strict=True)]
                named = [(g[0][row], None if g[1] is None else g[1][row]) for g in guesses if g is not None]
                guessed, scored = joint_guesses(named)
            yield Step(
                batch=number,
                prefill=False,
                tokens=len(running),
                requests=ids,
                kv_tokens=contexts[row],
                groups=groups,
                guesses=guessed,
                row=row,
                block=block,
                rows=list(experts[:, row : row + 1]),
                last=final and row == stop - start - 1,
                scores=scored,
                weights=self.carried("weights", running, slice(start + row, start + row + 1)),
                probabilities=self.carried("probabilities", running, slice(start + row, start + row + 1)),
                lost=self.lost_in(running, slice(start + row, start + row + 1)),
            )

    def bound(self, served: Served) -> tuple[RequestTrace | None, RequestTrace | None]:
        """The rows of a request's prompt and of its decoding as they will run, None where there are none."""
        prompt, decode = self._binding.request(served)
        return self._rewritten(prompt, served.instance), self._rewritten(decode, served.instance)

    def forget(self, request: RequestTrace | None) -> None:
        """Rows of `bound` are done with."""
        self._lost.pop(id(request), None)

    @property
    def repeats(self) -> bool:
        """Whether requests of equal lengths that follow the same one of the trace have the same rows."""
        drawn = self.workload.binding in ("resample", "synthesise") or self.workload.synthetic_prefill
        return not drawn and self._rewrite is None

    def merge(self, experts: np.ndarray) -> list[Group]:
        """Groups of a prefill: experts [tokens, layers, top_k]."""
        groups: list[Group] = []
        for layer in range(self.layers):
            ids = experts[:, layer, :].ravel()
            ids = ids[ids >= 0]
            unique, position, counts = np.unique(ids[::-1], return_index=True, return_counts=True)
            order = np.argsort(-position, kind="stable")
            groups.append(((unique[order] + layer * self.experts).tolist(), counts[order].tolist()))
        return groups

    def _pooled(self, request: RequestTrace, instance: int) -> RequestTrace:
        return request if self._identity is None else self._identity.rows(request, instance)

    def _rewritten(self, request: RequestTrace | None, instance: int) -> RequestTrace | None:
        """A request with the routing that a gating policy makes of it."""
        if request is None or self._rewrite is None:
            return request if request is None else self._pooled(request, instance)
        experts, weights = self._rewrite(request)
        most = self.trace.meta.num_experts
        if experts.shape != request.experts.shape or not ((experts >= -1) & (experts < most)).all():
            raise PlanError(
                f"policy/gating rewrote routing {request.experts.shape} to {experts.shape}; expected the same shape,"
                f" and experts from 0 to {most - 1}, or -1."
            )
        before = request.weights if request.weights is not None else np.zeros(experts.shape)
        lost = np.stack(lost_weight(request.experts, before, experts), axis=-1)
        made = replace(request, experts=experts.astype(np.int16), weights=weights.astype(np.float32))
        made = self._pooled(made, instance)
        self._lost[id(made)] = lost
        return made

    def lost_in(self, requests: Sequence[RequestTrace], rows: slice | Sequence[slice]) -> np.ndarray | None:
        """Gate weight lost by rewriting in these rows, of all requests or of each one's own, [layers, 2]."""
        if self._rewrite is None:
            return None
        each = [rows] * len(requests) if isinstance(rows, slice) else rows
        lost = [self._lost[id(request)][part].sum(axis=0) for request, part in zip(requests, each, strict=True)]
        return np.sum(lost, axis=0)

    def carried(self, part: str, requests: Sequence[RequestTrace], rows: slice) -> list[np.ndarray] | None:
        """Weights or probabilities of these rows of each request, if the plan carries them and the trace has them."""
        if part not in self._carry:
            return None
        arrays = [getattr(request, part) for request in requests]
        return None if any(array is None for array in arrays) else [array[rows] for array in arrays]

    def guesses(
        self, request: RequestTrace, start: int, stop: int
    ) -> tuple[list[list[list[int]]], list[list[list[float]]] | None] | None:
        """Blobs to fetch after each layer of each token, as lists [tokens][layers][...], and their scores."""
        if self._guess is None:
            return None
        rows = rows_of(request, slice(start, stop))
        following = request.experts[start + 1 : stop + 1]
        if len(following) < rows.tokens:
            following = np.concatenate([following, np.full_like(rows.experts[:1], -1)])
        guessed, scores = _scored(self._guess(rows, following))
        if guessed is None:
            return None
        lists: list[list[list[int]]] = guessed.tolist()
        marks: list[list[list[float]]] | None = None if scores is None else scores.tolist()
        if (guessed < 0).any():
            if marks is not None:
                marks = [
                    [
                        [mark for mark, blob in zip(*layer, strict=True) if blob >= 0]
                        for layer in zip(*token, strict=True)
                    ]
                    for token in zip(marks, lists, strict=True)
                ]
            lists = [[[blob for blob in layer if blob >= 0] for layer in token] for token in lists]
        return lists, marks

    def merged_guesses(
        self,
        requests: Sequence[RequestTrace],
        following: Sequence[np.ndarray | None],
        beside: Sequence[tuple[list[list[int]], list[list[float]] | None]] = (),
    ) -> tuple[list[list[int]] | None, list[list[float]] | None]:
        """Guesses of a prefill: those of the highest sum of scores first, without scores the most often named.

        `beside`: blobs and scores by layer of tokens that are decoded in the same step.
        """
        if self._guess is None:
            return None, None
        all_guesses, all_scores = [], []
        with_scores = any(scores is not None for _, scores in beside)
        for request, after in zip(requests, following, strict=True):
            follow = np.full_like(request.experts, -1)  # other tokens of the step run beside it, not after
            if after is not None:
                follow[-1:] = after
            guessed, scores = _scored(self._guess(request, follow))
            if guessed is None:
                return None, None
            all_guesses.append(guessed)
            all_scores.append(np.ones(guessed.shape) if scores is None else scores)
            with_scores = with_scores or scores is not None
        merged, sums = [], []
        for layer in range(self.layers):
            named = [guesses[:, layer, :].ravel() for guesses in all_guesses]
            marks = [scores[:, layer, :].ravel() for scores in all_scores]
            for blobs, scored in beside:
                named.append(np.array(blobs[layer], dtype=np.int64))
                marks.append(np.array(scored[layer] if scored is not None else [1.0] * len(blobs[layer])))
            ids, weights = np.concatenate(named), np.concatenate(marks)
            there = ids >= 0
            unique, position, where = np.unique(ids[there], return_index=True, return_inverse=True)
            total = np.bincount(where, weights=weights[there], minlength=len(unique))
            order = np.lexsort((position, -total))
            merged.append(unique[order].tolist())
            sums.append(total[order].tolist())
        return merged, sums if with_scores else None


def joint_guesses(
    named: Sequence[tuple[list[list[int]], list[list[float]] | None]],
) -> tuple[list[list[int]] | None, list[list[float]] | None]:
    """What the guesses of several tokens, blobs and scores by layer, say together."""
    marks = [scores for _, scores in named if scores is not None]
    if named and marks:
        layers = zip(zip(*(blobs for blobs, _ in named), strict=True), zip(*marks, strict=True), strict=True)
        pairs = [_best_scored(*both) for both in layers]
        return [blobs for blobs, _ in pairs], [scores for _, scores in pairs]
    if named:
        return [_most_named(rows) for rows in zip(*(blobs for blobs, _ in named), strict=True)], None
    return None, None


def union(rows: tuple[list[int], ...]) -> Group:
    """Distinct blobs of several tokens (-1: none) in order of last occurrence, and how many tokens each serves."""
    counts: dict[int, int] = {}
    for ids in reversed(rows):
        for blob in reversed(ids):
            counts[blob] = counts.get(blob, 0) + 1
    counts.pop(-1, None)
    blobs = list(reversed(counts))
    return blobs, [counts[blob] for blob in blobs]


def _most_named(rows: tuple[list[int], ...]) -> list[int]:
    """Blobs that several tokens' guesses name, the most often named first, then in order of mention."""
    counts: dict[int, int] = {}
    for ids in rows:
        for blob in ids:
            counts[blob] = counts.get(blob, 0) + 1
    return sorted(counts, key=lambda blob: -counts[blob])


def _scored(guess: Any) -> tuple[np.ndarray | None, np.ndarray | None]:
    """What a predictor returned, as blobs and scores."""
    return guess if isinstance(guess, tuple) else (guess, None)


def _best_scored(rows: tuple[list[int], ...], marks: tuple[list[float], ...]) -> tuple[list[int], list[float]]:
    """Blobs that several tokens' guesses name and the sums of their scores, the highest first."""
    totals: dict[int, float] = {}
    for ids, scores in zip(rows, marks, strict=True):
        for blob, score in zip(ids, scores, strict=True):
            totals[blob] = totals.get(blob, 0.0) + score
    order = sorted(totals, key=lambda blob: -totals[blob])
    return order, [totals[blob] for blob in order]


def _first_decode(prompt: RequestTrace, decodes: list[RequestTrace]) -> np.ndarray | None:
    """Routing of the token that follows a prompt, [1, layers, top_k]."""
    for request in decodes:
        if request.id == prompt.id:
            return request.experts[:1]
    return None
