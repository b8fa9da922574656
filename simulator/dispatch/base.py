"""What an implementation of gating adds to a run; the pipeline role gives one (or None: rows move by themselves)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hwmodels import Work
from simulator.model import ModelSpec
from simulator.plan import Plan, Step
from simulator.runtime.exchange import Exchange


class Dispatch:
    """Bound to a model and a number of workers; requests of a batch are dealt to these in turn.

    uses_padding   experts run rows that nobody was routed to, so that routing alone bounds nothing
    sequential     experts run one after the other, LAUNCHES kernels each
    """

    uses_padding = False
    LAUNCHES = 3  # two products and the activation function between them

    def __init__(self, model: ModelSpec, workers: int, sequential: bool = True) -> None:
        self.model, self.workers, self.sequential = model, workers, sequential

    def rewrite(self, step: Step) -> Step:
        """The step as experts will run it."""
        return step

    def works(self, tokens: int) -> tuple[Sequence[Work], Sequence[Work]]:
        """Kernels of a routed layer before and behind its experts, on a worker of so many tokens."""
        raise NotImplementedError

    def activation_bytes(self, tokens: int) -> int:
        """What the layer holds at most at once on a worker of so many tokens."""
        raise NotImplementedError

    def exchange(self, *parts: Any) -> Exchange:
        """The messages between workers; `parts` are those of `Exchange`."""
        raise NotImplementedError

    def remark(self) -> str:
        """What a result should say of it."""
        raise NotImplementedError

    def worker_tokens(self, step: Step) -> list[int]:
        """Tokens of each worker in a step."""
        return tokens_of(step.block.request_tokens[step.row], step.block.slots, self.workers)

    def most_tokens(self, plan: Plan, budget: int | None) -> int:
        """Most tokens of a worker in any step: of the batches of `plan`, or `budget` where steps are filled up."""
        if budget is not None:
            return budget
        workload, most = plan.workload, 1
        for start in range(0, len(plan.served), workload.batch_size):
            batch = plan.served[start : start + workload.batch_size]
            prompts = [request.tokens(workload.synthetic_prefill)[0] - request.decode_tokens for request in batch]
            decoding = [int(request.decode_tokens > 0) for request in batch]
            slots = list(range(len(batch)))
            most = max(most, *tokens_of(prompts, slots, self.workers), *tokens_of(decoding, slots, self.workers))
        return most


def tokens_of(tokens: Sequence[int], slots: Sequence[int], workers: int) -> list[int]:
    """Tokens of each worker, from those of each request and its place in the batch."""
    totals = [0] * workers
    for count, slot in zip(tokens, slots, strict=False):
        totals[slot % workers] += count
    return totals
