"""`moesim calibrate`: fit the kernel models to the shipped measurements, and report their errors."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.explain import ConfigError, did_you_mean
from hwmodels.calibrate import calibrate, report, write
from hwmodels.kernels import kernels
from hwmodels.predict import FITTED


def main(options: argparse.Namespace) -> int:
    """Fit, write one file for each kernel model, and print or write the table of errors."""
    known = kernels()
    for name in options.kernels:
        if name not in known:
            raise ConfigError(f"{name}: there is no such kernel model{did_you_mean(name, known)}")
    folder = Path(options.out) if options.out else FITTED
    folder.mkdir(parents=True, exist_ok=True)
    names = options.kernels or list(known)
    contents = calibrate(names, options.workers, lambda text: print(text, file=sys.stderr))
    for content in contents:
        write(content, folder)
    table = report(contents)
    if options.report:
        Path(options.report).write_text(f"{table}\n", encoding="utf-8")
    else:
        print(table)
    return 0
