"""Concatenate: the requests of other traces behind these."""

from __future__ import annotations

import itertools

from traces.transforms._stream import Rows, Stream, numbered, open_streams, require_same_shape, with_digests


def apply(stream: Stream, traces: tuple[str, ...]) -> Stream:
    """Append the requests of the trace files, in the order named; all requests are numbered anew from 0.

    The traces must agree in experts, layers, top-k and what is recorded, and in the model if they hold embeddings.
    """
    others = open_streams(traces, "concatenate")
    require_same_shape(stream.meta, [other.meta for other in others], "concatenate")

    def rows() -> Rows:
        return numbered(itertools.chain.from_iterable(one.rows() for one in (stream, *others)))

    return with_digests(Stream(stream.meta, rows), others)
