"""Multiplex: the requests of several traces in turn, as of several tenants."""

from __future__ import annotations

from collections.abc import Iterator

from traces.schema import RequestTrace
from traces.transforms._stream import (
    Rows,
    Stream,
    TransformError,
    numbered,
    open_streams,
    require_same_shape,
    with_digests,
)


def apply(stream: Stream, traces: tuple[str, ...], burst: int = 1) -> Stream:
    """Take `burst` requests of each trace in turn until all are used up, numbered anew from 0.

    A trace that has ended is left out of the turn. The traces must agree in experts, layers, top-k and what is
    recorded, and in the model if they hold embeddings; tell the tenants apart by their tasks (``rename``).
    """
    if burst < 1:
        raise TransformError("multiplex: burst must be at least 1.")
    others = open_streams(traces, "multiplex")
    require_same_shape(stream.meta, [other.meta for other in others], "multiplex")

    def turns() -> Rows:
        waiting: list[Iterator[tuple[RequestTrace, str | None]]] = [one.rows() for one in (stream, *others)]
        while waiting:
            for source in list(waiting):
                for _ in range(burst):
                    row = next(source, None)
                    if row is None:
                        waiting.remove(source)
                        break
                    yield row

    return with_digests(Stream(stream.meta, lambda: numbered(turns())), others)
