"""Comparison of policies on the same requests, with intervals from resampling those requests."""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from experiments.explain import ConfigError, did_you_mean
from experiments.results.frames import check_columns, load, requests
from experiments.results.notes import NoiseWarning
from experiments.results.pairing import partners_of, varying

Path = str | os.PathLike[str]
# metric -> the two columns (or 1, or a product) whose sums over requests it is the quotient of
METRICS: dict[str, tuple[Sequence[str], Sequence[str]]] = {
    "tpot_s": (("tpot_s", "decode_tokens"), ("decode_tokens",)),
    "tokens_per_s": (("decode_tokens",), ("tpot_s", "decode_tokens")),
    "ttft_s": (("ttft_s",), ()),
    "latency_s": (("latency_s",), ()),
    "hit_rate": (("hits",), ("accesses",)),
}
# what the summary of a run calls the same figure over all its requests
IN_SUMMARY = {"tpot_mean_s": "tpot_s", "ttft_mean_s": "ttft_s", "request_latency_mean_s": "latency_s"}
ALONE = ("tokens_per_s", "hit_rate")  # of requests that share no batch
FEWEST = 5  # units below which an interval says nothing
BLOCK = 1000  # draws at a time, to bound memory


def compare(
    source: Path | Sequence[Path] | tuple[pd.DataFrame, pd.DataFrame],
    factor: str,
    baseline: Any,
    metric: str = "tpot_s",
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    seed: int = 0,
) -> pd.DataFrame:
    """Each point against its partner with `factor` at `baseline`, with intervals for the choice of requests.

    source: what `load` takes, or the frames of `load` and `requests` (a selection of points, say). metric:
    `tpot_s` (time per output token, all tokens alike), `ttft_s`, `latency_s` (mean over requests) and, where
    requests share no batch, `tokens_per_s` and `hit_rate` (all accesses alike). The summary's names of these
    (`tpot_mean_s`, `ttft_mean_s`, `request_latency_mean_s`) do too. Warm-up requests are left out.

    Columns: `point`, `baseline_point`, the configuration as far as it varies, `value`, `low`, `high`, `ratio`,
    `ratio_low`, `ratio_high` (value / baseline), `difference`, `difference_low`, `difference_high`
    (value - baseline), `requests`, `batches`, and `significant`: whether the interval of the difference leaves out
    zero. The baseline's own rows are there too, with ratio 1. One NoiseWarning names a difference within the noise
    and counts the others. With fewer than five requests an interval is not meaningful: it is missing, and a
    NoiseWarning says so.

    The intervals come from a paired bootstrap: requests are drawn with replacement, the same ones for both sides,
    and each interval lies between percentiles of the draws, spread for few requests (Hesterberg 2015, "What teachers
    should know about the bootstrap"). Requests that share a batch are drawn together. An interval covers one thing:
    which requests happen to be in the trace, taken as independent draws from all that might have been. It does not
    cover errors of the model of the machine, other traces, or the random draws of a policy (sweep the seed). A
    request finds the cache as the one before it left it; what was drawn keeps the times it had in the recorded
    order, so that the effect of another order, or of other neighbours, is not covered either. Each row stands for
    itself; of twenty comparisons without any difference, one at 95 % will look like one.

    Raises ConfigError as `paired` does, and if the metric is not known by request.
    """
    metric = IN_SUMMARY.get(metric, metric)
    if metric not in METRICS:
        raise ConfigError(f"metric {metric}: it is not one of single requests{did_you_mean(metric, METRICS)}")
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; expected a share between 0 and 1.")
    if resamples < 1:
        raise ConfigError(f"resamples is {resamples}; expected at least 1.")
    points, served = _frames(source)
    partners = partners_of(points, factor, baseline)
    kept = points[points.index.isin([*partners.index, *partners])]
    sums = _sums(kept, served, metric)
    rows: dict[Any, dict[str, Any]] = {}
    for base, members in partners.groupby(partners, sort=False):
        indices = [base, *members.index]
        rows |= dict(zip(indices, _group([sums[i] for i in indices], level, resamples, seed), strict=True))
        for index in members.index:
            rows[index]["baseline_point"] = points.at[base, "point"]
        rows[base]["baseline_point"] = points.at[base, "point"]
    table = kept[["point", *varying(kept, factor)]].join(pd.DataFrame.from_dict(rows, orient="index"))
    table.insert(1, "baseline_point", table.pop("baseline_point"))
    table = table.astype({"significant": "boolean"}).reset_index(drop=True)
    table.attrs["unpaired"] = partners.attrs["unpaired"]
    _say_noise(table, factor, metric, level)
    return table


def _frames(source: Any) -> tuple[pd.DataFrame, pd.DataFrame]:
    if isinstance(source, (str, os.PathLike)):
        source = [source]
    given = list(source)
    if any(isinstance(item, pd.DataFrame) for item in given):
        if len(given) != 2 or not all(isinstance(item, pd.DataFrame) for item in given):
            raise ConfigError("expected paths, or the two frames of load() and requests().")
        return given[0], given[1]
    return load(*given), requests(*given)


