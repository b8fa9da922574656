"""Reader of what SGLang's expert distribution recorder dumps, and of the JSON it takes for expert placement.

``torch.save`` files ``expert_distribution_recorder_*.pt`` (python/sglang/srt/eplb/expert_distribution.py): in the modes
``stat`` and ``stat_approx`` a dictionary with ``logical_count`` [steps, layers, logical experts]; in the detail
modes ``records``, each with ``global_physical_count`` [layers, physical experts], and
``last_physical_to_logical_map`` [layers, physical experts], by which replicas are added up. JSON with
``logical_count`` as nested lists [layers, experts] or [steps, layers, experts] is what ``--init-expert-location``
takes. Layers that are not routed have no selections; they are left out.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import first_bytes, read_document
from traces.importers.aggregates._aggregates import Aggregates
from traces.importers.aggregates._torch_file import read_torch_file
from traces.schema import TraceError

DESCRIPTION = "counts of SGLang's expert distribution recorder, how often each expert was selected in each step"


def recognise(path: Path) -> bool:
    """Return whether `path` is a torch.save archive, or JSON that soon names ``logical_count``."""
    head = first_bytes(path, 4096)
    if head.startswith(b"PK\x03\x04"):
        try:
            with zipfile.ZipFile(path) as archive:
                return any(name.endswith("/data.pkl") for name in archive.namelist())
        except Exception:  # damaged archives raise all kinds
            return b"data.pkl" in head
    return head.lstrip().startswith(b"{") and b'"logical_count"' in head


def read(path: Path) -> Aggregates:
    """Return the selections by layer, added up over the steps."""
    content = read_torch_file(path) if first_bytes(path, 2) == b"PK" else read_document(path)
    if not isinstance(content, dict):
        raise TraceError(f"{path.name}: the file must hold a dictionary.")
    if "logical_count" in content:
        counts = _counts(content["logical_count"], path.name, "logical_count")
    elif "records" in content:
        counts = _from_records(content, path.name)
    else:
        raise TraceError(f"{path.name}: the file must have 'logical_count' or 'records'.")
    routed = np.flatnonzero(counts.sum(axis=1))
    if not routed.size:
        raise TraceError(f"{path.name}: no expert was ever selected.")
    return Aggregates("unknown", tuple(routed.tolist()), (None,), counts[routed][None], "selections")


def _counts(values: Any, name: str, field: str) -> np.ndarray:
    """Return counts [layers, experts], the steps added up."""
    try:
        counts = np.asarray(values)
    except (ValueError, OverflowError):
        counts = np.zeros(0, dtype=object)
    if counts.ndim not in (2, 3) or counts.dtype.kind not in "iu" or not counts.size or bool(np.any(counts < 0)):
        raise TraceError(f"{name}: '{field}' must be counts [layers, experts] or [steps, layers, experts].")
    return counts.reshape(-1, *counts.shape[-2:]).sum(axis=0, dtype=np.float64)


def _from_records(content: dict[str, Any], name: str) -> np.ndarray:
    records = content["records"]
    if not isinstance(records, list) or not records or not all(isinstance(record, dict) for record in records):
        raise TraceError(f"{name}: field 'records' must be a list of at least one record.")
    physical = sum(_counts(record.get("global_physical_count"), name, "global_physical_count") for record in records)
    mapping = np.asarray(content.get("last_physical_to_logical_map"))
    if mapping.shape != np.shape(physical) or mapping.dtype.kind not in "iu" or int(mapping.min()) < 0:
        raise TraceError(f"{name}: 'last_physical_to_logical_map' must name a logical expert for each physical one.")
    logical = np.zeros((len(mapping), int(mapping.max()) + 1))
    np.add.at(logical, (np.arange(len(mapping))[:, None], mapping), physical)
    return logical
