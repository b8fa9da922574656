"""Look-ahead guesses of a stated recall."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from traces.schema import TraceError


def recall_table(value: Any, layers: int, where: str) -> np.ndarray:
    """Recall float64 [d, L] by distance and guessed layer, from a list with a number or a list of L for each distance.

    Raises TraceError that begins with `where` for anything else, or more distances than there are layers to guess.
    """
    rows: list[list[float]] = []
    for row in value if isinstance(value, Sequence) and not isinstance(value, str) else ():
        numbers = list(row) if isinstance(row, Sequence) and not isinstance(row, str) else [row] * layers
        known = all(type(item) in (int, float) and math.isfinite(item) and 0 <= item <= 1 for item in numbers)
        if not known or len(numbers) != layers:
            rows = []
            break
        rows.append(numbers)
    if not 1 <= len(rows) < layers:
        raise TraceError(
            f"{where} must be a list: for each distance a recall from 0 to 1, or a list of {layers} (one per layer)."
        )
    return np.array(rows, dtype=np.float64)


def draw_guesses(
    experts: np.ndarray, probabilities: np.ndarray, recall: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """Guesses int16 [T, L, d, k]: entry [t, l, j] is made at layer l for layer l + 1 + j, -1 after the last layer.

    Each of the k experts of the guessed layer [T, L, k] is named with probability recall[j, l + 1 + j]; in place of
    those that are not, the guess names the most probable of the experts that were not chosen. Experts may run out where
    k is more than half of them: such entries are -1.
    """
    tokens, layers, slots = experts.shape
    others = probabilities.copy()
    np.put_along_axis(others, experts.astype(np.int64), -1.0, axis=2)
    width = min(slots, others.shape[2] - slots)
    next_best = np.full((tokens, layers, slots), -1, dtype=np.int16)
    next_best[:, :, :width] = np.argsort(-others, axis=2, kind="stable")[:, :, :width]
    out = np.full((tokens, layers, len(recall), slots), -1, dtype=np.int16)
    for distance in range(len(recall)):
        first = distance + 1
        right = rng.random((tokens, layers - first, slots)) < recall[distance, first:, None]
        turn = np.maximum((~right).cumsum(axis=2) - 1, 0)
        wrong = np.take_along_axis(next_best[:, first:], turn, axis=2)
        out[:, : layers - first, distance] = np.where(right, experts[:, first:], wrong)
    return out
