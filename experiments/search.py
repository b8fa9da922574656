"""Search for good configurations with Optuna, ask and tell, over the runner of sweeps.

Overrides span the space: `policy/cache=lru,lfu`, `cache_gib=interval(1,8)`, `workload.batch_size=range(1,9)`,
`tag(log,interval(1e-6,1e-3))` for a logarithmic scale; those with one value are fixed. Trials are asked for in
batches and told in order, so that a search is a pure function of its overrides and seed: started again, it
asks for the same trials, finds the finished ones in the journal, and goes on.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from experiments.compose import axes
from experiments.explain import ConfigError, did_you_mean
from experiments.sweep.identity import point_id
from experiments.sweep.journal import entries
from experiments.sweep.points import Composer, Point, check_ranges
from experiments.sweep.runner import Progress, Runner, Task
from experiments.sweep.sweep import SWEEP_FILES, open_folder, sweep_folder, tables_on_stop, write_tables
from experiments.sweep.tables import write_file

if TYPE_CHECKING:
    import optuna
    import pandas as pd

BEST = "best.csv"
DIGITS = 6  # of numbers drawn from an interval
EXCESS = "excess"  # attribute of a trial that was refused
MOST_REFUSED = 200  # draws in a row that a space refuses before the search ends
Suggest = Callable[["optuna.Trial"], str]  # gives an override


class Refusal(NamedTuple):
    """Why a point is not run, and by how much it is beyond what is allowed (above 0, of any scale)."""

    why: str
    excess: float


class Space(Protocol):
    """Where is looked. first: any point of it; start: parameters to try first, if any.

    point: the one that a trial asks for; refuses: why it is not run, if so: another is drawn in its place.
    """

    first: Point
    start: Mapping[str, Any] | None

    def point(self, trial: optuna.Trial) -> Point: ...

    def refuses(self, point: Point) -> Refusal | None: ...


@dataclass(frozen=True)
class Found:
    """What a search came to. trials: the finished ones; best: the best one, or the Pareto front of several aims.
    refused: why points were not run -> how many."""

    folder: Path
    reused: int
    trials: pd.DataFrame
    best: pd.DataFrame
    failures: dict[int, str]
    refused: dict[str, int]


def search_folder(name: str) -> Path:
    """Where a search is written unless a folder is given."""
    sweep_folder(name)  # refuses what names no folder
    return Path("runs") / "search" / name


def search(
    overrides: Sequence[str],
    aims: Mapping[str, str],
    trials: int = 100,
    folder: Path | None = None,
    *,
    batch: int = 8,
    seed: int = 0,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Found:
    """Look among `trials` points of the space for those that are best in all aims, and write their tables.

    aims: name of a metric -> "minimize" or "maximize". batch: points asked for at once, whatever the number
    of processes. Trials that fail, or have no value of a metric, are told to Optuna as failed.
    Raises ConfigError for a space or metrics that cannot be, SweepError if the search had to stop.
    """
    needs_optuna()
    if not aims:
        raise ConfigError("search needs an aim; give --minimize or --maximize with the name of a metric.")
    if trials < 1 or batch < 1:
        raise ConfigError(f"trials is {trials} and batch {batch}; expected at least 1 of each.")
    if workers is not None and workers < 0:
        raise ConfigError(f"workers is {workers}; expected 0 (no other process) or more.")
    space = _Overrides(overrides)
    folder = folder or search_folder(space.first.config["name"])
    return look(space, overrides, aims, trials, folder, batch=batch, seed=seed, workers=workers, report=report)


def needs_optuna() -> None:
    """Raise ConfigError, one sentence, if Optuna is not there."""
    try:
        import optuna  # noqa: F401
    except ImportError:
        raise ConfigError("search needs Optuna; pip install 'moesim[search]' brings it.") from None


def look(
    space: Space,
    overrides: Sequence[str],
    aims: Mapping[str, str],
    trials: int,
    folder: Path,
    *,
    batch: int = 8,
    seed: int = 0,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Found:
    """As `search`, in any space; `overrides` only tell a reader of the folder what it is. Fewer trials if the space
    refuses too many points in a row."""
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna 4 calls limits an experiment, 5 has another way too
        limits = None if isinstance(space, _Overrides) else _excess
        sampler = optuna.samplers.TPESampler(seed=seed, constant_liar=True, constraints_func=limits)
    directions: Any = list(aims.values())
    study = optuna.create_study(directions=directions, sampler=sampler)
    if space.start is not None:
        study.enqueue_trial(dict(space.start))
    open_folder(folder, overrides, [space.first], (*SWEEP_FILES, BEST))
    identified: list[tuple[Point, str]] = []
    refused: dict[str, int] = {}
    overall = Progress(trials)
    with tables_on_stop(folder, identified), Runner(folder, workers) as runner:
        while len(identified) < trials:
            asked, points = _allowed(study, space, min(batch, trials - len(identified)), refused)
            if not points:
                break
            batch_ids = [point_id(point.config) for point in points]
            tasks = [Task(identity, point.config) for point, identity in zip(points, batch_ids, strict=True)]
            progress = runner.run(tasks)
            overall.reused += progress.reused
            overall.finished += progress.finished
            overall.failures |= progress.failures
            report(overall)
            identified += zip(points, batch_ids, strict=True)
            found = {entry["id"]: entry["metrics"] for entry in entries(folder) if "error" not in entry}
            for trial, identity in zip(asked, batch_ids, strict=True):
                values = _values(found.get(identity), aims)
                if values is None:
                    study.tell(trial, state=optuna.trial.TrialState.FAIL)
                else:
                    study.tell(trial, values)
    done = write_tables(folder, identified, overall)
    numbers = [trial.number for trial in study.best_trials]
    best = done.points[done.points["point"].isin(numbers)] if len(done.points) else done.points
    if len(best):
        write_file(best, folder / BEST)
    else:
        (folder / BEST).unlink(missing_ok=True)
    return Found(folder, done.reused, done.points, best, done.failures, refused)


def _allowed(
    study: optuna.Study, space: Space, count: int, refused: dict[str, int]
) -> tuple[list[optuna.Trial], list[Point]]:
    """So many trials and their points that the space does not refuse, or fewer; `refused` counts the others."""
    import optuna

    trials: list[optuna.Trial] = []
    points: list[Point] = []
    in_a_row = 0
    while len(points) < count and in_a_row < MOST_REFUSED:
        trial = study.ask()
        point = space.point(trial)
        refusal = space.refuses(point)
        if refusal is not None:
            trial.set_user_attr(EXCESS, refusal.excess)
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)  # the sampler learns where it may not go
            refused[refusal.why] = refused.get(refusal.why, 0) + 1
            in_a_row += 1
            continue
        in_a_row = 0
        trials.append(trial)
        points.append(point)
    return trials, points


def _excess(trial: optuna.trial.FrozenTrial) -> tuple[float]:
    return (trial.user_attrs.get(EXCESS, 0.0),)


class _Overrides:
    """The space that overrides span; it refuses nothing."""

    start: Mapping[str, Any] | None = None

    def __init__(self, overrides: Sequence[str]) -> None:
        self._composer, self._suggest = _space(overrides)
        self.first = self._composer.first

    def point(self, trial: optuna.Trial) -> Point:
        return self._composer.point(trial.number, [draw(trial) for draw in self._suggest])

    def refuses(self, point: Point) -> Refusal | None:
        return None


def _space(overrides: Sequence[str]) -> tuple[Composer, list[Suggest]]:
    """What makes points, and for each key what draws its override."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep
    from hydra.errors import HydraException

    spans: dict[str, IntervalSweep | RangeSweep] = {}
    plain = []
    for item in overrides:
        try:
            override = OverridesParser.create().parse_override(item)
        except HydraException:
            plain.append(item)  # `axes` will say what is wrong
            continue
        key, value = override.get_key_element(), override.value()
        if isinstance(value, IntervalSweep) or (isinstance(value, RangeSweep) and _is_whole(value)):
            spans[key] = value
            plain.append(f"{key}={_ends(value)[0]}")
        else:
            plain.append(item)
    check_ranges(plain)
    listed = axes(plain)
    for key, span in spans.items():
        listed[key] = [f"{key}={end}" for end in _ends(span)]
    if all(len(items) == 1 for items in listed.values()):
        raise ConfigError("search has nothing to vary; give a key several values, or an interval(low,high).")
    suggest = [_suggestion(key, items, spans.get(key)) for key, items in listed.items()]
    return Composer(listed), suggest


