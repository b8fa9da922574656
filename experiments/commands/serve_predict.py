"""`moesim serve-predict`: TTFT and TPOT of rows of a serving table."""

from __future__ import annotations

import argparse
from pathlib import Path

from experiments.commands.ops import SUFFIXES, _read
from experiments.compose import read_yaml
from experiments.explain import ConfigError
from experiments.run import write_table
from experiments.serving.predict import COLUMNS, predict
from hwmodels.datasheet import Datasheet


def main(options: argparse.Namespace) -> int:
    """Predict every row of a table and write it with the predictions."""
    source, out = Path(options.file), Path(options.out)
    for path in (source, out):
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: expected a file ending in {' or '.join(SUFFIXES)}.")
    devices = {}
    for name in options.device:
        devices[Datasheet.from_mapping(read_yaml(Path(name)), name).name] = name
    try:
        answered = predict(_read(source), devices)
    except ConfigError as error:
        message = str(error)
        raise ConfigError(message if message.startswith(str(source)) else f"{source}: {message}") from None
    write_table(answered, out)
    failed = answered[answered[COLUMNS[2]] != ""]
    print(f"{len(answered) - len(failed):,} of {len(answered):,} rows predicted, written to {out}")
    for reason, count in failed[COLUMNS[2]].value_counts().head(5).items():
        print(f"  {count:,} without: {reason}")
    return 2 if len(answered) == len(failed) else 0
