"""Importer of JSON-lines with the expert lists of one token per line, as ``warp`` records them.

Each line is ``{"tok": 17, "layers": [[6, 8, ...], [7, 16, ...], ...]}``: the token's position, and for each routed
layer the ids of its experts, k everywhere. The file holds the generated tokens of a single request, and says
neither the model nor its number of experts, so ``model`` or ``num_experts`` must be given. Layers are numbered
from 0. Ids sorted in every list show that the rank is lost.

Published example: github sqliteai/warp@7f1fbba3, tests/trace_olmoe_299.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from traces.importers._dense import slots_are_ranked
from traces.importers._json import expert_ids, first_object, read_lines, take
from traces.importers._models import resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import DECODE, RequestTrace, TraceError, TraceMeta


def recognise(path: Path) -> bool:
    """Return whether the first line is an object with ``tok`` and ``layers``."""
    return {"tok", "layers"} <= first_object(path).keys()


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the single request, id 0; see the package for the protocol.

    The format does not say how long the request is, so salvage keeps the tokens before the fault.
    """
    model = options.model or "unknown"
    num_experts = resolve_num_experts(model, options.num_experts, None, path.name)
    positions, tokens, fault = list[int](), list[np.ndarray](), ""
    shape: tuple[int | None, ...] = (None, None)
    try:
        for where, record in read_lines(path):
            ids = expert_ids(take(record, "layers", list, where), shape, num_experts, where)
            position = take(record, "tok", int, where)
            if not (positions[-1] if positions else -1) < position < 2**31:
                raise TraceError(f"{where}: field 'tok' must be non-negative and above that of the line before.")
            positions.append(position)
            tokens.append(ids)
            shape = ids.shape
    except TraceError as error:
        if not (options.salvage and tokens):
            raise
        fault = str(error).rstrip(".")
    experts = np.stack(tokens)
    _, layers, top_k = experts.shape
    slots = np.tile(np.arange(top_k), len(tokens) * layers)
    options.require_found([0], path.name)
    meta = TraceMeta(
        model=model,
        num_experts=num_experts,
        top_k=top_k,
        native_top_k=resolve_native_top_k(model, options.native_top_k, None, top_k, path.name),
        layers=tuple(range(layers)),
        rank_known=slots_are_ranked(slots, experts.reshape(-1), None),
        capture_tool="warp",
        source=path.name,
        notes=f"salvaged, {len(tokens)} whole tokens before the fault: {fault}" if fault else "",
    )
    request = RequestTrace(
        id=0,
        positions=np.array(positions, dtype=np.int32),
        phases=np.full(len(tokens), DECODE, dtype=np.int8),
        experts=experts,
    )
    return meta, iter([(request, None)])
