"""TTFT and TPOT of an engine that always serves the same number of requests (closed loop), in its steady state.

A rank has c requests under way. Each brings a prompt of `isl` tokens, processed in parts of at most the engine's budget
of tokens per step, and is then given `osl` tokens, one a step. In balance every step takes in as many prompt tokens as
leave:  p = isl · B / (osl − 1)  for B sequences that decode. In parts of  s = min(isl, free), or p if that is more
(free: what decoding leaves of the budget), prompts run in a share  f = p / s  of the steps. With d the time of a step
that only decodes and a what such a part adds to it (an engine that keeps prompts apart: the part's own step),

    TPOT = d + o · f · a      for prompts apart  d + o · f · a · (1 − burst),       o = (c − 1) / c
    TTFT = before + own + o · waits · min(2 f, 1) · (d + a) + burst · (c − 1) · a · isl / s

before: request_s and the launches of a prompt's step, which no CUDA graph replays; own: the steps of the prompt's own
parts. Requests that begin together and answer at equal length finish together, and their successors come together and
queue: a request waits for the prompts of a share `burst` of the others (1/2: all keep in step; 0: evenly spread), and
for `waits` steps of others. Prompts that run apart and together delay no sequence that decodes; o: nobody's own prompt
delays their own answer.

A step that verifies guesses ahead (drafts) decodes 1 + drafts tokens a sequence and yields `accepted` of them: d is
that of so many tokens, requests stay (osl − 1) / accepted steps, and TPOT is divided by `accepted`.

At f = 1 prompts wait for their turn and fewer sequences decode: B = budget / (1 + isl / (osl − 1)). An engine admits
only as many requests as have room for their whole cache. Whoever is not admitted waits, as long as Little's law says.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor

import numpy as np

from simulator.serving.step_cost import StepCost

ROUNDS = 4  # of the fixed point of sequences that decode and time that they spend before


@dataclass(frozen=True)
class Load:
    """What a rank serves: requests under way, prompt and answer lengths in tokens."""

    requests: float
    isl: float
    osl: float


@dataclass(frozen=True)
class Framework:
    """What an engine makes of its kernels, and how it schedules.

    decode, prompt   factors on the kernels of steps that decode, and of prompts' tokens
    step_s           of each step: scheduler, sampling
    sequence_s       for each decoding sequence of a step
    request_s        of each request before its first token: network, tokeniser, queue
    launch_s         of each kernel of the step in which a prompt ends, launched by the host
    waits, burst     see the module
    budget           prompt and decode tokens of a step, at most
    apart            prompts have steps of their own
    drafts, accepted tokens of each sequence that a step verifies beside the next one, guessed by as many passes of a
                     layer like the model's; tokens that a step yields in the mean, the next one included
    """

    decode: float = 1.0
    prompt: float = 1.0
    step_s: float = 0.0
    sequence_s: float = 0.0
    request_s: float = 0.0
    launch_s: float = 0.0
    waits: float = 1.0
    burst: float = 0.1
    budget: float = 8192.0
    apart: bool = False
    drafts: float = 0.0
    accepted: float = 1.0


@dataclass(frozen=True)
class Answer:
    """Seconds to the first token and of each further token; sequences that decode; share of steps with prompts."""

    ttft_s: float
    tpot_s: float
    decoding: float
    share: float


class RequestCost:
    """Kernels of steps for requests of given lengths on one rank, read from small tables; the engine comes later."""

    def __init__(self, cost: StepCost, isl: float, osl: float, budget: float) -> None:
        self.layers, self.launches, self.isl = cost.part.layers, cost.launches, isl
        self.room = cost.room(isl + osl)
        self.weight_bytes, self.memory_bytes = cost.layout.weight_bytes(cost.whole), cost.sheet.memory_capacity_bytes
        self._cost = cost
        self._grid = np.logspace(0.0, 12.0, 13, base=2.0)
        self._decode_s = cost.decode_s(self._grid, np.full(len(self._grid), isl + osl / 2))
        ends = np.unique(np.r_[np.arange(budget, isl, budget), isl])
        self._prompt_s = float(cost.prefill_s(np.diff(np.r_[0.0, ends]), ends).sum())

    @property
    def cache_s(self) -> float:
        """Moving a prompt's cache to this rank over its NIC."""
        return self._cost.part.kv_bytes(int(self.isl)) / self._cost.sheet.node_bytes_per_s

    def plain_s(self, sequences: float, engine: Framework) -> float:
        """A step in which so many sequences decode and no prompt runs, with all that the engine adds."""
        return engine.decode * self.decode_s(sequences, engine.drafts) + engine.step_s + engine.sequence_s * sequences

    def decode_s(self, sequences: float, drafts: float = 0.0) -> float:
        """A step in which so many sequences decode; each verifies `drafts` guesses, which a layer's passes made."""
        tokens = np.array([max(sequences, 1.0)])
        attention = np.interp(tokens[0], self._grid, self._decode_s) * max(tokens[0] / self._grid[-1], 1.0)
        total = self._linear_s(tokens[0] * (1.0 + drafts), tokens[0] * (1.0 + drafts)) + attention
        if drafts:
            layer = (self._cost.tokens_s(tokens)[0] + attention) / self.layers
            total += drafts * (layer + self._cost.head_s(tokens)[0])
        return float(total)

    def prompt_s(self, sequences: float, tokens: float) -> float:
        """What `tokens` of prompts add to a step in which so many sequences decode; 0: a step of their own."""
        with_prompts = self._linear_s(sequences + tokens, sequences + tokens / self.isl)
        return with_prompts - self._linear_s(sequences, sequences) + self._prompt_s * tokens / self.isl

    def _linear_s(self, tokens: float, rows: float) -> float:
        return float(self._cost.tokens_s(np.array([tokens]))[0] + self._cost.head_s(np.array([rows]))[0])


