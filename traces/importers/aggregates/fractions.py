"""Reader of firing fractions by subject: a Parquet table with a row per (subject, layer, expert).

Columns ``subject``, ``layer``, ``expert``, ``mean_fraction``: of the selections of a subject's questions in a layer
the expert's share, the mean over the questions. Made from github ajtejankar/mixtral-vis-moe, frac_vecs.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traces.importers._json import first_bytes
from traces.importers.aggregates._aggregates import Aggregates
from traces.schema import TraceError

DESCRIPTION = "a table of experts' shares of the selections, by subject and layer"
_COLUMNS = ("subject", "layer", "expert", "mean_fraction")


def recognise(path: Path) -> bool:
    """Return whether `path` is a Parquet file with these columns."""
    if first_bytes(path, 4) != b"PAR1":
        return False
    try:
        names = pq.ParquetFile(path).schema_arrow.names
    except (pa.ArrowException, OSError, ValueError):
        return False
    return all(name in names for name in _COLUMNS)


def read(path: Path) -> Aggregates:
    """Return the shares by layer, a task for each subject."""
    try:
        table = pq.read_table(path, columns=list(_COLUMNS)).to_pandas()
        cells = table.set_index(["subject", "layer", "expert"])["mean_fraction"].sort_index()
    except (pa.ArrowException, OSError, ValueError, TypeError):
        raise TraceError(f"{path.name}: the table must have sound columns {', '.join(_COLUMNS)}.") from None
    subjects, layers, experts = (cells.index.levels[axis].tolist() for axis in range(3))
    shape = (len(subjects), len(layers), len(experts))
    if len(cells) != np.prod(shape) or cells.index.has_duplicates or experts != list(range(len(experts))):
        raise TraceError(f"{path.name}: there must be one row for each subject, layer and expert.")
    values = cells.to_numpy(dtype=np.float64).reshape(shape)
    if not bool(np.all(values >= 0)) or not np.allclose(values.sum(axis=-1), 1, atol=1e-3):
        raise TraceError(f"{path.name}: the shares of a subject and layer must add up to 1.")
    return Aggregates("unknown", tuple(int(layer) for layer in layers), tuple(map(str, subjects)), values, "share")
