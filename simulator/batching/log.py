"""What became of each request, in columns."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class RequestRecord:
    """A request that has ended. Times in ps; first_ps: when its prompt was done, -1 where it had none to process;
    worker: that held its KV cache at the end; reused_tokens: found in the KV cache of its prefix."""

    request: int
    order: int
    arrival_ps: int
    start_ps: int
    first_ps: int
    end_ps: int
    context_tokens: int
    decode_tokens: int
    preemptions: int
    worker: int
    reused_tokens: int = 0
