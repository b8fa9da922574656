"""`moesim ops predict`: times of measured kinds of kernels, from shapes and a datasheet."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from experiments.compose import read_yaml
from experiments.explain import ConfigError
from experiments.run import write_table
from hwmodels.datasheet import Datasheet
from hwmodels.predict import predict, table_of, tables

if TYPE_CHECKING:
    import pandas as pd

COLUMNS = {  # kernel model -> (predicted column, units in a second)
    "deepep_low_latency_dispatch": ("predicted_dispatch_us", 1e6),
    "deepep_low_latency_combine": ("predicted_combine_us", 1e6),
}
SUFFIXES = (".parquet", ".csv")


def main(options: argparse.Namespace) -> int:
    """Predict every row of a table and write it with the predictions."""
    source, out = Path(options.file), Path(options.out)
    for path in (source, out):
        if path.suffix not in SUFFIXES:
            raise ConfigError(f"{path}: expected a file ending in {' or '.join(SUFFIXES)}.")
    frame = _read(source)
    sheets = {}
    for name in options.device:
        sheet = Datasheet.from_mapping(read_yaml(Path(name)), name)
        sheets[sheet.name] = sheet
    parts = [_predicted(frame[chosen], table, sheets) for table, chosen in _split(frame, options.table).items()]
    import pandas as pd

    answered = pd.concat(parts).sort_index()
    write_table(answered, out)
    failed = answered[answered["reason"] != ""]
    print(f"{len(answered) - len(failed):,} of {len(answered):,} rows predicted, written to {out}")
    for reason, count in failed["reason"].value_counts().head(5).items():
        print(f"  {count:,} without: {reason}")
    return 2 if len(answered) == len(failed) else 0


def _read(path: Path) -> pd.DataFrame:
    import pandas as pd
    import pyarrow as pa

    if not path.is_file():
        raise ConfigError(f"{path}: there is no such file.")
    try:
        frame = pd.read_csv(path) if path.suffix == ".csv" else pd.read_parquet(path)
    except (ValueError, OSError, pa.ArrowException) as error:
        raise ConfigError(f"{path}: this table cannot be read: {str(error).splitlines()[0]}") from None
    return frame.reset_index(drop=True)


def _split(frame: pd.DataFrame, table: str | None) -> dict[str, pd.Series]:
    """Table -> the rows of the frame that belong to it."""
    found = [table] if table else table_of([str(column) for column in frame.columns])
    if not found:
        raise ConfigError(
            f"the columns fit none of the measured tables ({', '.join(tables())}); name one with --table."
        )
    everything = frame.index >= 0
    if len(found) == 2 and "step" in frame:  # attention: prefill has nothing cached
        context, generation = sorted(found)
        return {context: everything & (frame["step"] == 0), generation: everything & (frame["step"] != 0)}
    if len(found) > 1:
        raise ConfigError(f"the columns fit {' and '.join(found)}; name one with --table.")
    return {found[0]: everything}


def _predicted(frame: pd.DataFrame, table: str, sheets: dict[str, Datasheet]) -> pd.DataFrame:
    answered = predict(frame, table, sheets)
    for column in [str(name) for name in answered.columns if str(name) not in frame and str(name).endswith("_s")]:
        name, factor = COLUMNS.get(column.removesuffix("_s"), ("predicted_ms", 1e3))
        answered[name] = answered.pop(column) * factor
    return answered[[*frame.columns, *(name for name in answered if name not in frame)]]
