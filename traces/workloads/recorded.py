"""Recorded services that ship with the package: arrivals and lengths of real requests (traces/data/workloads)."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from traces.workloads.requests import WorkloadError

FOLDER = Path(__file__).parent.parent / "data" / "workloads"
SOURCES = ("azure_code_2023", "azure_conversation_2023")


@cache
def read_recorded(source: str) -> dict[str, np.ndarray]:
    """arrival_s (float64, ascending, exact to the microsecond), prompt_tokens and decode_tokens (int64), all [N].

    Raises WorkloadError for a source that is not shipped.

    >>> read_recorded("azure_conversation_2023")["decode_tokens"][:4]
    array([ 44, 109,  55,  16])
    """
    if source not in SOURCES:
        raise WorkloadError(f"'source' must be one of {', '.join(SOURCES)}, not '{source}'.")
    table = pq.read_table(FOLDER / f"{source}.parquet")
    columns = {name: table.column(name).to_numpy().astype(np.int64) for name in table.column_names}
    columns["arrival_s"] = columns.pop("arrival_us") / 1e6
    for values in columns.values():
        values.flags.writeable = False
    return columns


def window(source: str, column: str, first: int, count: int) -> np.ndarray:
    """`count` values of a column from request `first` on. Raises WorkloadError if there are not so many."""
    values = read_recorded(source)[column]
    if not 0 <= first <= len(values) - count:
        raise WorkloadError(f"{count} requests from 'first' {first} on must be there, but {source} has {len(values)}.")
    return values[first : first + count]
