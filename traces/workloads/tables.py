"""Columns of a CSV or Parquet file as arrays."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from traces.workloads.requests import WorkloadError

_TEXTS = pa.csv.ConvertOptions(column_types={"task": pa.string(), "tenant": pa.string()})  # 007 is a name, as is NA


def read_columns(path: Path) -> dict[str, np.ndarray]:
    """Name -> values [rows] of every column; empty cells are NaN among numbers and None among texts.

    Raises WorkloadError for another kind of file, or one that cannot be read.
    """
    if path.suffix not in (".csv", ".parquet"):
        raise WorkloadError(f"{path}: expected a table ending in .csv or .parquet.")
    if not path.is_file():
        raise WorkloadError(f"{path}: there is no such file.")
    try:
        table = pa.csv.read_csv(path, convert_options=_TEXTS) if path.suffix == ".csv" else pq.read_table(path)
        names = table.column_names
    except (pa.ArrowException, OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise WorkloadError(f"{path}: the table cannot be read ({reason}).") from None
    if len(set(names)) != len(names):
        raise WorkloadError(f"{path}: the names of its columns must differ.")
    return {name: table.column(name).to_numpy() for name in names}
