"""Values over time of a recorded run: hit rate, experts in memory, queues."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from simulator.build import Run
from simulator.engine.fabric import Lane, Transfer
from simulator.runtime.near import KERNELS
from simulator.runtime.recorder import Recorder


@dataclass(slots=True)
class Counter:
    """Values that hold from a time in ps on."""

    device: str
    name: str
    values: list[tuple[int, dict[str, float]]]


def device_of(lane: Lane) -> str:
    """The device at the end of a lane, or the processor that it is."""
    name = lane.name.split("->")[-1]
    for what in (" experts", " activations", KERNELS):
        name = name.removesuffix(what)
    return name


def hit_rates(recorder: Recorder) -> list[Counter]:
    """Hits per expert asked for, of each step of each worker."""
    rows: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for step in recorder.steps:
        if step.asked:
            rows.setdefault(step.worker, []).append((step.begin_ps, {"of the step": step.hits / step.asked}))
    return [Counter(worker, "hit rate", values) for worker, values in rows.items()]


def memories(run: Run, recorder: Recorder) -> list[Counter]:
    """Bytes of experts: resident and in flight for a worker's memory, all that is taken for the host's."""
    counters = []
    for worker in run.workers:
        used = [(room.time_ps, room.used_bytes) for room in recorder.rooms if room.memory == worker.tier.name]
        flying: list[tuple[int, int]] = []
        for issue in recorder.issues:
            transfer, lane = issue.transfer, issue.transfer.lane
            in_place = lane is not None and lane.category in ("cpu", "ndp")
            if issue.worker == worker.name and transfer.blob >= 0 and not in_place:
                flying.append((issue.time_ps, transfer.size_bytes))
                if transfer.landed_ps is not None:
                    flying.append((transfer.landed_ps, -transfer.size_bytes))
        counters.append(Counter(worker.name, "expert memory", _resident(used, flying)))
    if run.host is not None:
        taken = {room.time_ps: float(room.used_bytes) for room in recorder.rooms if room.memory == run.host.name}
        values = [(time_ps, {"bytes": used_bytes}) for time_ps, used_bytes in taken.items()]
        counters.append(Counter(run.host.name, "expert memory", values))
    return counters


def _resident(used: Sequence[tuple[int, int]], flying: list[tuple[int, int]]) -> list[tuple[int, dict[str, float]]]:
    """From bytes taken, and changes of bytes in flight, the two parts at each time at which one changes."""
    change: dict[int, int] = defaultdict(int)
    for time_ps, delta in flying:
        change[time_ps] += delta
    taken = dict(used)
    values: list[tuple[int, dict[str, float]]] = []
    total = in_flight = 0
    for time_ps in sorted({*taken, *change}):
        total = taken.get(time_ps, total)
        in_flight += change.get(time_ps, 0)
        values.append((time_ps, {"resident bytes": total - in_flight, "bytes in flight": in_flight}))
    return values


def queues(run: Run, transfers: Iterable[Transfer]) -> list[Counter]:
    """Transfers that wait or run on each lane."""
    changes: dict[str, dict[int, int]] = defaultdict(lambda: defaultdict(int))
    for transfer in transfers:
        if transfer.lane is not None:
            changes[transfer.lane.name][transfer.submitted_ps] += 1
            if transfer.landed_ps is not None:
                changes[transfer.lane.name][transfer.landed_ps] -= 1
    counters = []
    for lane in run.fabric.lanes:
        depth, values = 0, []
        for time_ps, change in sorted(changes[lane.name].items()):
            depth += change
            if change:
                values.append((time_ps, {"transfers": float(depth)}))
        if values:
            counters.append(Counter(device_of(lane), f"queue {lane.name}", values))
    return counters
