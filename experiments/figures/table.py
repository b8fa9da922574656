"""What a figure asks of its table, and how a column is called on an axis."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from experiments.explain import ConfigError, did_you_mean

if TYPE_CHECKING:
    import pandas as pd

_WORDS = {
    "tokens_per_s": "decoding speed",
    "tokens_per_s_per_gpu": "tokens/s per GPU",
    "tpot_s": "time per token",
    "tpot_mean_s": "time per token",
    "tpot_p50_s": "median time per token",
    "tpot_p99_s": "p99 time per token",
    "ttft_s": "time to first token",
    "ttft_mean_s": "time to first token",
    "cache_gib": "expert cache",
    "cache_bytes": "expert cache",
    "host_cache_gib": "host cache",
    "energy_per_token_j": "energy per token",
    "load_bytes": "loaded on demand",
    "prefetch_bytes": "prefetched",
    "pcie_bytes_per_token": "PCIe traffic per token",
    "policy.cache": "cache policy",
    "policy.host_cache": "host cache policy",
    "workload.batch_size": "batch size (requests)",
    "workload.requests": "requests",
    "workload.rate_per_s": "requests that come",
    "requests_per_s": "requests served",
    "goodput_requests_per_s": "requests within SLO",
    "slo_attainment": "requests within SLO",
    "tenants.count": "instances",
    "memory_peak_bytes": "memory used on a GPU",
    "selections": "load of an expert (tokens)",
    "loads": "loads of an expert (times)",
}
_UNITS = {  # ending of a column's name -> unit, and whether it takes SI prefixes
    "_flop_per_s": ("FLOP/s", True),
    "_bytes_per_s": ("B/s", True),
    "_bytes_per_token": ("B", True),
    "tokens_per_s": ("tokens/s", False),
    "_per_s": ("1/s", False),
    "_s": ("s", True),
    "_bytes": ("B", True),
    "_gib": ("GiB", False),
    "_j": ("J", True),
    "_w": ("W", False),
    "_rate": ("%", False),
    "_share": ("%", False),
    "_fraction": ("%", False),
    "_attainment": ("%", False),
}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ"), (1e-9, "n"))
_NAMES = ("point", "point_id", "name", "folder")


class Quantity(NamedTuple):
    """How a column is drawn: its label, its unit (may be empty), and what its values are multiplied by."""

    words: str
    unit: str
    factor: float

    @property
    def label(self) -> str:
        """For an axis: words (unit)."""
        return f"{self.words} ({self.unit})" if self.unit else self.words


def quantity(column: str, values: Any = ()) -> Quantity:
    """Words, unit and scale of a column, from its name and the size of its values.

    The unit is the name's ending (`_s`, `_bytes`, `_rate` ...), with the prefix that fits the largest value.
    """
    ending = next((ending for ending in _UNITS if column.endswith(ending)), "")
    unit, prefixed = _UNITS.get(ending, ("", False))
    words = _WORDS.get(column)
    if words is None:
        bare = column.rpartition(".")[2]
        words = (bare.removesuffix(ending) if ending not in ("tokens_per_s", "_rate", "_share") else bare) or bare
        words = words.replace("_", " ")
    if unit == "%":
        return Quantity(words, unit, 100.0)
    if not prefixed:
        return Quantity(words, unit, 1.0)
    numbers = np.abs(np.asarray(values, dtype=np.float64))
    most = float(numbers[np.isfinite(numbers)].max(initial=0.0)) or 1.0
    fitting = [row for row in _PREFIXES if row[0] <= 1 or unit not in ("s", "J")]  # no kilo- or megaseconds
    scale, prefix = next((row for row in fitting if most >= row[0]), fitting[-1])
    return Quantity(words, f"{prefix}{unit}", 1 / scale)


def checked(frame: pd.DataFrame, stem: Path, columns: Sequence[str], numbers: Sequence[str] = ()) -> pd.DataFrame:
    """A copy with a fresh index, `numbers` as float64 (infinite: missing).

    Raises ConfigError, one sentence, if the table has no rows, lacks a column, or holds no numbers where they must be.
    """
    import pandas as pd

    if not len(frame):
        raise ConfigError(f"figure {stem.name}: the table has no rows; expected at least one.")
    known = [str(column) for column in frame.columns]
    for column in (*columns, *numbers):
        if column not in known:
            raise ConfigError(f"figure {stem.name}: the table has no column '{column}'{did_you_mean(column, known)}")
    frame = frame.reset_index(drop=True)
    for column in numbers:
        values = pd.to_numeric(frame[column], errors="coerce").astype("float64")
        text = frame[column][values.isna() & frame[column].notna()]
        if len(text):
            raise ConfigError(f"figure {stem.name}: column '{column}' holds '{text.iloc[0]}'; expected numbers.")
        frame[column] = values.replace([np.inf, -np.inf], np.nan)
        if frame[column].isna().all():
            raise ConfigError(f"figure {stem.name}: column '{column}' is empty in every row; expected numbers.")
    return frame


def one_row_each(frame: pd.DataFrame, stem: Path, keys: Sequence[str]) -> None:
    """Raise ConfigError if two rows agree in `keys`; the sentence names a column in which they differ."""
    twice = frame[frame.duplicated(list(keys), keep=False)]
    if not len(twice):
        return
    first = twice.iloc[0]
    same = twice[(twice[list(keys)].eq(first[list(keys)]) | twice[list(keys)].isna()).all(axis=1)]
    from experiments.figures.where import told
    from experiments.results.frames import configuration

    columns = [*configuration(frame), *frame.columns]  # what was run says more than what came out
    others = [column for column in columns if column not in (*keys, *_NAMES)]
    differing = next((column for column in others if same[column].nunique(dropna=False) > 1), None)
    at = ", ".join(f"{key} {first[key]}" for key in keys)
    mend = "they are the same otherwise"
    if differing:
        mend = f"they differ in '{differing}', choose one of its values: {told(same[differing])}"
    raise ConfigError(f"figure {stem.name}: {len(same)} rows have {at}; expected one ({mend}).")
