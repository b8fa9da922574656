"""Experts of which several workers hold unequal slices, of some columns of their width each (tensor parallelism by
expert): what a worker holds, what its launches cost, and which workers a token has to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from hwmodels import Device
from hwmodels.operators import expert
from simulator.model import ModelSpec
from simulator.plan import Group, Step
from simulator.runtime.costs import COMPUTE, MEMORY, OVERHEAD, Parts, _parts_s, to_ps_array
from simulator.runtime.exchange import Exchange


class Slices:
    """widths: columns of each expert's width that each worker holds, integers [layers, experts, workers], which sum to
    the width of an expert; row_bytes: of a whole expert, by layer."""

    def __init__(self, widths: np.ndarray, model: ModelSpec, row_bytes: Sequence[int]) -> None:
        self.widths, self.model, self._row_bytes = widths, model, row_bytes

    def held(self, rank: int) -> np.ndarray:
        """Of which experts a worker has a slice, bool [layers * experts]."""
        return np.asarray(self.widths[:, :, rank].ravel() > 0)

    def sizes(self, rank: int) -> list[int]:
        """Bytes of each expert on a worker, rounded up, by blob; of those that it does not hold, the whole."""
        whole = np.repeat(np.asarray(self._row_bytes), self.widths.shape[1])
        width = self.widths[:, :, rank].ravel()
        cut = -(-whole * width // self.model.expert_intermediate)
        return [int(size) for size in np.where(width > 0, cut, whole)]


class LaunchCosts(Protocol):
    """Launches of experts that are cut, and their work by phase: operations in `dtype`, bytes from and to memory."""

    dtype: str
    flops: list[float]
    size_bytes: list[float]

    def launch(self, prefill: bool, blobs: Sequence[int], tokens: Sequence[int]) -> Parts: ...


class SliceCosts:
    """Launches of slices on one worker. Each slice costs what its own roofline says, a launch is paid once.

    Slices of w columns of n tokens have 2 n m h w operations (m matrices, hidden size h) and move their weights, and
    each token's hidden vector and w intermediate values, there and back (hwmodels.operators.expert).
    flops, size_bytes: of all launches, by phase.
    """

    def __init__(self, slices: Slices, rank: int, device: Device) -> None:
        self._model, self._device = slices.model, device
        self._widths, self._sizes = slices.widths[:, :, rank].ravel(), np.array(slices.sizes(rank))
        self.dtype = self._model.linear_dtype or self._model.dtype
        self.flops, self.size_bytes = [0.0, 0.0], [0.0, 0.0]

    def launch(self, prefill: bool, blobs: Sequence[int], tokens: Sequence[int]) -> Parts:
        """The slices of these experts as one launch, in ps, and that by what bounds it."""
        model, some = self._model, list(blobs)
        work = expert(
            np.array(tokens),
            model.hidden,
            self._widths[some],  # type: ignore[arg-type]
            model.ffn_matrices,
            self._sizes[some],  # type: ignore[arg-type]
            self.dtype,
        )
        self.flops[prefill] += float(work.flops.sum())
        self.size_bytes[prefill] += float(work.size_bytes.sum())
        parts = to_ps_array(_parts_s(work, self._device, False))
        found = int(parts[:, OVERHEAD].max()), int(parts[:, MEMORY].sum()), int(parts[:, COMPUTE].sum())
        return sum(found), found


class SlicedExchange(Exchange):
    """A token's activation goes to every worker that holds a slice of one of its experts, and each returns a sum."""

    def __init__(self, slices: Slices, *parts: Any) -> None:
        super().__init__(*parts)
        self._held = np.moveaxis(slices.widths > 0, 2, 0)  # [workers, layers, experts]
        self._mine = [slices.held(rank).tolist() for rank in range(len(self._held))]

    def visits(self, rows: np.ndarray) -> np.ndarray:
        """As `Exchange.visits`."""
        layers = np.arange(rows.shape[1])[None, :, None]
        there = self._held[:, layers, np.maximum(rows, 0)] & (rows >= 0)  # [workers, tokens, layers, top-k]
        return np.asarray(there.any(axis=3).sum(axis=1).T)

    def own(self, rank: int, step: Step) -> tuple[list[Group], list[list[int]] | None]:
        """As `Exchange.own`, with a count for every expert."""
        groups, guesses = super().own(rank, step)
        return [(blobs, [1] * len(blobs) if counts is None else counts) for blobs, counts in groups], guesses
