"""All runs of a proposal, part after part, and what is found in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from experiments.explain import ConfigError
from experiments.proposal.cases import Case, Changes, Scope, cases, map_changes
from experiments.proposal.designs import Designs, designs
from experiments.proposal.parameters import GIB, Parameter, parameters
from experiments.proposal.runs import Asked, Outcome, Runs, with_steps
from experiments.proposal.sides import Side, composed, sides
from experiments.proposal.skew import busiest_share
from experiments.proposal.space import WORKLOADS, Section, section
from experiments.run import check_folder, scenario_from_config
from experiments.search import needs_optuna
from experiments.sweep.runner import Progress
from simulator.scenario import ScenarioError, check_fit

RUNS, FIGURES, MARKDOWN, HTML = "runs", "figures", "report.md", "report.html"
WHOLE, EQUAL = "whole", "equal"  # budgets of experts on the workers


@dataclass
class Study:
    """What was run. main: the budget of all but the first tables; equal_gib: of experts, on each machine's worker.

    systems: (side, system, case, budget) -> outcome; best: (side, case, budget) -> the quickest system;
    drawn: (side, case) -> outcome with draws; swept: (case, parameter, factor) -> outcome of the proposed machine;
    map: (side, batch, context, skew) -> outcome; shares: skew -> share of the busiest experts; designs: of the search,
    if the file asks for one. Sides and cases are by name.
    """

    folder: Path
    scope: Scope
    overrides: tuple[str, ...]
    sides: list[Side]
    cases: list[Case]
    config: dict[str, Any]  # of the proposed machine
    main: str = EQUAL
    equal_gib: float = 0.0
    systems: dict[tuple[str, str, str, str], Outcome] = field(default_factory=dict)
    best: dict[tuple[str, str, str], str] = field(default_factory=dict)
    drawn: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    parameters: list[Parameter] = field(default_factory=list)
    swept: dict[tuple[str, str, float], Outcome] = field(default_factory=dict)
    map: dict[tuple[str, int, int, str | None], Outcome] = field(default_factory=dict)
    shares: dict[str | None, float] = field(default_factory=dict)
    designs: Designs | None = None
    runs: int = 0
    remarks: list[str] = field(default_factory=list)  # of the trace beside the model

    @property
    def box(self) -> Side:
        """The proposed machine."""
        return self.sides[0]

    @property
    def rivals(self) -> list[Side]:
        """What it is compared with."""
        return self.sides[1:]

    def outcome(self, side: Side, case: Case, budget: str | None = None) -> Outcome | None:
        """Of the quickest system; None if none of them runs."""
        budget = budget or self.main
        system = self.best.get((side.label, case.name, budget))
        return None if system is None else self.systems[side.label, system, case.name, budget]

    def seconds(self, side: Side, case: Case, budget: str | None = None) -> float:
        """What is compared: seconds per token, or to the first token; NaN if no system runs."""
        outcome = self.outcome(side, case, budget)
        return math.nan if outcome is None else outcome.value(case.metric)

    def speed_up(self, rival: Side, case: Case, budget: str | None = None) -> float:
        """How many times as quick the proposed machine is; NaN if one of the two does not run."""
        return self.seconds(rival, case, budget) / self.seconds(self.box, case, budget)

    def speed_ups(self, rival: Side, case: Case, parameter: Parameter) -> dict[float, float]:
        """Factor of the parameter -> speed-up, NaN where the proposed machine does not run; 1 is the file's value."""
        found = {1.0: self.speed_up(rival, case)}
        for (case_name, name, factor), outcome in self.swept.items():
            if (case_name, name) == (case.name, parameter.name):
                found[factor] = self.seconds(rival, case) / outcome.value(case.metric)
        return found

    def map_grid(self, rival: Side, skew: str | None) -> np.ndarray:
        """Speed-up [contexts, batches] of decoding; NaN where one of the two does not run."""
        grid = np.full((len(self.scope.contexts), len(self.scope.batches)), math.nan)
        for row, context in enumerate(self.scope.contexts):
            for column, batch in enumerate(self.scope.batches):
                both = [self.map.get((side.label, batch, context, skew)) for side in (rival, self.box)]
                theirs, mine = (math.nan if item is None else item.value("tpot_mean_s") for item in both)
                grid[row, column] = theirs / mine
        return grid


