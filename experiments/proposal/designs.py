"""The best designs of a proposed machine within a budget: a search among the values that its file lets change."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from experiments.explain import ConfigError
from experiments.proposal.cases import Case, Changes
from experiments.proposal.runs import Asked, Runs
from experiments.proposal.space import MEASURES, Range, Section, rounded
from experiments.search import MOST_REFUSED, Refusal, look
from hwmodels import Platform
from hwmodels.device import Device
from hwmodels.errors import PlatformError
from hwmodels.near_memory import exceeds_pins

if TYPE_CHECKING:
    import optuna

    from experiments.sweep.points import Point

PART = "designs"
SLACK = 1e-9  # of a budget, for sums of prices
ENERGY = "energy_per_token_j"
OVER, PINS, BROKEN = "exceeding a budget", "more bandwidth than pins carry", "being no machine"
_WHOLE = {item for item in Device.__dataclass_fields__ if Device.__dataclass_fields__[item].type in (int, "int")}


@dataclass(frozen=True)
class Design:
    """One that was run. values: key of the search -> its value; measures: its area, power and cost, as far as known;
    seconds per token (or to the first); joules per token; best: no other is both quicker and thriftier."""

    values: Mapping[str, float]
    measures: Mapping[str, float]
    seconds: float
    energy_j: float
    best: bool


@dataclass(frozen=True)
class Designs:
    """All that were run in a case, in their order. refused: why others were not -> how many; failed: runs with an
    error; start: the file's own measures."""

    section: Section
    case: Case
    found: Sequence[Design]
    refused: Mapping[str, int]
    failed: Mapping[int, str]
    start: Mapping[str, float] = field(default_factory=dict)

    @property
    def frontier(self) -> list[Design]:
        """The best ones, the quickest first; of equal ones the first."""
        best = {(design.seconds, design.energy_j): design for design in reversed(self.found) if design.best}
        return [best[key] for key in sorted(best)]


class DesignSpace:
    """The points of a section, for `experiments.search.look`: each is the machine with other values."""

    def __init__(self, section: Section, runs: Runs, asked: Asked) -> None:
        self._section, self._runs, self._asked = section, runs, asked
        self._values: dict[int, dict[str, float]] = {}
        own = {span.key: span.before for span in section.ranges}
        inside = all(
            span.before in span.values if span.values else span.low <= span.before <= span.high
            for span in section.ranges
        )
        self.start: Mapping[str, Any] | None = own if inside else None
        self.first = runs.point(0, asked)

    def point(self, trial: optuna.Trial) -> Point:
        """The design that a trial asks for."""
        values = {span.key: _drawn(span, trial) for span in self._section.ranges}
        self._values[trial.number] = values
        asked = Asked(self._asked.side, self._asked.system, {**self._asked.changes, **self._changes(values)})
        return self._runs.point(trial.number, asked)

    def values(self, number: int) -> dict[str, float]:
        """Those of a trial."""
        return self._values[number]

    def refuses(self, point: Point) -> Refusal | None:
        """Designs over budget, with more bandwidth than their pins carry, or that are no machine."""
        excess = self._section.excess(self._values[point.number])
        if excess > SLACK:
            return Refusal(OVER, excess)
        try:
            platform = Platform.from_mapping(point.config["platform"])
        except PlatformError:
            return Refusal(BROKEN, 1.0)
        return Refusal(PINS, 1.0) if any(exceeds_pins(device) for device in platform.devices.values()) else None

    def _changes(self, values: Mapping[str, float]) -> Changes:
        changes: Changes = {}
        power: dict[str, float] = {}
        for span in self._section.ranges:
            factor = values[span.key] / span.before
            for place, (path, before) in enumerate(span.parameter.values.items()):
                changes[path] = _whole(path, before * factor if place else values[span.key])
            if span.power is not None:
                path, watts = span.power
                power[path] = power.get(path, watts) + span.adds(values[span.key])["tdp_w"] / span.count
        return {**changes, **power}


def designs(section: Section, case: Case, asked: Asked, runs: Runs, seed: int) -> Designs:
    """Search the section with the runs of a case. Raises ConfigError, one sentence, if no design is within budget."""
    space = DesignSpace(section, runs, asked)
    aims = {case.metric: "minimize", ENERGY: "minimize"}
    found = look(
        space,
        runs.overrides,
        aims,
        section.trials,
        runs.folder / PART,
        seed=seed,
        workers=runs.workers,
        report=runs.report,
    )
    runs.count += len(found.trials) + len(found.failures)
    if not len(found.trials):
        if found.failures:
            raise ConfigError(f"search: no design runs; the first said: {next(iter(found.failures.values()))}")
        why = max(found.refused, key=lambda key: found.refused[key])
        own = ", ".join(f"{_measure(name, value)}" for name, value in section.measures(_own(section)).items())
        raise ConfigError(
            f"search.budget: {MOST_REFUSED} designs in a row could not be run ({why}); the file's own has {own}."
        )
    best = set(found.best["point"].tolist())
    rows = [
        Design(
            values := space.values(int(row["point"])),
            section.measures(values),
            _number(row.get(case.metric)),
            _number(row.get(ENERGY)),
            row["point"] in best,
        )
        for row in found.trials.to_dict("records")
    ]
    return Designs(section, case, rows, found.refused, found.failures, section.measures(_own(section)))


def _own(section: Section) -> dict[str, float]:
    return {span.key: span.before for span in section.ranges}


def _measure(name: str, value: float) -> str:
    return f"{value:.4g} {MEASURES[name]}"


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _drawn(span: Range, trial: optuna.Trial) -> float:
    if span.values:
        return float(trial.suggest_categorical(span.key, list(span.values)))
    value = trial.suggest_float(span.key, span.low, span.high, log=True)
    return value if value == span.before else _whole(span.key, min(max(rounded(value), span.low), span.high))


def _whole(path: str, value: float) -> float:
    """Counts and bytes are whole; what goes with a value never falls behind it."""
    return math.ceil(value) if path.rpartition(".")[2] in _WHOLE else value
