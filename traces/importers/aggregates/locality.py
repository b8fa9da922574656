"""Reader of Expertflow's routing locality reports.

One JSON object: ``by_family`` → family of workloads → layer → ``frequency`` (expert → selections; experts never
selected are left out) and ``all_workloads`` with the same for all together. Reuse distances and hit rates
beside them are left alone. From github crankysmh47/Expertflow, docs/evidence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import first_bytes, read_document, take
from traces.importers.aggregates._aggregates import Aggregates, counts_of, layer_index
from traces.schema import TraceError

DESCRIPTION = "a report on routing locality, with frequencies and reuse distances by layer"


def recognise(path: Path) -> bool:
    """Return whether the file starts as JSON that soon names ``all_workloads``."""
    head = first_bytes(path, 4096)
    return head.lstrip().startswith(b"{") and b'"all_workloads"' in head


def read(path: Path) -> Aggregates:
    """Return the selections by layer, a task for each family.

    The report does not say how many experts a layer has: it is taken to end at the last one that was selected.
    """
    families = take(read_document(path), "by_family", dict, path.name)
    tables = {family: _frequencies(layers, f"{path.name}: {family}") for family, layers in families.items()}
    if not tables or len({frozenset(table) for table in tables.values()}) > 1:
        raise TraceError(f"{path.name}: field 'by_family' must have the same layers for every family.")
    layers = tuple(sorted(next(iter(tables.values()))))
    experts = 1 + max(expert for table in tables.values() for row in table.values() for expert in row)
    values = np.zeros((len(tables), len(layers), experts))
    for task, (family, table) in enumerate(tables.items()):
        for ordinal, layer in enumerate(layers):
            row = table[layer]
            counts = counts_of(list(row.values()), len(row), f"{path.name}: {family}, layer {layer}")
            values[task, ordinal, list(row)] = counts
    notes = "experts counted up to the last one that was selected"
    return Aggregates("unknown", layers, tuple(families), values, "selections", notes=notes)


def _frequencies(layers: Any, where: str) -> dict[int, dict[int, Any]]:
    if not isinstance(layers, dict) or not layers:
        raise TraceError(f"{where}: a family must map layers to reports.")
    found = {}
    for layer, report in layers.items():
        frequency = report.get("frequency") if isinstance(report, dict) else None
        if not isinstance(frequency, dict) or not frequency:
            raise TraceError(f"{where}: layer {layer} must have a 'frequency' of its experts.")
        found[layer_index(layer, where)] = {layer_index(expert, where): count for expert, count in frequency.items()}
    return found
