"""`moesim figure`: a named figure, run and drawn."""

from __future__ import annotations

import argparse
import json
import sys
import warnings
from pathlib import Path

from experiments.commands.sweep import INTERRUPTED, live
from experiments.explain import ConfigError
from experiments.figures.named import WORK, Drawn, draw_figure


def main(options: argparse.Namespace) -> int:
    """Run what the figure needs, draw it, and say what was written."""
    if options.workers is not None and options.workers < 0:
        raise ConfigError(f"--workers is {options.workers}; expected 0 (no other process) or more.")
    out = Path(options.out).expanduser() if options.out else WORK
    if out.exists() and not out.is_dir():
        raise ConfigError(f"--out={out}: there is a file of that name; expected a folder.")
    sources = [Path(source).expanduser() for source in options.sources]
    try:
        with warnings.catch_warnings(record=True) as notes, live(options.quiet or options.json) as report:
            warnings.simplefilter("always", UserWarning)
            done = draw_figure(
                options.figure, out, options.overrides, sources, options.workers, report, options.conditions
            )
    except KeyboardInterrupt:
        print("interrupted; the finished runs are kept, and the same command goes on from there.", file=sys.stderr)
        return INTERRUPTED
    remarks = list(dict.fromkeys(str(note.message) for note in notes if issubclass(note.category, UserWarning)))
    if options.json:
        print(json.dumps({"files": [file.as_posix() for file in done.files], "remarks": remarks}, indent=2))
    elif not options.quiet:
        for remark in remarks:
            print(f"note: {remark}")
        print(f"{_counted(done, sources)}written to {out.as_posix()}: {', '.join(file.name for file in done.files)}")
    return 0


def _counted(done: Drawn, sources: list[Path]) -> str:
    """What was run or read, with a semicolon; nothing for a figure without runs."""
    runs = f"{done.runs} run{'s' if done.runs > 1 else ''}"
    if sources:
        where = sources[0].as_posix() if len(sources) == 1 else f"{len(sources)} folders"
        return f"{runs} read from {where}; "
    return f"{runs}{f', {done.reused} of them from before' if done.reused else ''}; " if done.runs else ""
