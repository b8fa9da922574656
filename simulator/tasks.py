"""Task labels of the requests of a plan, and the prefixes that they share."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.plan import Plan


def task_of(plan: Plan, order: int) -> str | None:
    """The label of the request served in this place: the request list's, or else the trace's."""
    served = plan.served[order]
    return plan.listed.task[served.id] if plan.listed is not None else plan.trace.requests[served.index].task


def prefix_of(plan: Plan, order: int) -> tuple[str | None, int]:
    """Name of the sequence with which the request served in this place begins, and how many tokens are of it."""
    listed, row = plan.listed, plan.served[order].id
    return (listed.prefix[row], int(listed.prefix_tokens[row])) if listed is not None else (None, 0)


def tasks_by_request(plan: Plan) -> dict[int, str | None]:
    """Id of each request served -> its label."""
    return {served.id: task_of(plan, order) for order, served in enumerate(plan.served)}


def training_tasks(plan: Plan) -> Iterator[str | None]:
    """Labels of the requests that are not served, in the order of `Plan.training`."""
    served = set(plan.known)
    return (info.task for index, info in enumerate(plan.trace.requests) if index not in served)