def _is_whole(span: Any) -> bool:
    return all(isinstance(value, int) for value in (span.start, span.stop, span.step)) and span.step > 0


def _ends(span: Any) -> tuple[float, float]:
    """The smallest and the largest value."""
    if hasattr(span, "end"):
        return span.start, span.end
    return span.start, span.start + (span.stop - 1 - span.start) // span.step * span.step


def _suggestion(key: str, items: list[str], span: Any) -> Suggest:
    if span is None:
        return lambda trial: items[0] if len(items) == 1 else str(trial.suggest_categorical(key, items))
    low, high = _ends(span)
    log = "log" in span.tags
    if not (math.isfinite(low) and math.isfinite(high)):
        raise ConfigError(f"{key} spans {low:g} to {high:g}; expected finite ends.")
    if low >= high:
        raise ConfigError(f"{key} spans {low:g} to {high:g}; expected the lower end first.")
    if hasattr(span, "end"):
        return lambda trial: f"{key}={trial.suggest_float(key, low, high, log=log):.{DIGITS}g}"
    step = 1 if log else span.step
    return lambda trial: f"{key}={trial.suggest_int(key, int(low), int(high), step=step, log=log)}"


def _values(metrics: dict[str, Any] | None, aims: Mapping[str, str]) -> list[float] | None:
    """The values of the aims; None for a failed trial, or one that has no value of an aim."""
    if metrics is None:
        return None
    for name in aims:
        if name not in metrics and not name.endswith("_share"):
            numbers = [key for key, value in metrics.items() if isinstance(value, int | float)]
            raise ConfigError(f"{name}: there is no such metric{did_you_mean(name, numbers)}")
    values = [metrics.get(name, 0.0) for name in aims]
    return None if None in values else [float(value) for value in values]
