"""Runs of a proposal: ordinary points through the runner of sweeps, each part of the study a folder that resumes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.compose import axes
from experiments.explain import ConfigError
from experiments.proposal.cases import Changes
from experiments.proposal.sides import Side, composed, overrides_of
from experiments.results.frames import read_table
from experiments.run import DRAWS
from experiments.sweep.points import Point
from experiments.sweep.runner import Progress
from experiments.sweep.sweep import REQUESTS, run_points

if TYPE_CHECKING:
    import pandas as pd

STEPS = "trace.steps"


@dataclass(frozen=True)
class Asked:
    """A run: of a machine under a system, with changes of the configuration."""

    side: Side
    system: str
    changes: Changes


@dataclass(frozen=True)
class Outcome:
    """What came of it. metrics: of the summary; error: why there are none; requests, draws: rows of it."""

    metrics: Mapping[str, Any]
    error: str
    requests: pd.DataFrame | None
    draws: pd.DataFrame | None

    def value(self, metric: str) -> float:
        """A metric, NaN if the run failed or does not define it."""
        found = self.metrics.get(metric)
        return float("nan") if found is None else float(found)

    @property
    def shares(self) -> dict[str, float]:
        """Cause -> share of the time, the largest first."""
        ending = "_share"
        found = {
            key.removesuffix(ending): float(value)
            for key, value in self.metrics.items()
            if key.endswith(ending) and not key.endswith("_weight_share") and value == value and value > 0
        }
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


class Runs:
    """Runs the parts of a study below `folder`. overrides: of every run, such as model, trace and seed."""

    def __init__(
        self,
        folder: Path,
        overrides: Sequence[str],
        workers: int | None = None,
        report: Callable[[Progress], None] = lambda progress: None,
    ) -> None:
        several = [key for key, items in axes(overrides).items() if len(items) > 1]
        if several:
            raise ConfigError(f"{several[0]}: expected one value; a proposal runs its own set of workloads.")
        self.folder, self.overrides, self.workers, self.report = folder, tuple(overrides), workers, report
        self.count = 0

    def run(self, part: str, asked: Mapping[Any, Asked]) -> dict[Any, Outcome]:
        """Key -> outcome, for all that is asked; `part` names the folder."""
        listed = [self.point(number, item) for number, item in enumerate(asked.values())]
        done = run_points(self.overrides, listed, self.folder / part, self.workers, self.report)
        self.count += len(listed)
        rows = {row["point"]: row for row in done.points.to_dict("records")} if len(done.points) else {}
        tables = {name: self._rows(part, name) for name in (REQUESTS, DRAWS)}
        return {
            key: Outcome(
                rows.get(number, {}),
                done.failures.get(number, ""),
                tables[REQUESTS].get(number),
                tables[DRAWS].get(number),
            )
            for number, key in enumerate(asked)
        }

    def _rows(self, part: str, name: str) -> dict[int, pd.DataFrame]:
        path = self.folder / part / name
        return dict(iter(read_table(path).groupby("point"))) if path.exists() else {}

    def point(self, number: int, asked: Asked) -> Point:
        """The point of a sweep that is this run."""
        base = composed((*overrides_of(asked.system), "reference=false", *self.overrides, _platform(asked.side)))
        config = base.config
        for key, value in asked.changes.items():
            config = with_steps(config, value) if key == STEPS else changed(config, key.split("."), value)
        own = [f"{key}={value}" for key, value in asked.changes.items()]
        return Point(number, (*base.overrides, *own), config, base.choices)


def _platform(side: Side) -> str:
    return f"platform={side.choice}"


def with_steps(config: dict[str, Any], steps: Sequence[str]) -> dict[str, Any]:
    """The configuration with further transforms of its trace."""
    found: dict[str, Any] = changed(config, STEPS.split("."), [*(config["trace"].get("steps") or []), *steps] or None)
    return found


def changed(node: Any, path: Sequence[str], value: Any) -> Any:
    """A copy of nested mappings and lists with another value at `path`; what lies beside it is shared.

    >>> changed({"links": [{"name": "pcie"}, {"name": "nvme"}]}, ["links", "1", "name"], "sata")
    {'links': [{'name': 'pcie'}, {'name': 'sata'}]}
    """
    if not path:
        return value
    if isinstance(node, list):
        place = int(path[0])
        return [changed(item, path[1:], value) if at == place else item for at, item in enumerate(node)]
    inner = (node or {}).get(path[0])
    return {**(node or {}), path[0]: changed(inner, path[1:], value)}
