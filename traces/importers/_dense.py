"""From rows, one per (position, layer, slot), to the arrays of a request; shared by the importers."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from traces.schema import RequestTrace, TraceError, TraceMeta


def dense_request(request: int, columns: Mapping[str, np.ndarray], meta: TraceMeta, file: str) -> RequestTrace:
    """Scatter the rows of one request into dense arrays.

    `columns` holds equally long arrays ``position``, ``phase``, ``layer``, ``slot``, ``expert``, with
    `meta.has_weights` also ``weight``, and ``guess1`` … ``guess<d>`` for `meta.guess_distances` d: the
    slot-th guess for the layer that many layers on. Rows may come in any order; slots without a row become
    -1.

    Raises TraceError if a row names a layer, slot or expert outside `meta`, two rows fill one slot, or the
    phase of a token is not the same in all its rows.
    """
    where = f"{file}: request {request}"
    layers = np.asarray(meta.layers)
    positions, token = np.unique(columns["position"], return_inverse=True)
    layer = np.searchsorted(layers, columns["layer"]).clip(max=len(layers) - 1)
    if bool(np.any(layers[layer] != columns["layer"])):
        raise TraceError(f"{where}, field 'layer': every row must name one of the model's routed layers.")
    slot = columns["slot"].astype(np.int64)
    _require_range(slot, 0, meta.top_k - 1, where, "slot")
    _require_range(positions, 0, 2**31 - 1, where, "position")
    cell = (token * len(layers) + layer) * meta.top_k + slot
    shape = (len(positions), len(layers), meta.top_k)
    if int(np.bincount(cell, minlength=1).max()) > 1:
        raise TraceError(f"{where}, field 'slot': two rows fill the same slot of one token and layer.")
    phases = np.empty(len(positions), dtype=np.int8)
    phases[token] = columns["phase"]
    if bool(np.any(phases[token] != columns["phase"])):
        raise TraceError(f"{where}, field 'phase': all rows of a token must have the same phase.")
    _require_range(columns["expert"], -1, meta.num_experts - 1, where, "expert")
    return RequestTrace(
        id=int(request),
        positions=positions.astype(np.int32),
        phases=phases,
        experts=_scatter(columns["expert"], cell, shape, -1, np.int16),
        weights=_scatter(columns["weight"], cell, shape, np.nan, np.float32) if meta.has_weights else None,
        guesses=_guesses(columns, cell, shape, meta, where) if meta.guess_distances else None,
    )


def slots_are_ranked(slot: np.ndarray, expert: np.ndarray, weight: np.ndarray | None) -> bool:
    """Return whether the slots of rows in file order can be ranks.

    With weights (NaN where unknown) they must not rise from one slot to the next; without any, ids that rise
    everywhere show that they were sorted and the rank is lost.
    """
    follows = slot[1:].astype(np.int64) == slot[:-1].astype(np.int64) + 1
    if not bool(follows.any()):
        return True  # top-1
    if weight is not None and not bool(np.isnan(weight).all()):
        return not bool(np.any(weight[1:][follows] > weight[:-1][follows]))
    return not bool(np.all(expert[1:][follows] > expert[:-1][follows]))


def _guesses(
    columns: Mapping[str, np.ndarray],
    cell: np.ndarray,
    shape: tuple[int, int, int],
    meta: TraceMeta,
    where: str,
) -> np.ndarray:
    by_distance = []
    for distance in range(1, meta.guess_distances + 1):
        name = f"guess{distance}"
        _require_range(columns[name], -1, meta.num_experts - 1, where, name)
        by_distance.append(_scatter(columns[name], cell, shape, -1, np.int16))
    return np.ascontiguousarray(np.stack(by_distance, axis=2))


def _scatter(
    values: np.ndarray, cell: np.ndarray, shape: tuple[int, int, int], fill: float, kind: type[np.generic]
) -> np.ndarray:
    dense = np.full(shape, fill, dtype=kind)
    dense.reshape(-1)[cell] = values
    return dense


def _require_range(values: np.ndarray, low: int, high: int, where: str, field: str) -> None:
    if values.size and not (low <= int(values.min()) and int(values.max()) <= high):
        raise TraceError(f"{where}, field '{field}': values must be from {low} to {high}.")
