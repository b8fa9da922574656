"""Filter: the requests that meet a condition."""

from __future__ import annotations

from traces.transforms._stream import Rows, Stream, TransformError, unknown_task


def apply(
    stream: Stream, task: tuple[str, ...] = (), ids: tuple[int, ...] = (), min_tokens: int = 1, max_tokens: int = 0
) -> Stream:
    """Keep requests of the named tasks, with the named ids, and with so many tokens; what is not given is open.

    ``max_tokens`` 0 is no limit. A task or id that does not occur is refused, so that a slip does not pass
    for an empty selection.
    """

    def rows() -> Rows:
        seen_tasks, seen_ids = set[str](), set[int]()
        for request, label in stream.rows():
            seen_ids.add(request.id)
            seen_tasks.add(label or "")
            fits = (not task or label in task) and (not ids or request.id in ids)
            if fits and min_tokens <= request.tokens <= (max_tokens or request.tokens):
                yield request, label
        for wanted in ids:
            if wanted not in seen_ids:
                raise TransformError(f"filter: there is no request {wanted}.")
        for name in task:
            if name not in seen_tasks:
                raise unknown_task("filter", name, seen_tasks)

    return Stream(stream.meta, rows)
