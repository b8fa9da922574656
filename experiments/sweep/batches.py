"""Sweeps on Hydra's launchers (Slurm by submitit, Ray, joblib): each job runs a batch of points.

The batches lie in the sweep's folder, which every machine must see; each job appends to a journal of its own
there, so that what a job finished is kept whatever becomes of the others or of the process that launched them.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from omegaconf import DictConfig

from experiments.multirun import multirun, named
from experiments.sweep.journal import Journal, entries
from experiments.sweep.runner import Progress, Task, run_batch, unfinished

FOLDER = "batches"


def on_launcher(
    tasks: Sequence[Task], folder: Path, launcher: Sequence[str], batches: int, report: Callable[[Progress], None]
) -> Progress:
    """Run the unfinished tasks in `batches` jobs of the launcher that the overrides choose."""
    todo, progress = unfinished(tasks, folder)
    report(progress)
    if not todo:
        return progress
    place = folder.resolve() / FOLDER
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    count = min(batches, len(todo))
    for number in range(count):
        chosen = [{"point_id": task.point_id, "config": task.config} for task in todo[number::count]]
        (place / f"{number}.json").write_text(json.dumps(chosen), encoding="utf-8")
    job = named(_job, folder.resolve(), sys.path)
    overrides = [f"batch={','.join(map(str, range(count)))}"]
    try:
        multirun(Path(__file__).parent / "batch.yaml", overrides, launcher, place, job)
    finally:
        ids = {task.point_id for task in todo}
        outcomes = {entry["id"]: entry.get("error") for entry in entries(folder) if entry["id"] in ids}
        progress.add(outcomes.items())
        report(progress)
        shutil.rmtree(place, ignore_errors=True)
    return progress


def _job(folder: Path, path: list[str], cfg: DictConfig) -> None:
    """Run one batch, perhaps on another machine."""
    sys.path += [place for place in path if place not in sys.path]  # where the user's own policies may live
    tasks = [Task(**task) for task in json.loads((folder / FOLDER / f"{cfg.batch}.json").read_text(encoding="utf-8"))]
    with Journal(folder) as journal:
        for task in tasks:
            run_batch([task], journal)