def answer(cost: RequestCost, load: Load, engine: Framework) -> Answer:
    """The steady state; see the module."""
    steps, isl = max(load.osl - 1.0, 1.0) / engine.accepted, load.isl
    admitted = max(min(load.requests, float(floor(cost.room))), 1.0)
    most = admitted if engine.apart else max(engine.budget / (1.0 + isl / steps), 1.0)
    others = 1.0 - 1.0 / admitted  # nobody's own prompt delays their own answer
    busy = min(admitted, most)
    for _ in range(ROUNDS):
        tpot, first, share, wave = _times(cost, steps, isl, busy, others, engine)
        busy = min(admitted * steps * tpot / (steps * tpot + first), most, admitted)
    tpot, first, share, wave = _times(cost, steps, isl, busy, others, engine)
    before = engine.request_s + engine.launch_s * cost.launches
    ttft = before + first + engine.burst * (admitted - 1.0) * wave
    waiting = (load.requests / busy - 1.0) * steps * tpot
    if admitted < load.requests:
        ttft += waiting
    elif busy >= most and not engine.apart:
        ttft = max(ttft, waiting)
    return Answer(float(ttft), float(tpot / engine.accepted), float(busy), float(share))


def _times(
    cost: RequestCost, steps: float, isl: float, busy: float, others: float, e: Framework
) -> tuple[float, float, float, float]:
    """TPOT, time of a prompt from its turn to its first token, steps with prompts for each step that decodes, and what
    one prompt adds in all; while `busy` sequences decode, and `others` is the share of requests that are not one's own.
    """
    beside = 0.0 if e.apart else busy
    free = max(e.budget - beside, 1.0)
    prompt = isl * busy / steps
    part = min(max(min(isl, free), prompt), free)
    share = prompt / part if e.apart else min(prompt / part, 1.0)
    plain = cost.plain_s(busy, e)
    added = e.prompt * cost.prompt_s(beside, part) + (e.step_s if e.apart else 0.0)
    parts = isl / part
    own = parts * added + (0.0 if e.apart else max(parts, 1.0) * plain)
    spread = 1.0 - min(e.burst, 1.0) if e.apart else 1.0
    waits = e.waits * others * min(2.0 * share, 1.0) * (added + plain)
    return plain + others * spread * share * added, own + waits, share, parts * added
