"""What statistics of routing have in common, and the checks that their readers share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from traces.schema import TraceError


@dataclass(frozen=True, eq=False)
class Aggregates:
    """How popular the experts of each layer are; R tasks, L layers, E experts.

    model    as the file names it; "unknown" if it does not
    layers   layer indices as the file counts them, ascending
    tasks    labels of the first axis; (None,) if the file does not tell tasks apart
    values   float64 [R, L, E], not negative
    unit     "selections": how often an expert was selected; "share": of the layer's selections, so rows sum
             to 1; "rank": the place among all experts of all layers by popularity, 0 first
    top_k    experts per token, None if unknown
    notes    what else the file says of itself
    """

    model: str
    layers: tuple[int, ...]
    tasks: tuple[str | None, ...]
    values: np.ndarray
    unit: str
    top_k: int | None = None
    notes: str = ""

    @property
    def num_experts(self) -> int:
        """Experts per layer E."""
        return int(self.values.shape[2])

    def shares(self) -> np.ndarray:
        """Return each expert's share of its layer's selections, float64 [R, L, E].

        Raises TraceError for ranks, which do not say by how much, and where a layer has no selection.
        """
        totals = self.values.sum(axis=-1, keepdims=True)
        if self.unit == "rank":
            raise TraceError(f"{self.model}: only the order of the experts is known, no shares.")
        if bool(np.any(totals == 0)):
            raise TraceError(f"{self.model}: a layer has no selections, so there are no shares.")
        return self.values / totals


def counts_of(values: Any, experts: int | None, where: str) -> np.ndarray:
    """Return a list or array of counts as float64 [E]; raises TraceError if it is anything else."""
    try:
        counts = np.asarray(values)
    except (ValueError, OverflowError):
        counts = np.zeros(0, dtype=object)
    if counts.ndim != 1 or counts.dtype.kind not in "iuf" or not counts.size or experts not in (None, counts.size):
        number = "" if experts is None else f"{experts} "
        raise TraceError(f"{where}: there must be a list of {number}counts, one for each expert.")
    if not bool(np.all(np.isfinite(counts))) or bool(np.any(counts < 0)):
        raise TraceError(f"{where}: every count must be a finite number that is not negative.")
    return counts.astype(np.float64)


def layer_index(text: Any, where: str) -> int:
    """Return a layer index written as an integer or as text; raises TraceError if it is none."""
    try:
        index = int(text)
    except (TypeError, ValueError):
        index = -1
    if index < 0:
        raise TraceError(f"{where}: a layer must be a non-negative integer, not {text!r}.")
    return index
