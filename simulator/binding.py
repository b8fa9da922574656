"""Which routing a request follows, and what it does when it outlasts what was recorded.

A *binding* turns a request of the trace into one of the length that the workload asks for:

    exact       as recorded: the recorded prompt, at most the recorded decode tokens
    cycle       rows beyond the recorded ones repeat them from the start
    resample    rows beyond the recorded ones are drawn from them, with replacement, seeded
    synthesise  rows beyond the recorded ones are drawn from a model fitted to those requests (traces/synthesis)

Prompt rows extend prompt rows and decode rows extend decode rows. Recorded rows always come first.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from simulator.served import PlanError, Served
from traces import RequestTrace, Trace
from traces.workloads.requests import MOST_TOKENS
from traces.workloads.synthesised import AVAILABLE, Synthesiser

BINDINGS = ("exact", "cycle", "resample", "synthesise")
_PROMPT, _DECODE = 0, 1  # of the seeds


class Binding:
    """Makes requests of the length asked for. `seed` is the plan's; draws depend on it and the request alone.

    Raises PlanError for an unknown kind and for lengths that it cannot give.
    """

    def __init__(
        self, kind: str, trace: Trace, served: list[Served], seed: np.random.SeedSequence, synthetic_prefill: bool
    ) -> None:
        if kind not in BINDINGS:
            raise PlanError(f"workload.binding is '{kind}'; expected one of {', '.join(BINDINGS)}.")
        self.kind = kind
        self._trace = trace
        self._seed = seed
        self._synthetic_prefill = synthetic_prefill
        for request in served:
            self._check(request)
        longer = [request.index for request in served if request.outlasts]
        if kind == "synthesise" and longer and not AVAILABLE:
            raise PlanError("workload.binding=synthesise needs traces.synthesis; expected exact, cycle or resample.")
        self._synthesiser = Synthesiser(trace, longer)

    def _check(self, request: Served) -> None:
        what = f"request {request.id}"
        if self.kind == "exact":
            for name, wrong in (
                ("prompt_tokens", request.prompt_tokens != request.recorded_prompt_tokens),
                ("decode_tokens", request.decode_tokens > request.recorded_decode_tokens),
            ):
                if wrong:
                    raise PlanError(
                        f"{what} asks for {getattr(request, name)} {name.replace('_', ' ')}, but the trace recorded"
                        f" {getattr(request, f'recorded_{name}')} and workload.binding is exact; expected another"
                        f" binding ({', '.join(BINDINGS[1:])})."
                    )
        if request.prompt_tokens + request.decode_tokens > MOST_TOKENS:
            raise PlanError(
                f"{what} asks for {request.prompt_tokens} prompt and {request.decode_tokens} decode tokens; expected"
                f" at most {MOST_TOKENS} together."
            )
        if request.decode_tokens and not request.recorded_decode_tokens:
            raise PlanError(f"{what} asks for decode tokens, but the trace recorded none of it to follow.")
        if request.routed_prompt_tokens and request.prompt_rows < 1:
            unrouted = request.recorded_prompt_tokens - request.routed_prompt_tokens
            raise PlanError(
                f"{what} asks for {request.prompt_tokens} prompt tokens; expected more than the {unrouted} before the"
                " first that the trace recorded."
            )
        if not request.prompt_tokens and self._synthetic_prefill:
            raise PlanError(
                f"{what}: workload.synthetic_prefill needs a recorded prompt length, but the"
                " trace starts at position 0."
            )

    def request(self, served: Served) -> tuple[RequestTrace | None, RequestTrace | None]:
        """The rows of its prompt and of its decoding, None where there are none."""
        request = self._trace.request(served.index)
        if request.id != served.id:
            request = replace(request, id=served.id)
        routed = request.phases == 0
        prompt: RequestTrace | None = None
        if routed.any():
            prompt = self._lengthened(rows_of(request, routed), served.prompt_rows, served, _PROMPT)
        elif self._synthetic_prefill:
            prompt = self._synthetic_prompt(request, served)
        if not served.decode_tokens:
            return prompt, None
        decode = self._lengthened(rows_of(request, ~routed), served.decode_tokens, served, _DECODE)
        shift = served.prompt_tokens - served.recorded_prompt_tokens
        if shift:
            decode = replace(decode, positions=decode.positions + np.int32(shift))
        return prompt, decode

    def _lengthened(self, rows: RequestTrace, tokens: int, served: Served, part: int) -> RequestTrace:
        """The first `tokens` rows, and beyond them what the binding makes."""
        if tokens == rows.tokens:
            return rows
        if tokens < rows.tokens:
            return _ended_like(rows, rows_of(rows, slice(0, tokens)))
        more = np.arange(1, tokens - rows.tokens + 1, dtype=np.int32)
        place = np.arange(tokens) % rows.tokens
        rng = self._rng(served, part)
        if self.kind == "resample":
            place[rows.tokens :] = rng.integers(rows.tokens, size=len(more))
        made = rows_of(rows, place)
        if self.kind == "synthesise":
            made = _with_tail(made, rows.tokens, self._synthesiser.experts(served.index, len(more), rng))
        return replace(made, positions=np.concatenate([rows.positions, rows.positions[-1] + more]))

    def _synthetic_prompt(self, request: RequestTrace, served: Served) -> RequestTrace:
        """Prompt rows drawn with replacement from the request's own decode rows, seeded per request."""
        length = served.prompt_tokens
        seed = np.random.SeedSequence(entropy=self._seed.entropy, spawn_key=(*self._seed.spawn_key, served.stream))
        draws = np.random.default_rng(seed).integers(len(request.positions), size=length)
        prompt = rows_of(request, draws)
        return RequestTrace(
            id=prompt.id,
            positions=np.arange(length, dtype=np.int32),
            phases=np.zeros(length, dtype=np.int8),
            experts=prompt.experts,
            weights=prompt.weights,
            probabilities=None,
            guesses=prompt.guesses,
            norms=prompt.norms,
            embedding=request.embedding,
        )

    def _rng(self, served: Served, part: int) -> np.random.Generator:
        key = (*self._seed.spawn_key, served.stream, part)
        return np.random.default_rng(np.random.SeedSequence(entropy=self._seed.entropy, spawn_key=key))


