"""Reader of the expert counts by domain that OLMoE's authors published for OLMoE and Mixtral.

One JSON object: model → ``expert_counts`` → domain → layer → counts [experts]; co-occurrence matrices beside them
(``expert_counts_crosslayer``) are left alone. From github allenai/OLMoE, scripts/routing_output, pickles
collected into one document.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import first_bytes, read_document
from traces.importers.aggregates._aggregates import Aggregates, counts_of, layer_index
from traces.schema import TraceError

DESCRIPTION = "counts of how often each expert was selected, by model, domain and layer"
_FIELD = "expert_counts"


def recognise(path: Path) -> bool:
    """Return whether the file starts as JSON that soon names ``expert_counts``."""
    head = first_bytes(path, 4096)
    return head.lstrip().startswith(b"{") and f'"{_FIELD}"'.encode() in head


def read(path: Path) -> dict[str, Aggregates]:
    """Return the selections of each model, a task for each domain."""
    return {model: _model(model, entry, f"{path.name}: {model}") for model, entry in read_document(path).items()}


def _model(model: str, entry: Any, where: str) -> Aggregates:
    domains = entry.get(_FIELD) if isinstance(entry, dict) else None
    if not isinstance(domains, dict) or not domains or not all(isinstance(d, dict) and d for d in domains.values()):
        raise TraceError(f"{where}: field '{_FIELD}' must map domains to layers to counts.")
    layers: tuple[int, ...] | None = None
    tables, experts = [], None
    for domain, by_layer in domains.items():
        indexed = {layer_index(layer, f"{where}, {domain}"): counts for layer, counts in by_layer.items()}
        layers = layers or tuple(sorted(indexed))
        if tuple(sorted(indexed)) != layers:
            raise TraceError(f"{where}, {domain}: all domains must have the same layers.")
        rows = []
        for layer in layers:
            rows.append(counts_of(indexed[layer], experts, f"{where}, {domain}, layer {layer}"))
            experts = len(rows[-1])
        tables.append(np.stack(rows))
    return Aggregates(model, layers or (), tuple(domains), np.stack(tables), "selections")