def propose(
    box: str,
    rivals: Sequence[str],
    folder: Path,
    overrides: Sequence[str] = (),
    *,
    systems: Sequence[str] = (),
    scope: Scope | None = None,
    workers: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Study:
    """Run the proposed machine `box` and its rivals, and write report.md and report.html to `folder`.

    box, rivals: names of platforms or files. overrides: of every run; systems: see `sides`. Finished runs in `folder`
    are not run again. Raises ConfigError, one sentence, for input that cannot be used or if the box runs nothing.
    """
    from experiments.proposal.report import write_report

    scope = scope or Scope()
    check_folder(folder, (RUNS, FIGURES, MARKDOWN, HTML), RUNS)
    runs = Runs(folder / RUNS, overrides, workers, report)
    made = sides(box, rivals, systems, overrides)
    config = composed((*overrides, f"platform={box}")).config
    study = Study(folder, scope, tuple(overrides), made, cases(scope), config)
    study.remarks = _check_trace(config)
    searched = _section(study, box)
    _systems(study, runs)
    if not any(study.outcome(study.box, case) for case in study.cases):
        errors = [outcome.error for key, outcome in study.systems.items() if key[0] == study.box.label]
        raise ConfigError(f"{box}: no system runs on it; the first said: {errors[0]}")
    if searched is not None:  # before the long parts, as it may find no design
        _designs(study, runs, *searched)
    _draws(study, runs)
    _sweep(study, runs)
    _map(study, runs)
    study.runs = runs.count
    write_report(study)
    return study


def _systems(study: Study, runs: Runs) -> None:
    """Every system of every machine, with all memory for experts and with the same on all; the quickest of each."""
    given = study.config["cache_gib"]
    wanted = [(side, system, case) for case in study.cases for side in study.sides for system in side.systems]

    def asked(budget: str, gib: float | None) -> dict[Any, Asked]:
        return {
            (side.label, system, case.name, budget): Asked(side, system, {**case.changes, "cache_gib": gib})
            for side, system, case in wanted
        }

    study.systems |= runs.run(WHOLE, asked(WHOLE, None))
    study.main = WHOLE if given is None else EQUAL
    if given is None:  # the least that any machine has for experts
        per_worker = [
            outcome.value("cache_bytes") / len(side.platform.workers)
            for side in study.sides
            for key, outcome in study.systems.items()
            if key[0] == side.label and not outcome.error
        ]
        if not per_worker:
            return
        given = min(per_worker) / GIB
    study.equal_gib = float(given)
    study.systems |= runs.run(EQUAL, asked(EQUAL, study.equal_gib))
    for budget in (WHOLE, EQUAL):
        for case in study.cases:
            for side in study.sides:
                seconds = {
                    system: study.systems[side.label, system, case.name, budget].value(case.metric)
                    for system in side.systems
                }
                known = {system: value for system, value in seconds.items() if value == value}
                if known:
                    study.best[side.label, case.name, budget] = min(known, key=lambda system: known[system])


def _asked(study: Study, side: Side, case: Case, changes: Changes) -> Asked | None:
    """The quickest system of a machine in a case, at the main budget, with further changes."""
    system = study.best.get((side.label, case.name, study.main))
    gib = study.equal_gib if study.main == EQUAL else None
    return None if system is None else Asked(side, system, {**case.changes, "cache_gib": gib, **changes})


def _draws(study: Study, runs: Runs) -> None:
    if not study.scope.draws:
        return
    changes = {"uncertainty.draws": study.scope.draws}
    asked = {
        (side.label, case.name): _asked(study, side, case, changes) for case in study.cases for side in study.sides
    }
    study.drawn |= runs.run("draws", {key: item for key, item in asked.items() if item is not None})


def _sweep(study: Study, runs: Runs) -> None:
    """Each parameter of the proposed machine alone, times each factor."""
    first = next(outcome for case in study.cases if (outcome := study.outcome(study.box, case)))
    gib = first.value("cache_bytes") / len(study.box.platform.workers) / GIB
    study.parameters = parameters(study.box.platform, study.config["platform"], gib)
    asked = {}
    for case in study.cases:
        for parameter in study.parameters:
            for factor in study.scope.factors:
                item = _asked(study, study.box, case, parameter.changes(factor))
                if item is not None:
                    asked[case.name, parameter.name, factor] = item
    study.swept |= runs.run("parameters", asked)


def _map(study: Study, runs: Runs) -> None:
    """Batch by context by skew, each machine with its quickest system for decoding one request, or a batch."""
    scope, (one, many, _) = study.scope, study.cases
    asked = {}
    for skew in scope.skews:
        for context in scope.contexts:
            for batch in scope.batches:
                for side in study.sides:
                    item = _asked(study, side, one if batch == 1 else many, map_changes(scope, batch, context, skew))
                    if item is not None:
                        asked[side.label, batch, context, skew] = item
    study.map |= runs.run("map", asked)
    for skew in scope.skews:
        study.shares[skew] = busiest_share(with_steps(study.config, [] if skew is None else [skew]))


def _check_trace(config: dict[str, Any]) -> list[str]:
    """How the trace differs from the model. Raises ConfigError, one sentence, if it is of another one."""
    scenario = scenario_from_config(config)
    try:
        return check_fit(scenario.model, scenario.trace)
    except ScenarioError as error:
        raise ConfigError(f"{str(error).rstrip('.')}; give --trace one of that model.") from None


def _section(study: Study, box: str) -> tuple[Section, Case] | None:
    """What the file asks to search, and the case that is run for it. Raises ConfigError, one sentence."""
    found = section(study.box.platform, study.config["platform"], box)
    if found is None:
        return None
    needs_optuna()
    if study.scope.trials is not None:
        found = replace(found, trials=min(found.trials, study.scope.trials))
    return found, study.cases[WORKLOADS.index(found.workload)]


def _designs(study: Study, runs: Runs, found: Section, case: Case) -> None:
    """Search with the system that is quickest with the file's values."""
    asked, own = _asked(study, study.box, case, {}), study.outcome(study.box, case)
    if asked is not None and own is not None:
        if math.isnan(own.value("energy_per_token_j")):
            raise ConfigError(
                f"{study.box.label}: field 'search' weighs time and energy, and no energy is known; expected tdp_w, or"
                " process and memory_technology, of its devices."
            )
        study.designs = designs(found, case, asked, runs, study.config["seed"])
