"""The stated set of workloads, and the grid of batch, context and skew of the map."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Changes = dict[str, Any]  # dotted key of the configuration -> its value


@dataclass(frozen=True)
class Scope:
    """How much is run.

    decode_tokens: of each request, at most; requests: of the cases of one request at a time; batch: of the other one;
    draws: of the calibrated constants; factors: by which each parameter is multiplied, besides 1; the next are the map:
    batches, context tokens before the first decoded one, decoded tokens, transforms of the trace (None: as it is).
    trials: designs of a search at most (None: as many as the file asks for).
    """

    decode_tokens: int = 16
    requests: int = 8
    batch: int = 16
    draws: int = 10
    factors: tuple[float, ...] = (0.125, 0.25, 0.5, 2.0, 4.0, 8.0)
    batches: tuple[int, ...] = (1, 4, 16, 32)
    contexts: tuple[int, ...] = (256, 4096, 32768)
    map_tokens: int = 8
    skews: tuple[str | None, ...] = ("shuffle uniform", None, "skew 1", "skew 2")
    trials: int | None = None


QUICK = Scope(8, 5, 4, 2, (0.5, 2.0), (1, 4), (256,), 4, (None,), 8)


@dataclass(frozen=True)
class Case:
    """A workload, in a few words and in a sentence. metric: what of the summary is compared (less is better);
    per_request: the same of a request."""

    name: str
    words: str
    explained: str
    changes: Changes
    metric: str
    per_request: str


def cases(scope: Scope) -> list[Case]:
    """Decoding one request at a time, decoding a batch, and prompts alone."""
    cut: Changes = {"workload.max_decode_tokens": scope.decode_tokens, "workload.synthetic_prefill": False}
    one: Changes = {"workload.batch_size": 1, "workload.requests": scope.requests}
    many: Changes = {"workload.batch_size": scope.batch, "workload.requests": scope.batch}
    prompt: Changes = {"workload.max_decode_tokens": 1, "workload.synthetic_prefill": True}
    tokens = f"up to {scope.decode_tokens} tokens each"
    return [
        Case(
            "decode_1",
            "decode, one request at a time",
            f"{scope.requests} requests one after the other, {tokens}, whose prompts were processed before.",
            {**cut, **one},
            "tpot_mean_s",
            "tpot_s",
        ),
        Case(
            f"decode_{scope.batch}",
            f"decode, batch of {scope.batch}",
            f"{scope.batch} requests at once, {tokens}.",
            {**cut, **many},
            "tpot_mean_s",
            "tpot_s",
        ),
        Case(
            "prefill",
            "prompts, one at a time",
            f"the prompts of {scope.requests} requests, one after the other, to their first token.",
            {**one, **prompt},
            "ttft_mean_s",
            "ttft_s",
        ),
    ]


def map_changes(scope: Scope, batch: int, context: int, skew: str | None) -> Changes:
    """A cell of the map: recorded tokens repeat (binding=cycle) behind a context of the given length."""
    changes: Changes = {
        "workload.batch_size": batch,
        "workload.requests": max(batch, 4),
        "workload.max_decode_tokens": scope.map_tokens,
        "workload.synthetic_prefill": False,
        "workload.binding": "cycle",
        "workload.prompt_tokens": context,
    }
    return changes if skew is None else {**changes, "trace.steps": [skew]}
