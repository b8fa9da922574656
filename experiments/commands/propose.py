"""`moesim propose`: is a machine that does not exist worth building?"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.commands.sweep import INTERRUPTED, live
from experiments.explain import ConfigError
from experiments.proposal.cases import QUICK, Scope
from experiments.proposal.study import HTML, MARKDOWN, Study, propose


def main(options: argparse.Namespace) -> int:
    """Run the machine and its rivals, write the report, and print the verdict."""
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers is {options.workers}; expected 0 (no other process) or more.")
    named = [item for given in options.against for item in given]
    rivals = [item for item in named if "=" not in item]
    overrides = [*options.overrides, *(item for item in named if "=" in item)]  # --against takes what follows it
    strange = [item for item in overrides if "=" not in item]
    if strange:
        raise ConfigError(f"{strange[0]}: expected KEY=VALUE; name rivals behind --against.")
    try:
        with live(options.quiet or options.json) as report:
            study = propose(
                options.box,
                rivals,
                Path(options.out or Path("runs", "proposals", Path(options.box).stem)),
                [*overrides, *([f"model={options.model}"] if options.model else []), *_trace(options.trace)],
                systems=options.system,
                scope=QUICK if options.small else Scope(),
                workers=options.workers,
                report=report,
            )
    except KeyboardInterrupt:
        print("interrupted; the finished runs are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    if options.json:
        print(json.dumps(_as_json(study), indent=2, ensure_ascii=False))
    elif not options.quiet:
        _print(study)
    return 0


def _trace(name: str | None) -> list[str]:
    return [f"trace={name}"] if name else []


def _print(study: Study) -> None:
    from rich.console import Console

    from experiments.proposal.designs_page import told
    from experiments.proposal.verdicts import verdict

    console = Console(highlight=False, soft_wrap=True, markup=False)
    for rival in study.rivals:
        console.print(verdict(study, rival).replace("**", ""))
    if study.designs is not None:
        console.print(f"Search: {told(study, study.designs)}")
    console.print(f"{study.runs} runs; written to {study.folder.as_posix()}: {MARKDOWN}, {HTML}")


def _as_json(study: Study) -> dict[str, object]:
    """Speed-ups, null where one of the two does not run."""
    rows = []
    for rival in study.rivals:
        for case in study.cases:
            up = study.speed_up(rival, case)
            rows.append({"rival": rival.label, "workload": case.name, "speed_up": up if up == up else None})
    found = {"out": study.folder.as_posix(), "runs": study.runs, "speed_ups": rows}
    if study.designs is None:
        return found
    best = [{**item.values, **item.measures, "s": item.seconds, "j": item.energy_j} for item in study.designs.frontier]
    return {**found, "best_designs": best}
