"""Pairs of points that differ in one factor alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import pandas as pd

from experiments.explain import ConfigError, did_you_mean
from experiments.results.frames import check_columns, check_numbers, configuration
from experiments.results.notes import LeftOutWarning

# what does not change what a run does: a system is its policies
_LABELS = ("system", "experiment", "timeline", "reference", "trace_digest")


def paired(points: pd.DataFrame, factor: str, baseline: Any, metric: str) -> pd.DataFrame:
    """Each point beside the one that has `baseline` for `factor` and agrees in the rest of the configuration.

    The parameters of a factor go with it (`policy.cache.*` with `policy.cache`), and the policies with `system`.
    Columns: `point`, `baseline_point`, the configuration as far as it varies, `value` and `baseline_value` of the
    metric, `ratio` (value / baseline) and `difference` (value - baseline). Points without a partner are named in a
    LeftOutWarning and in `.attrs["unpaired"]`. Raises ConfigError if the factor changes what is asked (trace,
    workload), if traces differ, or if nothing pairs.

    >>> import pandas as pd
    >>> points = pd.DataFrame({"point": [0, 1], "policy.cache": ["lru", "lfu"], "tpot_mean_s": [0.02, 0.03]})
    >>> paired(points, "policy.cache", "lru", "tpot_mean_s")[["policy.cache", "baseline_value", "value", "ratio"]]
      policy.cache  baseline_value  value  ratio
    0          lfu            0.02   0.03    1.5
    """
    check_numbers(points, metric)
    partners = partners_of(points, factor, baseline)
    others = points.loc[partners.index]
    value = others[metric].to_numpy(dtype="float64")
    beside = points.loc[partners, metric].to_numpy(dtype="float64")
    table = others[["point"]].copy()
    table["baseline_point"] = points.loc[partners, "point"].to_numpy()
    keys = varying(points.loc[[*partners.index, *partners.unique()]], factor)
    table[keys] = others[keys]
    table["value"], table["baseline_value"] = value, beside
    table["ratio"], table["difference"] = table["value"] / table["baseline_value"], value - beside
    table = table.reset_index(drop=True)
    table.attrs["unpaired"] = partners.attrs["unpaired"]
    return table


def partners_of(points: pd.DataFrame, factor: str, baseline: Any) -> pd.Series:
    """Index of each point that has a partner -> index of that partner; `.attrs["unpaired"]` numbers the others.

    Raises and warns as `paired`.
    """
    check_columns(points, "point", factor)
    if not points.index.is_unique:
        raise ConfigError("the rows of the points repeat an index; call .reset_index(drop=True) first.")
    if factor in ("trace", "trace_digest") or factor.split(".")[0] in ("workload", "trace"):
        raise ConfigError(f"{factor}: it changes what is asked, so that there is no pair to compare.")
    if factor not in configuration(points):
        raise ConfigError(f"{factor}: expected a key of the configuration{did_you_mean(factor, configuration(points))}")
    at_baseline = points[factor].isna() if pd.isna(baseline) else points[factor] == baseline
    if not at_baseline.any():
        levels = dict.fromkeys(str(level) for level in points[factor])
        raise ConfigError(f"{factor}={baseline}: there is no point with it{did_you_mean(str(baseline), levels)}")
    if at_baseline.all():
        raise ConfigError(f"{factor}={baseline}: every point has it; there is nothing to compare with.")
    keys = [column for column in configuration(points) if not _goes_with(factor, column)]
    group = points.groupby(keys, dropna=False, sort=False).ngroup() if keys else pd.Series(0, points.index)
    bases = group[at_baseline]
    repeated = bases[bases.duplicated(keep=False)]
    if len(repeated):
        same = points.loc[repeated[repeated == repeated.iloc[0]].index]
        raise ConfigError(
            f"{factor}={baseline}: points {_listed(same['point'])} all have it and the same configuration otherwise;"
            f" keep one of them{_apart(same, [*configuration(points), 'name', 'folder'])}."
        )
    of_group = pd.Series(bases.index, bases.to_numpy())
    partners = group[~at_baseline].map(of_group).dropna().astype(points.index.dtype)
    if partners.empty:
        raise ConfigError(
            f"{factor}={baseline}: no point pairs with it, for none agrees with it in the rest of the configuration"
            f"{_apart(points, keys)}."
        )
    _check_digests(points, partners)
    alone = points.index.difference(partners.index.union(partners), sort=False)
    unpaired = [int(point) for point in points.loc[alone, "point"]]
    if unpaired:
        text = f"{len(unpaired)} of {len(points)} points have no partner with {factor}={baseline} and are left out"
        warnings.warn(f"{text}: {_listed(unpaired)}.", LeftOutWarning, stacklevel=3)
    partners.attrs["unpaired"] = unpaired
    return partners


def varying(points: pd.DataFrame, factor: str) -> list[str]:
    """The factor, and the other columns of the configuration with more than one value."""
    columns = [column for column in configuration(points) if column not in (factor, *_LABELS)]
    return [factor, *(column for column in columns if points[column].nunique(dropna=False) > 1)]


def _goes_with(factor: str, column: str) -> bool:
    """Whether a column may differ within a pair."""
    system = factor == "system" and column.startswith("policy.")
    return column == factor or column in _LABELS or column.startswith(f"{factor}.") or system


def _check_digests(points: pd.DataFrame, partners: pd.Series) -> None:
    if "trace_digest" not in points:
        return
    mine = points.loc[partners.index, "trace_digest"].to_numpy()
    theirs = points.loc[partners, "trace_digest"].to_numpy()
    for place, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if one != other and not (pd.isna(one) or pd.isna(other)):
            pair = [points.at[index, "point"] for index in (partners.index[place], partners.iloc[place])]
            raise ConfigError(f"points {_listed(pair)} ran on different traces (by digest); they cannot be compared.")


def _apart(points: pd.DataFrame, columns: Sequence[str]) -> str:
    differing = [c for c in columns if c in points and points[c].nunique(dropna=False) > 1]
    return f" (they differ in {', '.join(differing)})" if differing else ""


def _listed(numbers: Any) -> str:
    shown = [str(number) for number in numbers]
    return ", ".join(shown[:10]) + (f" and {len(shown) - 10} more" if len(shown) > 10 else "")
