from collections import deque
from collections.abc import Collection, Mapping
from typing import NamedTuple

from simulator.layer_work import LayerWork
from simulator.policies.execution.base import ExecutionPolicy, Split


class Schedule(NamedTuple):
    """Experts to copy and run on the worker, and to run on the host CPU, in order; when the last ends (ps)."""

    fetch: list[int]
    cpu: list[int]
    ends_ps: int


def schedule(work: LayerWork, tokens: Mapping[int, int], here: Collection[int], busy_ps: int = 0) -> Schedule:
    """Fill the timelines of worker, host CPU and link with a layer's experts; tokens: of each; busy_ps: of the link.

    The worker takes resident experts, most tokens first, then missing ones as the link brings them, most tokens first;
    the CPU takes from the other end: missing ones of few tokens, then resident ones. Whoever would end its next expert
    earlier takes it (HybriMoE, arXiv 2504.05897, section 4.1; HybridSchedulingStrategy of its repository).
    """
    queue = deque(sorted(tokens, key=lambda blob: (blob not in here, -tokens[blob])))
    fetch: list[int] = []
    cpu: list[int] = []
    launched: list[int] = []  # tokens of the resident experts that the worker runs, which it does as one launch
    worker_ps = cpu_ps = 0
    link_ps = busy_ps
    while queue:
        first, last = queue[0], queue[-1]
        landed_ps = 0
        if first in here:
            worker_end_ps = work.run_together_ps(work.layer_of(first), [*launched, tokens[first]])
        else:
            landed_ps = link_ps + work.fetch_ps(first)
            worker_end_ps = max(worker_ps, landed_ps) + work.run_ps(first, tokens[first])
        cpu_end_ps = cpu_ps + work.cpu_ps(last, tokens[last])
        if worker_end_ps <= cpu_end_ps:
            queue.popleft()
            worker_ps = worker_end_ps
            if first in here:
                launched.append(tokens[first])
            else:
                link_ps = landed_ps
                fetch.append(first)
        else:
            queue.pop()
            cpu_ps = cpu_end_ps
            cpu.append(last)
    return Schedule(fetch, cpu, max(worker_ps, cpu_ps))


class Timelines(ExecutionPolicy):
    """Divides a layer's experts between worker, host CPU and link by simulating all three (HybriMoE); see `schedule`.

    An idle CPU may take resident experts too. Experts in flight go to the worker.
    """

    uses_cpu = True
    always = True

    def split(self, work):
        asked = (*work.hits, *work.misses)
        fetch, cpu, _ = schedule(work, {blob: work.tokens[blob] for blob in asked}, set(work.hits), work.queued_ps)
        return Split(fetch, cpu)