def _sums(points: pd.DataFrame, served: pd.DataFrame, metric: str) -> dict[Any, pd.DataFrame]:
    """Index of a point -> its requests in order of (batch, request): columns `over`, `under`, `batch`."""
    above, below = METRICS[metric]
    check_columns(served, "point", "request", "batch", "warmup", *above, *below)
    measured = served[~served["warmup"].astype(bool)].sort_values(["batch", "request"], kind="stable")
    measured = measured[measured["point"].isin(points["point"])]
    if metric in ALONE and measured.duplicated(["point", "batch"]).any():
        raise ConfigError(f"metric {metric}: it is not known of single requests where they share batches.")
    keys = measured[["point", "request", "batch"]]
    over, under = (measured[list(names)].astype("float64").prod(axis=1, skipna=False) for names in (above, below))
    whole = keys.assign(over=over, under=under).dropna()
    tables = dict(iter(whole.groupby("point", sort=False)))
    for number in points["point"]:
        if number not in tables:
            raise ConfigError(f"metric {metric}: no request of point {number} has it.")
    return {index: tables[number] for index, number in points["point"].items()}


def _group(members: list[pd.DataFrame], level: float, resamples: int, seed: int) -> list[dict[str, Any]]:
    """The figures of a baseline and of those that are compared with it, all from the same draws."""
    first = members[0]
    for other in members[1:]:
        if not np.array_equal(other[["request", "batch"]], first[["request", "batch"]]):
            pair = f"{first['point'].iloc[0]} and {other['point'].iloc[0]}"
            raise ConfigError(f"points {pair} did not serve the same requests; they cannot be compared.")
    columns = np.column_stack([member[["over", "under"]] for member in members])
    batches = pd.DataFrame(columns).groupby(first["batch"].to_numpy()).sum().to_numpy()
    totals = batches.sum(axis=0)
    values = totals[::2] / totals[1::2]
    drawn_sums = _resampled(batches, resamples, seed)
    drawn = drawn_sums[:, ::2] / drawn_sums[:, 1::2]
    rows = []
    for place, value in enumerate(values):
        row: dict[str, Any] = {"value": value}
        row["low"], row["high"] = interval(drawn[:, place], len(batches), level)
        row["ratio"] = value / values[0]
        row["ratio_low"], row["ratio_high"] = interval(drawn[:, place] / drawn[:, 0], len(batches), level)
        row["difference"] = value - values[0]
        low, high = interval(drawn[:, place] - drawn[:, 0], len(batches), level)
        row["difference_low"], row["difference_high"] = low, high
        row["requests"], row["batches"] = len(first), len(batches)
        row["significant"] = None if np.isnan(low) else bool(low > 0 or high < 0)
        rows.append(row)
    return rows


def _resampled(units: np.ndarray, resamples: int, seed: int) -> np.ndarray:
    """Sums [resamples, columns] over units [units, columns] drawn with replacement; the draws depend on the seed."""
    random = np.random.default_rng(seed)
    even = np.full(len(units), 1 / len(units))
    sizes = [min(BLOCK, resamples - start) for start in range(0, resamples, BLOCK)]
    return np.concatenate([random.multinomial(len(units), even, size=size) @ units for size in sizes])


def interval(drawn: np.ndarray, units: int, level: float = 0.95) -> tuple[float, float]:
    """Percentiles of bootstrap draws that hold `level`, spread as Student's t does for few units.

    NaN for fewer than five units. Hesterberg 2015: a resample's variance is too small by (n - 1) / n, and a
    normal's tails are lighter than t's; both are mended in the percentiles asked for.
    """
    from scipy.special import ndtr, stdtrit

    if units < FEWEST:
        return np.nan, np.nan
    tail = float(ndtr(np.sqrt(units / (units - 1)) * stdtrit(units - 1, (1 - level) / 2)))
    low, high = np.quantile(drawn, [tail, 1 - tail])
    return float(low), float(high)


def _say_noise(table: pd.DataFrame, factor: str, metric: str, level: float) -> None:
    compared = table[table["point"] != table["baseline_point"]]
    unclear = compared[compared["significant"].isna()]
    if not unclear.empty:
        warnings.warn(
            f"an interval over {_counted(unclear.iloc[0])} is not meaningful; at least {FEWEST} are needed.",
            NoiseWarning,
            stacklevel=3,
        )
    noisy = compared[~compared["significant"].fillna(True).astype(bool)]
    if noisy.empty:
        return
    row = noisy.iloc[0]
    base = table.loc[table["point"] == row["baseline_point"], factor].iloc[0]
    others = f"; likewise {len(noisy) - 1} more (see column significant)" if len(noisy) > 1 else ""
    warnings.warn(
        f"the difference of {metric} between {row[factor]} (point {row['point']}) and {base} (point"
        f" {row['baseline_point']}) lies inside the trace's own sampling noise"
        f" ({100 * level:g} % interval {row['difference_low']:.3g} to {row['difference_high']:.3g}"
        f" over {_counted(row)}){others}.",
        NoiseWarning,
        stacklevel=3,
    )


def _counted(row: pd.Series) -> str:
    together = f" in {row['batches']} batches" if row["batches"] < row["requests"] else ""
    return f"{row['requests']} requests{together}"
