"""Transforms of traces: steps that each give another trace, to be combined.

A module of this package whose name has no leading underscore is a transform, found by walking the package, with a
function ``apply(stream, ...) -> Stream``. Its parameters are what a step may say: text such as
``crop 128 start=16`` is the module's name, then values in the order of the parameters or as ``name=value``, read
by the parameter's annotation (int, float, bool as yes/no, str, or a tuple as ``a,b,c``).

>>> from traces import data_path
>>> from traces.transforms import open_stream, run_steps
>>> stream = run_steps(open_stream(data_path("gpt_oss_20b.parquet")), ["sample 2 seed=1", "top_k 1"])
>>> [request.experts.shape[2] for request, task in stream.rows()]
[1, 1]
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from traces.reader import Trace, open_trace
from traces.transforms._steps import list_transforms, parse_step, usage
from traces.transforms._stream import Stream, TransformError, stream_of
from traces.writer import TraceWriter

__all__ = [
    "Stream",
    "TransformError",
    "list_transforms",
    "open_stream",
    "run_steps",
    "transform_trace",
    "usage",
]


def open_stream(path: str | os.PathLike[str]) -> Stream:
    """Return the trace file at `path` as a stream, its name and digest in the notes."""
    trace = open_trace(path)
    return stream_of(trace).with_meta(
        notes=_joined(trace.meta.notes, f"made from {Path(path).name} (digest {trace.meta.digest})")
    )


def run_steps(stream: Stream, steps: Sequence[str]) -> Stream:
    """Return the stream after all steps, in this order; each is recorded in ``meta.notes``, defaults included.

    Raises TransformError if a step is not known or cannot be done; faults of the data appear when rows are read.
    """
    for text in steps:
        step = parse_step(text)
        stream = step.apply(stream)
        stream = stream.with_meta(notes=_joined(stream.meta.notes, str(step)))
    return stream


def transform_trace(source: str | os.PathLike[str], destination: str | os.PathLike[str], steps: Sequence[str]) -> Trace:
    """Write the trace at `source`, after all steps, to `destination`, and open that.

    The same source and steps give the same bytes. Raises TraceError if a step cannot be done or leaves no
    request; then no file is left at `destination`.
    """
    stream = run_steps(open_stream(source), steps)
    with TraceWriter(destination, stream.meta) as writer:
        empty = True
        for request, task in stream.rows():
            writer.write(request, task)
            empty = False
        if empty:
            raise TransformError(f"{Path(source).name}: no request is left after '{' | '.join(steps)}'.")
    return open_trace(destination)


def _joined(notes: str, more: str) -> str:
    return f"{notes}; {more}" if notes else more
