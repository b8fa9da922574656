"""Reader of mbolt's co-activation profiles.

One JSON object with ``n_expert_per_layer``, ``k`` and ``layers``, a list of objects with ``layer`` (or
``abs_layer``) and ``heat`` [experts], the number of decode tokens that selected each expert. Pairs and clusters
within a layer are left alone. From github doramirdor/mbolt, results.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from traces.importers._json import first_bytes, read_document, take
from traces.importers.aggregates._aggregates import Aggregates, counts_of
from traces.schema import TraceError

DESCRIPTION = "a co-activation profile, how often each expert and pair of experts was selected in each layer"


def recognise(path: Path) -> bool:
    """Return whether the file starts as JSON that soon names ``n_expert_per_layer``."""
    head = first_bytes(path, 4096)
    return head.lstrip().startswith(b"{") and b'"n_expert_per_layer"' in head


def read(path: Path) -> Aggregates:
    """Return the selections by layer."""
    document, name = read_document(path), path.name
    experts, entries = take(document, "n_expert_per_layer", int, name), take(document, "layers", list, name)
    if not entries or not all(isinstance(entry, dict) for entry in entries):
        raise TraceError(f"{name}: field 'layers' must be a list of at least one object.")
    found = {}
    for number, entry in enumerate(entries):
        where = f"{name}: entry {number} of 'layers'"
        layer = take(entry, "abs_layer" if "abs_layer" in entry else "layer", int, where)
        if layer in found or layer < 0:
            raise TraceError(f"{where}: the layer {layer} is negative or occurs twice.")
        found[layer] = counts_of(take(entry, "heat", list, where), experts, where)
    layers = tuple(sorted(found))
    recorded = document.get("model", document.get("artifact", "unknown"))
    values = np.stack([found[layer] for layer in layers])[None]
    return Aggregates(
        str(recorded), layers, (None,), values, "selections", top_k=take(document, "k", int, name), notes="decode"
    )
