"""How several workers meet: all-to-all messages before and after the experts, and the end of a step."""

from __future__ import annotations

from collections.abc import Generator
from typing import TYPE_CHECKING, Any

import numpy as np
from simpy.events import Event

from simulator.engine import Clock, Fabric, Lane, Transfer
from simulator.plan import Group, Step
from simulator.runtime.path import Snapshot

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
    """Requests are dealt to workers round-robin; experts belong to `owners[layer, expert]`.

    A token's activation goes once to each other worker that owns one of its experts, and one
    partial sum comes back: `hidden_bytes` each. `lanes[src, dst]` carry them.
    """

    def __init__(
        self,
        clock: Clock,
        fabric: Fabric,
        workers: int,
        owners: np.ndarray,
        lanes: dict[tuple[int, int], Lane],
        hidden_bytes: int,
    ) -> None:
        self._clock = clock
        self._fabric = fabric
        self._workers = workers
        self._owners = owners
        self._lanes = lanes
        self._hidden_bytes = hidden_bytes
        self._posts: dict[tuple[int, int, int], _Post] = {}
        self._waiting: dict[tuple[int, int, int], list[tuple[Event, int]]] = {}
        self._message_bytes: dict[int, list[list[list[int]]]] = {}
        self._blob_owner = owners.ravel().tolist()

    def requests_of(self, rank: int, slots: list[int]) -> list[int]:
        """Indices of the requests, at these places of their batch, that worker `rank` serves."""
        return [index for index, slot in enumerate(slots) if slot % self._workers == rank]

    def own(self, rank: int, step: Step) -> tuple[list[Group], list[list[int]] | None]:
        """Groups and guesses of a step, reduced to the experts that worker `rank` owns."""
        owner = self._blob_owner
        groups: list[Group] = []
        for blobs, counts in step.groups:
            if counts is None:
                groups.append(([blob for blob in blobs if owner[blob] == rank], None))
            else:
                mine = [(b, c) for b, c in zip(blobs, counts, strict=True) if owner[b] == rank]
                groups.append(([b for b, _ in mine], [c for _, c in mine]))
        guesses = step.guesses
        if guesses is not None:
            guesses = [[blob for blob in row if owner[blob] == rank] for row in guesses]
        return groups, guesses

    def own_scores(self, rank: int, step: Step) -> list[list[float]] | None:
        """Scores beside the guesses of a step, reduced like these to the experts that worker `rank` owns."""
        if step.scores is None or step.guesses is None:
            return None
        owner = self._blob_owner
        both = zip(step.guesses, step.scores, strict=True)
        return [[s for blob, s in zip(*row, strict=True) if owner[blob] == rank] for row in both]

    def message_bytes(self, number: int, step: Step) -> list[list[list[int]]]:
        """Bytes of activations [layer][src][dst] from worker to worker in step `number`, own excluded."""
        sizes = self._message_bytes.get(number)
        if sizes is None:
            layers = np.arange(len(self._owners))[None, :, None]
            pairs = np.zeros((len(self._owners), self._workers, self._workers), dtype=np.int64)
            for slot, rows in zip(step.block.slots, step.rows, strict=True):
                source = slot % self._workers
                owners = np.where(rows >= 0, self._owners[layers, np.maximum(rows, 0)], -1)
                for target in range(self._workers):
                    if target != source:
                        pairs[:, source, target] += (owners == target).any(axis=2).sum(axis=0)
            sizes = self._message_bytes[number] = (pairs * self._hidden_bytes).tolist()
        return sizes

    def send(
        self, worker: Worker, number: int, task: int, step: Step, layer: int, t: int, back: bool
    ) -> Generator[Event, Any, None]:
        """Post the end of a task at `t` with its messages: activations out, or results `back`."""
        if worker.must_sync(t):
            yield from worker.sync(t)
        sizes = self.message_bytes(number, step)[layer]
        messages = {}
        for target in range(self._workers):
            size = sizes[target][worker.rank] if back else sizes[worker.rank][target]
            if size:
                message = Transfer(-1, size, True)
                self._fabric.submit(self._lanes[worker.rank, target], message, t)
                messages[target] = message
        if worker.recording is not None:
            worker.recording.asked(worker.name, messages.values(), t)
        self._post(worker, (number, task, worker.rank), t, messages)

    def gather(self, worker: Worker, key: tuple[int, tuple[int, ...]], t: int) -> Generator[Event, Any, int]:
        """Wait until the tasks `key` = (step, ids) have ended everywhere and their messages are here."""
        number, tasks = key
        latest = t
        path: Snapshot | None = None
        last_message: tuple[_Post, Transfer] | None = None
        for rank, task in enumerate(tasks):
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
        """The end of a step: everybody leaves when the last has come."""
        if worker.must_sync(t):
            yield from worker.sync(t)
        self._post(worker, (number, _END, worker.rank), t, {})
        latest = yield from self.gather(worker, (number, (_END,) * self._workers), t)
        for key in [key for key in self._posts if key[0] < number]:
            del self._posts[key]
        self._message_bytes.pop(number - 1, None)
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
