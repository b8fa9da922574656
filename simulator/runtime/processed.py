"""What the dense part of a model was asked for, counted while a run goes on.

Work is a sum: attention over the requests of a step, the rest over its tokens, with the weights read once per step.
So it is enough to count, per phase, steps and tokens, and how many requests attended from so many new tokens to such a
context; the order does not matter, and steps that are simulated together are added together.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from simulator.batching.stretches import Stretch
    from simulator.engine import Transfer
    from simulator.model import ModelSpec
    from simulator.plan import Step
    from simulator.policies.pipeline.base import Task
    from simulator.runtime.shares import Shares

KEPT = 4096  # pairs of new tokens and context that are worked out together
Sums = dict[str, list[float]]  # dtype -> [operations, bytes]


class Processed:
    """Of one worker, by phase (0 decode, 1 steps with tokens of prompts).

    steps, tokens      with tokens of this worker's requests, and how many these were
    headed, sampled    steps with logits, and positions whose logits were wanted
    shared_tokens      tokens that experts served beyond the first of each step and layer
    expert_bytes       weights of the experts that were asked for, where they have several precisions
    host_bytes, host_tokens  weights and tokens of experts that ran on the host CPU
    near               unit near memory -> by phase weights, and by phase tokens, of experts that ran there

    `model` is what one GPU computes, `on_cpu` the model whose experts the host CPU does; `tasks` are kinds and layers
    of the worker's tasks in each step.
    """

    def __init__(self, shares: Shares, tasks: Sequence[Task]) -> None:
        self.model, self.on_cpu = shares.part, shares.on_cpu
        self.tasks = [(task.op, task.layer) for task in tasks]
        self.near: dict[str, tuple[list[int], list[int]]] = {}
        self.steps, self.tokens, self.headed, self.sampled = ([0, 0] for _ in range(4))
        self.shared_tokens, self.expert_bytes, self.host_bytes, self.host_tokens = ([0, 0] for _ in range(4))
        self._contexts: Counter[int] = Counter()  # of requests that decode one token, in steps without prompts
        self._pairs: Counter[tuple[int, int]] = Counter()  # (new tokens, context) in steps with prompts
        self._borders = np.zeros(0, dtype=np.int64)  # of contexts in steps taken together: +1 where one begins
        # phase -> (layer, the first of its kind; whether of requests with one new token) -> sums
        self._attention: list[dict[tuple[int, bool], Sums]] = [{}, {}]

    def step(self, step: Step, mine: list[int] | None) -> None:
        """One step; `mine` are the indices of the requests that this worker serves (None: all)."""
        block, row = step.block, step.row
        wanted = block.samples
        new, kv = block.request_tokens[row], block.kv_tokens[row]
        sampled = len(new) if wanted is None else sum(wanted[row])
        if mine is not None:
            here = [index for index in mine if index < len(new)]
            sampled = len(here) if wanted is None else sum(wanted[row][index] for index in here)
            new, kv = [new[index] for index in here], [kv[index] for index in here]
        if step.prefill:
            self._step(1, sum(new), sampled)
            self._add_pairs(zip(new, kv, strict=True))
        else:
            self._step(0, len(new), sampled)
            self._contexts.update(kv)

    def mixed(self, contexts: Iterable[int], prompts: Iterable[tuple[int, int]], tokens: int, sampled: int) -> None:
        """One step of requests that decode at these contexts beside (new tokens, context) of prompts."""
        self._step(1, tokens, sampled)
        self._add_pairs(prompts)
        self._add_pairs((1, context) for context in contexts)

    def repeated(self, stretches: Sequence[Stretch]) -> None:
        """Steps taken together: all that decode, and the experts of those with prompts too."""
        for stretch in stretches:
            span = stretch.span
            steps, phase = len(span.ends_ps), int(span.prompt_tokens > 0)
            self.shared_tokens[phase] += stretch.pairs - int(stretch.active.sum())
            if not phase and span.tokens:
                for numbers, count in ((self.steps, 1), (self.headed, 1), (self.tokens, span.tokens)):
                    numbers[0] += steps * count
                self.sampled[0] += steps * span.tokens
        decoding = [stretch.span for stretch in stretches if stretch.span.tokens and not stretch.span.prompt_tokens]
        if decoding:
            firsts = np.concatenate([span.contexts for span in decoding])
            lengths = [len(span.contexts) for span in decoding]
            ends = firsts + np.repeat([len(span.ends_ps) for span in decoding], lengths)
            size = max(int(ends.max()) + 1, len(self._borders))
            borders = np.bincount(firsts, minlength=size) - np.bincount(ends, minlength=size)
            borders[: len(self._borders)] += self._borders
            self._borders = borders

    def on_host(self, phase: int, works: Sequence[Transfer], tokens: dict[int, int]) -> None:
        """Experts of a layer that run on the host CPU."""
        self.host_bytes[phase] += sum([work.size_bytes for work in works])
        self.host_tokens[phase] += sum([tokens[work.blob] for work in works])

    def on_unit(self, phase: int, name: str, weights_bytes: int, tokens: int) -> None:
        """Experts of a layer that run on a unit near memory: the size of their weights, and what they serve."""
        weights, served = self.near.setdefault(name, ([0, 0], [0, 0]))
        weights[phase] += weights_bytes
        served[phase] += tokens

    def attention(self, phase: int, layer: int, single: bool) -> Sums:
        """Operations and bytes of the attention of a layer, the first of its kind, by dtype; of requests with one new
        token, or of the others."""
        self._settle()
        return self._attention[phase].get((layer, single), {})

    def _step(self, phase: int, tokens: int, sampled: int) -> None:
        if tokens:
            self.steps[phase] += 1
            self.tokens[phase] += tokens
        if sampled:
            self.headed[phase] += 1
            self.sampled[phase] += sampled

    def _add_pairs(self, pairs: Iterable[tuple[int, int]]) -> None:
        self._pairs.update(pairs)
        if len(self._pairs) > KEPT:
            self._settle()

    def _settle(self) -> None:
        """Turn what was counted into work."""
        contexts = np.zeros(max([len(self._borders), *(context + 1 for context in self._contexts)]), dtype=np.int64)
        contexts[: len(self._borders)] = np.cumsum(self._borders)
        for context, count in self._contexts.items():
            contexts[context] += count
        there = np.flatnonzero(contexts)
        if len(there):
            self._work(0, np.ones(len(there)), there.astype(np.float64), contexts[there])
        if self._pairs:
            new, kv = (np.array(column, dtype=np.float64) for column in zip(*self._pairs, strict=True))
            self._work(1, new, kv, np.array(list(self._pairs.values())))
        self._contexts, self._pairs = Counter(), Counter()
        self._borders = np.zeros(0, dtype=np.int64)

    def _work(self, phase: int, new: np.ndarray, kv: np.ndarray, times: np.ndarray) -> None:
        for single in (True, False):
            some = (new == 1) == single
            if some.any():
                self._add_work(phase, single, new[some], kv[some], times[some])

    def _add_work(self, phase: int, single: bool, new: np.ndarray, kv: np.ndarray, times: np.ndarray) -> None:
        for layer in kinds_of_layers(self.model):
            sums = self._attention[phase].setdefault((layer, single), {})
            for work in self.model.layer_dense_work(layer, new, kv):
                if work.kind == "attention":
                    total = sums.setdefault(work.dtype, [0.0, 0.0])
                    total[0] += float(work.flops @ times)
                    total[1] += float(work.size_bytes @ times)


def kinds_of_layers(model: ModelSpec) -> dict[int, int]:
    """The first layer of each kind, and how many there are of it."""
    moe, pattern = set(model.moe_layers), model.attention_pattern
    kinds = [(pattern[i % len(pattern)], i in moe, i < model.encoder_layers) for i in range(model.layers)]
    return dict(Counter(kinds.index(kind) for kind in kinds))
