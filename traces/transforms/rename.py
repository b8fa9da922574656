"""Rename: other labels for the tasks."""

from __future__ import annotations

from traces.transforms._stream import Rows, Stream, TransformError, unknown_task


def apply(stream: Stream, /, all: str | None = None, **tasks: str) -> Stream:
    """Give every request the task `all`, or rename single tasks (``rename law=tenant_a``).

    A task that does not occur is refused.
    """
    if (all is None) == (not tasks):
        raise TransformError("rename: either all=NEW or one or more OLD=NEW must be given.")

    def rows() -> Rows:
        seen = set[str | None]()
        for request, task in stream.rows():
            seen.add(task)
            yield request, all if all is not None else tasks.get(task or "", task)
        for name in tasks:
            if name not in seen:
                raise unknown_task("rename", name, seen)

    return Stream(stream.meta, rows)
