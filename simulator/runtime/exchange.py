"""How several workers meet: all-to-all messages before and after the experts, and the end of a step."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
from simpy.events import Event

from simulator.engine import Clock, Fabric, Lane, Transfer
from simulator.plan import Group, Step
from simulator.policies.pipeline.base import Op
from simulator.runtime.path import Snapshot
from simulator.runtime.ranks import Ranks

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

_END = -1  # task id of a step's end


class _Post:
    """A task that has ended: when, on which path, with which messages to other workers."""

    __slots__ = ("messages", "path", "time_ps")

    def __init__(self, time_ps: int, path: Snapshot, messages: dict[int, Transfer]) -> None:
        self.time_ps = time_ps
        self.path = path
        self.messages = messages


class Exchange:
    """Requests are dealt to attention groups round-robin; experts belong to the part `owners[layer, expert]`.

    A token's activation goes once to each other worker that owns one of its experts, and one
    partial sum comes back: `hidden_bytes` each. `lanes[src, dst]` carry them. Under a layout each GPU of a group sends
    its share of the group's tokens, to every GPU that holds a slice; a worker's messages are those of the one GPU that
    is simulated. `workers` says for each task whose it is.
    """

    def __init__(
        self,
        clock: Clock,
        fabric: Fabric,
        ranks: Ranks,
        owners: np.ndarray,
        lanes: dict[tuple[int, int], Lane],
        hidden_bytes: int,
        workers: dict[int, int],
    ) -> None:
        self._clock = clock
        self._fabric = fabric
        self._ranks, self._task_workers = ranks, workers
        self._workers, self._width = len(ranks.places), ranks.per_stage
        self._owners = owners
        self._lanes = lanes
        self._hidden_bytes = hidden_bytes
        self._posts: dict[tuple[int, int, int], _Post] = {}
        self._waiting: dict[tuple[int, int, int], list[tuple[Event, int]]] = {}
        self._message_bytes: dict[int, list[list[list[int]]]] = {}
        self._busiest_bytes: dict[int, list[int]] = {}
        self._mine = [mask.tolist() for mask in owned(ranks, owners)]
        self.staged = False  # whether stages may be in different steps

    def requests_of(self, rank: int, slots: list[int]) -> list[int]:
        """Indices of the requests, at these places of their batch, that worker `rank` serves."""
        place = self._ranks.places[rank]
        return [index for index, slot in enumerate(slots) if slot % self._ranks.groups == place.group]

    def own(self, rank: int, step: Step) -> tuple[list[Group], list[list[int]] | None]:
        """Groups and guesses of a step, reduced to the experts that worker `rank` owns."""
        own = self._mine[rank]
        groups: list[Group] = []
        for blobs, counts in step.groups:
            if counts is None:
                groups.append(([blob for blob in blobs if own[blob]], None))
            else:
                mine = [(b, c) for b, c in zip(blobs, counts, strict=True) if own[b]]
                groups.append(([b for b, _ in mine], [c for _, c in mine]))
        guesses = step.guesses
        if guesses is not None:
            guesses = [[blob for blob in row if own[blob]] for row in guesses]
        return groups, guesses

    def own_scores(self, rank: int, step: Step) -> list[list[float]] | None:
        """Scores beside the guesses of a step, reduced like these to the experts that worker `rank` owns."""
        if step.scores is None or step.guesses is None:
            return None
        own = self._mine[rank]
        both = zip(step.guesses, step.scores, strict=True)
        return [[s for blob, s in zip(*row, strict=True) if own[blob]] for row in both]

    def message_bytes(self, number: int, step: Step) -> list[list[list[int]]]:
        """Bytes of activations [layer][src][dst] from worker to worker of a stage in step `number`; of those that a
        GPU sends itself, none."""
        sizes = self._message_bytes.get(number)
        if sizes is None:
            ranks = self._ranks
            counts = np.zeros((len(self._owners), ranks.groups, ranks.parts), dtype=np.int64)
            for slot, rows in zip(step.block.slots, step.rows, strict=True):
                counts[:, slot % ranks.groups] += self.visits(rows)
            places = ranks.places[: self._width]
            pairs = counts[:, [place.group for place in places]][:, :, [place.part for place in places]]
            times = np.full((self._width, self._width), ranks.each) - np.eye(self._width, dtype=np.int64)
            if ranks.each == 1:
                times = 1 - np.eye(self._width, dtype=np.int64)
            tp = ranks.layout.tp if ranks.layout is not None else 1
            sizes = self._message_bytes[number] = (-(-pairs * times * self._hidden_bytes // tp)).tolist()
        return sizes

    def visits(self, rows: np.ndarray) -> np.ndarray:
        """How many of some tokens, experts [tokens, layers, top-k], have an expert of each part, [layers, parts]."""
        owners = np.where(rows >= 0, self._owners[np.arange(rows.shape[1])[None, :, None], np.maximum(rows, 0)], -1)
        parts = [(owners == part).any(axis=2).sum(axis=0) for part in range(self._ranks.parts)]
        return np.stack(parts, axis=1)

    def busiest_bytes(self, number: int, step: Step) -> list[int]:
        """For each layer of step `number`, what the busiest GPU sends to experts, or receives for its own."""
        found = self._busiest_bytes.get(number)
        if found is None:
            pairs = np.array(self.message_bytes(number, step), dtype=np.int64)
            found = self._busiest_bytes[number] = np.maximum(pairs.sum(axis=1), pairs.sum(axis=2)).max(axis=1).tolist()
        return found

    def send(
        self, worker: Worker, number: int, task: int, step: Step, layer: int, t: int, op: Op
    ) -> Generator[Event, Any, None]:
        """Post the end of a task at `t` with its messages: activations out, results back, or on to the next stage."""
        if worker.must_sync(t):
            yield from worker.sync(t)
        width, messages = self._width, {}
        if op is Op.PASS:
            tokens = zip(step.block.slots, step.rows, strict=True)
            group, groups = self._ranks.places[worker.rank].group, self._ranks.groups
            mine = sum(len(rows) for slot, rows in tokens if slot % groups == group)
            sizes = {worker.rank + width: mine * self._hidden_bytes}
        else:
            first, pairs = worker.rank // width * width, self.message_bytes(number, step)[layer]
            here = worker.rank - first
            back = op is Op.COMBINE
            sizes = {first + to: pairs[to][here] if back else pairs[here][to] for to in range(width)}
        for target, size in sizes.items():
            if size:
                message = Transfer(-1, size, True)
                self._fabric.submit(self._lanes[worker.rank, target], message, t)
                messages[target] = message
        if worker.recording is not None:
            worker.recording.asked(worker.name, messages.values(), t)
        self._post(worker, (number, task, worker.rank), t, messages)

    def post(self, worker: Worker, key: tuple[int, int, int], t: int) -> Generator[Event, Any, None]:
        """Post the end of a task without messages; `key` = (step, task, worker)."""
        if worker.must_sync(t):
            yield from worker.sync(t)
        self._post(worker, key, t, {})

    def gather(self, worker: Worker, number: int, tasks: tuple[int, ...], t: int) -> Generator[Event, Any, int]:
        """Wait until the tasks of these ids have ended in this step, and their messages are here."""
        return self._gather(worker, number, [(self._task_workers[task], task) for task in tasks], t)

    def _gather(
        self, worker: Worker, number: int, tasks: Iterable[tuple[int, int]], t: int
    ) -> Generator[Event, Any, int]:
        latest = t
        path: Snapshot | None = None
        last_message: tuple[_Post, Transfer] | None = None
        for rank, task in tasks:
            post = yield from self._posted(worker, (number, task, rank), t)
            if rank != worker.rank and post.time_ps > latest:
                latest, path, last_message = post.time_ps, post.path, None
            message = post.messages.get(worker.rank)
            if message is not None:
                landed = message.landed_ps
                if landed is None:
                    landed = yield from worker.landed(message)
                if landed > latest:
                    latest, last_message = landed, (post, message)
        if last_message is not None:
            post, message = last_message
            worker.path.copy_from(post.path)
            worker.path.waited_for(message)
        elif path is not None:
            worker.path.copy_from(path)
        return latest

    def meet(self, worker: Worker, number: int, t: int) -> Generator[Event, Any, int]:
        """The end of a step: everybody leaves when the last has come; of their stage, if others are in other steps."""
        if worker.must_sync(t):
            yield from worker.sync(t)
        self._post(worker, (number, _END, worker.rank), t, {})
        first, count = (worker.rank // self._width * self._width, self._width) if self.staged else (0, self._workers)
        latest = yield from self._gather(worker, number, [(rank, _END) for rank in range(first, first + count)], t)
        done = number - self._ranks.stages  # when a step begins, so many before it may be under way
        for key in [key for key in self._posts if key[0] <= done]:
            del self._posts[key]
        for sizes in (self._message_bytes, self._busiest_bytes):
            for old in [old for old in sizes if old <= done]:  # of many steps taken at once there are none
                del sizes[old]
        return latest

    def _post(self, worker: Worker, key: tuple[int, int, int], t: int, messages: dict[int, Transfer]) -> None:
        self._posts[key] = _Post(t, worker.path.snapshot(), messages)
        for event, rank in self._waiting.pop(key, ()):
            self._clock.wake(event, rank, t)

    def _posted(self, worker: Worker, key: tuple[int, int, int], t: int) -> Generator[Event, Any, _Post]:
        if key not in self._posts:
            event = self._clock.event()
            self._waiting.setdefault(key, []).append((event, worker.rank))
            yield event
        return self._posts[key]


def owned(ranks: Ranks, owners: np.ndarray) -> list[np.ndarray]:
    """For each worker, of which experts it holds all or a slice, bool [layers * experts]; `owners`: [layer, expert]."""
    layers = len(owners)
    stages = np.array([ranks.stage_of(layer, layers) for layer in range(layers)])[:, None]
    return [((owners == place.part) & (stages == place.stage)).ravel() for place in ranks.places]
