"""What transforms take and give: requests one at a time, with their metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import numpy as np

from traces import data_path
from traces.reader import Trace, open_trace
from traces.schema import RequestTrace, TraceError, TraceMeta

Rows = Iterator[tuple[RequestTrace, str | None]]


class TransformError(TraceError):
    """A step that is not known, has wrong arguments, or cannot be done with this trace."""


@dataclass(frozen=True)
class Stream:
    """A trace on its way: `rows` starts a new pass over (request, task), each request checked where it was read.

    A transform returns another stream and does nothing until its rows are asked for.
    """

    meta: TraceMeta
    rows: Callable[[], Rows]

    def with_meta(self, **changes: object) -> Stream:
        """Return the stream with other metadata."""
        return Stream(dataclasses.replace(self.meta, **changes), self.rows)  # type: ignore[arg-type]

    def each(self, change: Callable[[RequestTrace], RequestTrace | None]) -> Stream:
        """Return the stream with every request changed; None drops it."""

        def rows() -> Rows:
            for request, task in self.rows():
                changed = change(request)
                if changed is not None:
                    yield changed, task

        return Stream(self.meta, rows)


def stream_of(trace: Trace) -> Stream:
    """Return the requests of an open trace as a stream."""

    def rows() -> Rows:
        for index, info in enumerate(trace.requests):
            yield trace.request(index), info.task

    return Stream(trace.meta, rows)


def open_streams(paths: Sequence[str], step: str) -> list[Stream]:
    """Return the streams of other trace files named in a step, by path or, where there is no such file, as shipped."""
    if not all(paths):
        raise TransformError(f"{step}: the trace files must be named, separated by commas.")
    return [stream_of(open_trace(path if Path(path).is_file() else data_path(path))) for path in paths]


def take_tokens(request: RequestTrace, rows: np.ndarray) -> RequestTrace:
    """Return the request with these tokens only, positions and phases with them; its prompt's embedding stays."""
    return dataclasses.replace(
        request, positions=request.positions[rows], phases=request.phases[rows], **_routing_of(request, rows)
    )


def with_routing_of(request: RequestTrace, rows: np.ndarray) -> RequestTrace:
    """Return the request with the routing of the tokens `rows`, positions and phases unchanged."""
    return dataclasses.replace(request, **_routing_of(request, rows))


def _routing_of(request: RequestTrace, rows: np.ndarray) -> dict[str, Any]:
    return {name: None if values is None else values[rows] for name, values in routing(request).items()}


def routing(request: RequestTrace) -> dict[str, np.ndarray | None]:
    """Return the arrays of a request that have a row per token and say where it went, and with which hidden state."""
    return {name: getattr(request, name) for name in ("experts", "weights", "probabilities", "guesses", "norms")}


def unknown_task(step: str, name: str, known: Iterable[str | None]) -> TransformError:
    """Return the refusal of a task that does not occur."""
    labels = sorted(label for label in known if label)
    close = get_close_matches(name, labels, n=1)
    listed = ", ".join(labels[:8]) + (f" and {len(labels) - 8} more" if len(labels) > 8 else "")
    hint = f"did you mean '{close[0]}'?" if close else f"there are {listed}." if labels else "no request has one."
    return TransformError(f"{step}: there is no task '{name}'; {hint}")


def require_same_shape(first: TraceMeta, others: Iterable[TraceMeta], step: str) -> None:
    """Raise TransformError unless requests of all traces fit one file."""
    fields = ["num_experts", "top_k", "native_top_k", "layers", "rank_known", "expert_bytes"]
    fields += ["has_weights", "has_probabilities", "guess_distances", "guess_width", "has_norms", "embedding_width"]
    if first.embedding_width:
        fields.append("model")  # embeddings of two models cannot be compared
    for other in others:
        for field in fields:
            ours, theirs = getattr(first, field), getattr(other, field)
            if ours != theirs:
                raise TransformError(f"{step}: all traces must have the same {field}, not {ours} and {theirs}.")


def numbered(rows: Rows) -> Rows:
    """Give the requests new ids, 0, 1, 2, … in their order."""
    for number, (request, task) in enumerate(rows):
        yield dataclasses.replace(request, id=number), task


def with_digests(stream: Stream, others: Sequence[Stream]) -> Stream:
    """Return the stream with the digests of other traces that go into it in its notes."""
    digests = ", ".join(other.meta.digest for other in others)
    return stream.with_meta(notes="; ".join(filter(None, (stream.meta.notes, f"others have digest {digests}"))))