def _ended_like(rows: RequestTrace, cut: RequestTrace) -> RequestTrace:
    """`cut`, the first of `rows`, whose last token is routed in every layer in which that of `rows` is.

    Some programs compute a prompt's last layer for its last token only (docs/trace_format.md).
    """
    lacking = (cut.experts[-1] < 0).all(axis=-1) & (rows.experts[-1] >= 0).any(axis=-1)
    if not lacking.any():
        return cut
    changed = {}
    for name in ("experts", "weights", "probabilities", "guesses", "norms"):
        values = getattr(cut, name)
        if values is not None:
            values = values.copy()
            values[-1, lacking] = getattr(rows, name)[-1, lacking]
            changed[name] = values
    return replace(cut, **changed)


def _with_tail(rows: RequestTrace, start: int, experts: np.ndarray) -> RequestTrace:
    """The same rows, those from `start` on with these experts, whose weights and guesses nobody knows."""

    def without(values: np.ndarray | None, unknown: float) -> np.ndarray | None:
        if values is None:
            return None
        values = values.copy()
        values[start:] = unknown
        return values

    return replace(
        rows,
        experts=np.concatenate([rows.experts[:start], experts]),
        weights=without(rows.weights, np.nan),
        probabilities=without(rows.probabilities, np.nan),
        guesses=without(rows.guesses, -1),
        norms=without(rows.norms, np.nan),
    )


def rows_of(request: RequestTrace, rows: np.ndarray | slice) -> RequestTrace:
    """The same request with some of its tokens."""

    def pick(values: np.ndarray | None) -> np.ndarray | None:
        return None if values is None else values[rows]

    return RequestTrace(
        id=request.id,
        positions=request.positions[rows],
        phases=request.phases[rows],
        experts=request.experts[rows],
        weights=pick(request.weights),
        probabilities=pick(request.probabilities),
        guesses=pick(request.guesses),
        norms=pick(request.norms),
        embedding=request.embedding,
    )
