"""The runs of all claims, each distinct one once, with the machinery of sweeps: a pool, a journal, resumable."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from experiments.compose import compose_config
from experiments.explain import ConfigError
from experiments.run import plain
from experiments.sweep.identity import point_id
from experiments.sweep.journal import entries
from experiments.sweep.points import Composer, Point
from experiments.sweep.runner import Progress, Task, run_tasks
from experiments.sweep.sweep import open_folder
from experiments.validation.published.claims import Overrides, Paper

FEW = 6  # lists of overrides with the same keys, from which on composing them together is quicker


@dataclass(frozen=True)
class Run:
    """What is known of a finished run. summary: as `Result.summary`, with the critical path's shares as
    `<cause>_share`; requests: columns of its requests; error: why it failed, or None."""

    overrides: Overrides
    identity: str
    summary: Mapping[str, Any] = field(default_factory=dict)
    requests: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    error: str | None = None


def run_all(
    papers: Sequence[Paper],
    folder: Path,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[dict[Overrides, Run], Progress]:
    """Every run of the claims by its overrides, and how many there were. Runs that `folder` holds are not repeated.

    Raises ConfigError naming the file for overrides that cannot be composed, SweepError if it had to stop.
    """
    listed: dict[Overrides, str] = {}
    for paper in papers:
        for overrides in paper.runs():
            listed.setdefault(overrides, str(paper.path))
    return run_listed(listed, folder, workers, report)


def run_listed(
    listed: Mapping[Overrides, str],
    folder: Path,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> tuple[dict[Overrides, Run], Progress]:
    """As `run_all`, for overrides and the files that they stand in."""
    if not listed:
        return {}, Progress(0)
    configs = compose_all(listed)
    identities = {overrides: point_id(config) for overrides, config in configs.items()}
    points = [Point(number, overrides, configs[overrides], {}) for number, overrides in enumerate(configs)]
    open_folder(folder, [], points)
    progress = run_tasks([Task(identities[o], config) for o, config in configs.items()], folder, workers, report)
    wanted = set(identities.values())
    found = {entry["id"]: entry for entry in entries(folder) if entry["id"] in wanted and "error" not in entry}
    runs = {}
    for overrides, identity in identities.items():
        entry = found.get(identity)
        if entry is None:
            runs[overrides] = Run(overrides, identity, error=progress.failures.get(identity, "it did not finish."))
        else:
            remarks = tuple(entry["remarks"])
            runs[overrides] = Run(overrides, identity, entry["metrics"], entry["requests"], remarks)
    return runs, progress


def compose_all(listed: Mapping[Overrides, str]) -> dict[Overrides, dict[str, Any]]:
    """The plain configuration of each list of overrides. Those with the same keys share the work of composing."""
    alike: dict[tuple[str, ...], list[Overrides]] = {}
    for overrides in listed:
        _check_single(overrides, listed[overrides])
        alike.setdefault(tuple(item.partition("=")[0] for item in overrides), []).append(overrides)
    configs: dict[Overrides, dict[str, Any]] = {}
    for keys, group in alike.items():
        try:
            if len(group) < FEW:
                configs |= {overrides: plain(compose_config(overrides)) for overrides in group}
            else:
                configs |= _composed(keys, group)
        except ConfigError:
            for overrides in group:  # to tell which one it is
                try:
                    configs[overrides] = plain(compose_config(overrides))
                except ConfigError as error:
                    raise ConfigError(f"{listed[overrides]}: {error}") from None
    return {overrides: configs[overrides] for overrides in listed}


def _composed(keys: Sequence[str], group: Sequence[Overrides]) -> dict[Overrides, dict[str, Any]]:
    values: dict[str, list[str]] = {key: [] for key in keys}
    for overrides in group:
        for key, item in zip(keys, overrides, strict=True):
            if item not in values[key]:
                values[key].append(item)
    composer = Composer(values)
    return {overrides: composer.point(number, overrides).config for number, overrides in enumerate(group)}


def _check_single(overrides: Iterable[str], path: str) -> None:
    """Raise ConfigError for an override that lists several values: the runs of a claim are single ones."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parser = OverridesParser.create()
    for item in overrides:
        try:
            if parser.parse_override(item).is_sweep_override():
                raise ConfigError(f"{path}: '{item}' gives several values; a run of a claim has one, see `each`.")
        except HydraException:
            raise ConfigError(f"{path}: cannot read '{item}'; expected key=value.") from None
