"""Some of the points of a sweep, by what was configured: `platform=rtx_3060`, `cache_gib=2,4`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from experiments.explain import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

MOST = 12  # values that an error lists


def where(points: pd.DataFrame, conditions: Sequence[str]) -> pd.DataFrame:
    """The rows of `experiments.results.load` that meet every condition COLUMN=VALUE,...

    A policy's column may be written as in an override (`policy/cache`). Raises ConfigError for a condition that cannot
    be read, a column that is not there, and a value that no row has.
    """
    from experiments.results.frames import configuration

    columns = [str(column) for column in (*configuration(points), "point", "folder")]
    for condition in conditions:
        key, equals, values = condition.partition("=")
        column = key.strip().replace("/", ".")
        if not equals or not values:
            raise ConfigError(f"--where {condition}: expected COLUMN=VALUE, such as platform=rtx_3060.")
        if column not in columns:
            raise ConfigError(f"--where {condition}: there is no column '{column}'{did_you_mean(column, columns)}")
        kept = None
        for value in values.split(","):
            same = points[column].map(lambda found, value=value: _is(found, value)).astype(bool)
            if not same.any():
                raise ConfigError(
                    f"--where {condition}: no run has {column} {value}; there are {told(points[column])}."
                )
            kept = same if kept is None else kept | same
        points = points[kept].reset_index(drop=True)
    return points


def told(values: pd.Series) -> str:
    """The different values of a column, in order of appearance."""
    texts = list(dict.fromkeys(_text(value) for value in values))
    more = f", … ({len(texts)} in all)" if len(texts) > MOST else ""
    return ", ".join(texts[:MOST]) + more


def _is(found: Any, text: str) -> bool:
    """Whether a cell holds what the text says: the same words, or the same number."""
    if _text(found).lower() == text.strip().lower():
        return True
    try:
        return not isinstance(found, str) and float(found) == float(text)
    except (TypeError, ValueError):
        return False


def _text(value: Any) -> str:
    missing = value is None or value != value
    return "null" if missing else f"{value:g}" if isinstance(value, float) else str(value)
