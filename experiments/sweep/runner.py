"""Running the points of a sweep: on a pool of processes or in this one, every finished point durable at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

from experiments.explain import in_own_policy, one_sentence, said_by
from experiments.run import run_config
from experiments.sweep.journal import Journal, entries
from simulator.result import Result

BATCH_S = 0.2  # of work handed to a process at once
MAX_BATCH = 64


class SweepError(ValueError):
    """A sweep that had to stop; the message is one sentence, and what was finished is kept."""


@dataclass(frozen=True)
class Task:
    """A point to run, as sent to a process."""

    point_id: str
    config: dict[str, Any]


@dataclass
class Progress:
    """How far a sweep is. `reused` points were finished before it began; failures: id of the point -> why."""

    total: int
    reused: int = 0
    finished: int = 0
    failures: dict[str, str] = field(default_factory=dict)

    def add(self, outcomes: Iterable[tuple[str, str | None]]) -> None:
        """Count what a batch came to: (id, error or None)."""
        for point_id, error in outcomes:
            if error is None:
                self.finished += 1
            else:
                self.failures[point_id] = error


class Runner:
    """Runs tasks and appends them to the journal of `folder`; a context, whose processes serve all calls of `run`.

    workers: processes (None: one for each core; 0: this process alone).
    """

    def __init__(self, folder: Path, workers: int | None = None) -> None:
        self._folder = folder
        self._workers = (os.cpu_count() or 1) if workers is None else workers
        self._stack = ExitStack()
        self._pool: ProcessPoolExecutor | None = None

    def run(self, tasks: Sequence[Task], report: Callable[[Progress], None] = lambda progress: None) -> Progress:
        """Run each distinct task that the journal does not hold yet; `report` is called as points finish.

        Raises SweepError if the disk is full or a process was killed.
        """
        todo, progress = unfinished(tasks, self._folder)
        report(progress)
        kept = "the finished points are kept, and the same command goes on from there"
        try:
            for outcomes in self._outcomes(todo):
                progress.add(outcomes)
                report(progress)
        except OSError as error:
            raise SweepError(f"{self._folder}: {(error.strerror or str(error)).lower()}; {kept}.") from None
        except BrokenProcessPool:
            raise SweepError(
                f"{self._folder}: a process was killed (out of memory? lower --workers); {kept}."
            ) from None
        return progress

    def _outcomes(self, todo: Sequence[Task]) -> Iterator[list[tuple[str, str | None]]]:
        if self._workers == 0:
            with Journal(self._folder) as journal:
                for task in todo:
                    yield run_batch([task], journal)
        elif todo:
            if self._pool is None:
                self._pool = self._stack.enter_context(_pool(self._folder, self._workers))
            yield from _on_pool(self._pool, todo, min(self._workers, len(todo)))

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stack.__exit__(kind, error, at)


def run_tasks(
    tasks: Sequence[Task],
    folder: Path,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Progress:
    """Run tasks once: see `Runner`."""
    with Runner(folder, workers) as runner:
        return runner.run(tasks, report)


def unfinished(tasks: Sequence[Task], folder: Path) -> tuple[list[Task], Progress]:
    """The distinct tasks that the journal does not hold (those that failed are tried again), and how far that is."""
    done = {entry["id"] for entry in entries(folder) if "error" not in entry}
    todo = list({task.point_id: task for task in tasks if task.point_id not in done}.values())
    reused = sum(task.point_id in done for task in tasks)
    return todo, Progress(reused + len(todo), reused)


def run_batch(tasks: Sequence[Task], journal: Journal) -> list[tuple[str, str | None]]:
    """Run tasks, append each to the journal, and return (id, error or None) of each. Raises OSError of the journal."""
    outcomes: list[tuple[str, str | None]] = []
    for task in tasks:
        try:
            entry = {"id": task.point_id, **measures(run_config(task.config))}
        except KeyboardInterrupt:
            raise
        except BaseException as problem:  # a policy of somebody's own may raise anything, or exit: the others go on
            entry = {"id": task.point_id, "error": _why(problem)}
        journal.append(entry)
        outcomes.append((task.point_id, entry.get("error")))
    journal.sync()
    return outcomes


def measures(result: Result) -> dict[str, Any]:
    """What is kept of a run, as plain values: metrics by name, and its requests by column."""
    metrics = dict(result.summary)
    shares = metrics.pop("attribution")
    metrics |= {f"{cause}_share": share for cause, share in shares.items()}
    rows = result.request_rows
    requests = {key: [row[key] for row in rows] for key in rows[0]} if rows else {}
    kept = {"metrics": metrics, "requests": requests, "remarks": list(result.provenance["remarks"])}
    if result.draws:
        kept["draws"] = {key: [row[key] for row in result.draws] for key in result.draws[0]}
    return kept


def _why(problem: BaseException) -> str:
    """One sentence that UTF-8 can hold; for what is no input error, with its kind and place."""
    if (sentence := in_own_policy(problem)) is not None:
        return sentence
    text = said_by(problem)
    if isinstance(problem, ValueError | MemoryError | OSError):
        return text or "out of memory."
    place = traceback.extract_tb(problem.__traceback__)[-1]
    what = one_sentence(text or type(problem).__name__).rstrip(".")
    return f"{type(problem).__name__}: {what} ({Path(place.filename).name}, line {place.lineno})."


# ---- the pool

_journal: Journal | OSError | None = None  # of a worker process, or why it has none


def _start(folder: Path, path: list[str]) -> None:
    """Prepare a worker process: its journal, where to find classes, and whom to follow."""
    global _journal
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent decides
    sys.path[:] = path
    try:
        _journal = Journal(folder)
    except OSError as error:
        _journal = error
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()  # no orphans


def _work(tasks: Sequence[Task]) -> list[tuple[str, str | None]]:
    if isinstance(_journal, OSError):
        raise _journal
    assert _journal is not None
    return run_batch(tasks, _journal)


@contextmanager
def _pool(folder: Path, workers: int) -> Iterator[ProcessPoolExecutor]:
    """A pool whose processes do not outlive an error, an interrupt or this process."""
    context = multiprocessing.get_context("forkserver" if os.name == "posix" else "spawn")
    if os.name == "posix":
        context.set_forkserver_preload(["experiments.sweep.runner"])
    pool = ProcessPoolExecutor(workers, context, _start, (folder, sys.path))
    try:
        yield pool
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    pool.shutdown()


def _on_pool(pool: ProcessPoolExecutor, todo: Sequence[Task], workers: int) -> Iterator[list[tuple[str, str | None]]]:
    """Outcomes as batches finish. Batches grow to BATCH_S of work: small overhead, even load, live progress."""
    waiting: dict[Future[list[tuple[str, str | None]]], int] = {}
    place, size, begin, count = 0, 1, time.monotonic(), 0
    while place < len(todo) or waiting:
        while place < len(todo) and len(waiting) < 2 * workers:
            fair = max(1, (len(todo) - place) // (2 * workers))
            batch = todo[place : place + min(size, fair)]
            waiting[pool.submit(_work, batch)] = len(batch)
            place += len(batch)
        for future in wait(waiting, return_when=FIRST_COMPLETED).done:
            count += waiting.pop(future)
            size = max(1, min(MAX_BATCH, int(BATCH_S * workers * count / (time.monotonic() - begin))))
            yield future.result()
