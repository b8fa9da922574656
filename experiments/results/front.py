"""What no other point beats."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.explain import ConfigError
from experiments.results.frames import check_numbers
from experiments.results.notes import LeftOutWarning


def pareto(points: pd.DataFrame, minimise: Sequence[str] = (), maximise: Sequence[str] = ()) -> pd.DataFrame:
    """The rows that no other beats: at least as good in every named column and better in one. Order and index stay.

    Rows with the same values stay or go together. Rows with a missing value are left out, with a LeftOutWarning.
    Raises ConfigError for names that are no columns of numbers.

    >>> import pandas as pd
    >>> points = pd.DataFrame({"cache_gib": [2, 4, 4, 8], "tokens_per_s": [20.0, 50.0, 35.0, 50.0]})
    >>> pareto(points, minimise=["cache_gib"], maximise=["tokens_per_s"])
       cache_gib  tokens_per_s
    0          2          20.0
    1          4          50.0
    """
    if isinstance(minimise, str) or isinstance(maximise, str):
        raise ConfigError("minimise and maximise: expected lists of columns.")
    names = [*minimise, *maximise]
    if not names or len(set(names)) < len(names):
        raise ConfigError("expected at least one column to minimise or maximise, and each once.")
    check_numbers(points, *names)
    whole = points[points[names].notna().all(axis=1)]
    if len(whole) < len(points):
        text = f"{len(points) - len(whole)} of {len(points)} rows are left out: they have no value of"
        warnings.warn(f"{text} {' or '.join(names)}.", LeftOutWarning, stacklevel=2)
    costs = whole[names].to_numpy(dtype="float64") * np.repeat([1.0, -1.0], [len(minimise), len(maximise)])
    return whole[_undominated(costs)]


def _undominated(costs: np.ndarray) -> np.ndarray:
    """Mask of the rows of costs [rows, columns] that no other row beats; less is better."""
    unique, place = np.unique(costs, axis=0, return_inverse=True)  # sorted: who is beaten comes after who beats it
    rest = np.ascontiguousarray(unique[:, 1:].T)
    front = np.empty_like(rest)
    kept = np.zeros(len(unique), dtype=bool)
    count = 0
    for row in range(len(unique)):
        beaten = (front[:, :count] <= rest[:, row : row + 1]).all(axis=0).any()
        if not beaten:
            front[:, count] = rest[:, row]
            kept[row] = True
            count += 1
    return kept[place.reshape(-1)]
