"""Comparison of policies on the same drawn machines: does a difference outlive what the calibration leaves open?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.explain import ConfigError
from experiments.results.comparison import Path
from experiments.results.frames import check_columns, check_numbers, draws, load
from experiments.results.pairing import partners_of, varying


def compare_calibrated(
    source: Path | Sequence[Path] | tuple[pd.DataFrame, pd.DataFrame],
    factor: str,
    baseline: Any,
    metric: str = "tpot_mean_s",
    *,
    level: float = 0.9,
) -> pd.DataFrame:
    """Each point against its partner with `factor` at `baseline`, with intervals over drawn constants.

    source: what `load` takes, of runs with `uncertainty=calibration`, or the frames of `load` and `draws`. metric:
    tpot_mean_s, ttft_mean_s or tokens_per_s. The n-th draw is the same machine for every point on a platform, so that
    ratios and differences are taken draw by draw: a constant that slows both sides alike cancels.

    Columns as of `compare`, with `draws` in place of requests and batches; `value` is that of the run itself,
    intervals hold `level` of the draws, and `significant` says whether the interval of the difference leaves out zero.
    Raises ConfigError as `paired` does, for points without draws, or with draws of other numbers.
    """
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; expected a share between 0 and 1.")
    points, drawn = (load(source), draws(source)) if not isinstance(source, tuple) else source
    check_numbers(points, metric)
    check_columns(drawn, "point", "draw", metric)
    partners = partners_of(points, factor, baseline)
    kept = points[points.index.isin([*partners.index, *partners])]
    series = {number: rows.set_index("draw")[metric].sort_index() for number, rows in drawn.groupby("point")}
    rows: dict[Any, dict[str, Any]] = {}
    for index, base in [*((base, base) for base in partners.unique()), *partners.items()]:
        mine, theirs = (_draws_of(series, points.at[place, "point"], metric) for place in (index, base))
        if not mine.index.equals(theirs.index):
            raise ConfigError(f"points {points.at[index, 'point']} and {points.at[base, 'point']} have other draws.")
        value, other = points.at[index, metric], points.at[base, metric]
        row: dict[str, Any] = {"baseline_point": points.at[base, "point"], "value": value}
        row["low"], row["high"] = _interval(mine, level)
        row["ratio"] = value / other
        row["ratio_low"], row["ratio_high"] = _interval(mine / theirs, level)
        row["difference"] = value - other
        low, high = _interval(mine - theirs, level)
        row |= {"difference_low": low, "difference_high": high, "draws": len(mine)}
        row["significant"] = bool(low > 0 or high < 0)
        rows[index] = row
    table = kept[["point", *varying(kept, factor)]].join(pd.DataFrame.from_dict(rows, orient="index"))
    table.insert(1, "baseline_point", table.pop("baseline_point"))
    return table.reset_index(drop=True)


def _draws_of(series: dict[Any, pd.Series], number: Any, metric: str) -> pd.Series:
    if number not in series or series[number].isna().any():
        raise ConfigError(f"metric {metric}: point {number} has no draws of it; run it with uncertainty=calibration.")
    return series[number]


def _interval(values: pd.Series, level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
