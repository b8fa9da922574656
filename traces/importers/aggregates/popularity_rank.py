"""Reader of a ranking of all experts by popularity: CSV with the columns ``rank,layer,expert``.

From github efeslab/fiddler, src/fiddler/mixtral.py, a literal list written as a table.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from traces.importers._json import first_bytes
from traces.importers.aggregates._aggregates import Aggregates
from traces.schema import TraceError

DESCRIPTION = "a ranking of all experts of all layers by popularity, without counts"
_HEADER = "rank,layer,expert"


def recognise(path: Path) -> bool:
    """Return whether the first line is the header of this table."""
    return first_bytes(path, 64).partition(b"\n")[0].strip() == _HEADER.encode()


def read(path: Path) -> Aggregates:
    """Return the ranks by layer."""
    try:
        table = pd.read_csv(path, dtype="int64")
    except (ValueError, OverflowError):
        raise TraceError(f"{path.name}: the table must hold integers under {_HEADER}.") from None
    layers, experts = (sorted(set(table[column].tolist())) for column in ("layer", "expert"))
    values = np.full((1, len(layers), len(experts)), -1.0)
    if (
        len(table) != values.size
        or sorted(table["rank"]) != list(range(len(table)))
        or experts != list(range(len(experts)))
        or not len(table)
    ):
        raise TraceError(f"{path.name}: every expert of every layer must have a rank of its own, from 0.")
    values[0, np.searchsorted(layers, table["layer"]), table["expert"]] = table["rank"]
    if bool(np.any(values < 0)):
        raise TraceError(f"{path.name}: an expert occurs twice.")
    return Aggregates("unknown", tuple(layers), (None,), values, "rank")
