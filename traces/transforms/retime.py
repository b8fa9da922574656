"""Retime: other positions, so that the context of every token is longer or shorter."""

from __future__ import annotations

import dataclasses

import numpy as np

from traces.schema import RequestTrace
from traces.transforms._stream import Stream, TransformError


def apply(stream: Stream, start: int | None = None, shift: int = 0, close_gaps: bool = False) -> Stream:
    """Let every request begin at position `start`, move it by `shift`, or number its tokens without gaps.

    Routing stays as it was recorded. A trace knows no clock: when requests arrive is the workload's.
    """
    if start is None and shift == 0 and not close_gaps:
        raise TransformError("retime: start, shift or close_gaps=yes must be given.")

    def change(request: RequestTrace) -> RequestTrace:
        positions = request.positions.astype(np.int64)
        if close_gaps:
            positions = positions[0] + np.arange(len(positions))
        if start is not None:
            positions = positions - positions[0] + start
        positions = positions + shift
        if int(positions[0]) < 0 or int(positions[-1]) >= 2**31:
            raise TransformError(
                f"retime: request {request.id} would be at positions {positions[0]} to {positions[-1]}, "
                "but they must be from 0 to 2147483647."
            )
        return dataclasses.replace(request, positions=positions.astype(np.int32))

    return stream.each(change)
