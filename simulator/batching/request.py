"""A request while it is served."""

from __future__ import annotations

from simulator.served import Served
from traces import RequestTrace


class Request:
    """What is known of a request that has arrived. Schedulers read it; the runtime writes it.

    id, task        as in the results
    order           its place among the requests served, from 0
    arrival_s, slo_ttft_s, slo_tpot_s  seconds; what it may take is None if nobody said
    prompt_tokens, output_tokens  context before its first decoded token, tokens decoded so far
    instance        of the model that it asks, where several are served
    prompt_left     tokens still to be processed before it decodes: of the prompt, and of a lost KV cache; else 0
    prefix, prefix_tokens  name of the sequence with which it begins, or None, and how many of its tokens are of it
    preemptions     how often it was preempted
    worker          that holds its KV cache, -1 while it waits
    home            the worker that has to hold it, -1 for any

    `base` tokens of context have no routing and are there from the start. Of rows, the tokens that have routing:
    `prompt_rows` of the prompt, `rows` in all, `done` of which the KV cache holds the result; up to `fresh` they are
    processed in chunks, from there on one by one.
    """

    __slots__ = (
        *("id", "task", "order", "served", "arrival_ps", "slo_ttft_s", "slo_tpot_s", "prompt_rows", "rows", "base"),
        *("done", "fresh", "decoded", "worker", "preemptions", "swapped_bytes", "start_ps", "first_ps", "last_ps"),
        *("prefix", "prefix_tokens", "reused", "home", "prompt", "decode", "bound", "blobs", "guesses", "chunk"),
        "prepared",
    )

    def __init__(
        self,
        order: int,
        served: Served,
        arrival_ps: int,
        synthetic_prefill: bool,
        task: str | None,
        slo_s: tuple[float | None, float | None] = (None, None),
        prefix: tuple[str | None, int] = (None, 0),
    ) -> None:
        self.order, self.served, self.id, self.arrival_ps, self.task = order, served, served.id, arrival_ps, task
        self.slo_ttft_s, self.slo_tpot_s = slo_s
        self.prefix, self.prefix_tokens = prefix
        self.reused = 0  # tokens of its prefix that it found computed
        routed, decode_tokens = bool(served.routed_prompt_tokens), served.decode_tokens
        self.prompt_rows = served.prompt_rows if routed else served.prompt_tokens if synthetic_prefill else 0
        self.rows = self.prompt_rows + decode_tokens
        self.base = served.prompt_tokens - self.prompt_rows
        self.done = self.decoded = self.preemptions = self.swapped_bytes = 0
        self.fresh = self.prompt_rows
        self.worker = self.home = self.start_ps = self.first_ps = self.last_ps = self.chunk = -1
        self.prompt: RequestTrace | None = None
        self.decode: RequestTrace | None = None
        self.bound = False
        self.blobs: list[list[list[int]]] = []
        self.guesses: tuple[list[list[list[int]]], list[list[list[float]]] | None] | None = None
        self.prepared: object = None

    @property
    def instance(self) -> int:
        """Of the model that it asks, from 0."""
        return self.served.instance

    @property
    def arrival_s(self) -> float:
        """Seconds since the start of the run."""
        return self.arrival_ps / 1e12

    @property
    def ready_s(self) -> float:
        """Since when its next token could run: its arrival, or the end of its last step. Seconds."""
        return self.last_ps / 1e12

    @property
    def prompt_tokens(self) -> int:
        """Context length in tokens before the first decoded one."""
        return self.served.prompt_tokens

    @property
    def output_tokens(self) -> int:
        """Tokens decoded so far."""
        return self.decoded

    @property
    def prompt_left(self) -> int:
        """Tokens to be processed before it decodes."""
        return max(0, self.fresh - self.done)

    def context_after(self, tokens: int) -> int:
        """Context length in tokens once so many more have been processed."""
        return self.base + self.done + tokens

    def drop(self, keep: bool) -> None:
        """It was preempted: what it has done is to be done again, unless the KV cache is kept elsewhere."""
        self.preemptions += 1
        self.worker = -1
        if not keep:
            self.fresh = max(self.fresh, self.done)
            self.done = 0
