"""A user's own measured times per token beside those of a run."""

from __future__ import annotations

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.explain import ConfigError, one_sentence
from experiments.results.frames import SWEEP_MARK, check_columns, read_table

_TIME = re.compile(r"(?:latency|time)_(s|ms|us)")
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6}


def align(run: str | os.PathLike[str], measured: str | os.PathLike[str]) -> pd.DataFrame:
    """One row per decoded token of a run folder or of a CSV of measured times, beside each other.

    The CSV has a column `token` or `position`, the number of the decoded token in its request from 0; a time in
    `latency_s`, `latency_ms`, `time_ms` or the like; and `request`, the identifier in the trace, unless the run has
    but one. Requests that share a batch share the time of its steps. Warm-up requests of the run are left out.
    Columns: `request`, `token`, `simulated_s`, `measured_s` (missing where only the other side has the token) and
    `error` (simulated / measured - 1). Raises ConfigError for what cannot be read or aligned.
    """
    folder, csv = Path(run).expanduser(), Path(measured).expanduser()
    if (folder / SWEEP_MARK).is_file():
        raise ConfigError(f"{folder}: this is a sweep; expected the folder of one run.")
    if not folder.is_dir():
        raise ConfigError(f"{folder}: there is no such folder; expected that of a run.")
    served, steps = read_table(folder / "requests.parquet"), read_table(folder / "steps.parquet")
    check_columns(served, "request", "batch", "warmup", "context_tokens", "decode_tokens")
    check_columns(steps, "batch", "phase", "latency_s")
    served = served[~served["warmup"].astype(bool) & (served["decode_tokens"] > 0)]
    if served.empty:
        raise ConfigError(f"{folder}: the run decoded no token; there is nothing to compare.")
    theirs = _read(csv, served)
    prompts = (served["context_tokens"] - served["decode_tokens"]).set_axis(served["request"])
    firsts = theirs.groupby("request")["token"].min()
    if (firsts > 0).all() and (firsts == prompts.reindex(firsts.index)).all():
        raise ConfigError(
            f"{csv}: it counts from the start of the prompt; number the decoded token of each request from 0."
        )
    decode = steps[steps["phase"] == "decode"]
    decode = decode.assign(token=decode.groupby("batch").cumcount())[["batch", "token", "latency_s"]]
    tokens = served.loc[served.index.repeat(served["decode_tokens"]), ["request", "batch"]]
    tokens["token"] = tokens.groupby("request").cumcount()
    ours = tokens.merge(decode, on=["batch", "token"]).rename(columns={"latency_s": "simulated_s"})
    rows = ours[["request", "token", "simulated_s"]].merge(theirs, on=["request", "token"], how="outer")
    rows = rows.sort_values(["request", "token"], ignore_index=True)
    rows["error"] = rows["simulated_s"] / rows["measured_s"] - 1
    if rows["error"].isna().all():
        raise ConfigError(f"{csv}: none of its tokens is one of the run in {folder}.")
    return rows


def agreement(rows: pd.DataFrame) -> dict[str, Any]:
    """How well the tokens of `align` agree: counts, times of both sides, errors as shares (0.1 is 10 %).

    `mean_error` has a sign (above 0: simulated too slow), `mean_absolute_error` (MAPE) and its percentiles have
    none; all are over tokens that both sides have. `correlation` is Pearson's, None where a side does not vary.

    >>> import pandas as pd
    >>> rows = pd.DataFrame({"simulated_s": [0.02, 0.03, 0.02], "measured_s": [0.02, 0.02, None]})
    >>> rows["error"] = rows.simulated_s / rows.measured_s - 1
    >>> said = agreement(rows)
    >>> said["tokens"], said["only_simulated"], round(said["mean_error"], 3)
    (2, 1, 0.25)
    """
    both = rows.dropna(subset=["simulated_s", "measured_s"])
    said: dict[str, Any] = {
        "tokens": len(both),
        "only_simulated": int(rows["measured_s"].isna().sum()),
        "only_measured": int(rows["simulated_s"].isna().sum()),
    }
    for side in ("simulated", "measured"):
        times = both[f"{side}_s"]
        said[f"{side}_mean_s"] = float(times.mean())
        said |= {f"{side}_p{share}_s": float(times.quantile(share / 100)) for share in (50, 99)}
    absolute = both["error"].abs()
    said["mean_error"], said["mean_absolute_error"] = float(both["error"].mean()), float(absolute.mean())
    said |= {f"absolute_error_p{share}": float(absolute.quantile(share / 100)) for share in (50, 99)}
    vary = both["simulated_s"].nunique() > 1 and both["measured_s"].nunique() > 1
    said["correlation"] = float(np.corrcoef(both["simulated_s"], both["measured_s"])[0, 1]) if vary else None
    return said


def _read(csv: Path, served: pd.DataFrame) -> pd.DataFrame:
    """request, token, measured_s of a CSV. Raises ConfigError naming the file, and the column if one is at fault."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pd.errors.ParserWarning)  # else it drops what is too much in a row
            table = pd.read_csv(csv, comment="#", skipinitialspace=True, index_col=False)
    except FileNotFoundError:
        raise ConfigError(f"{csv}: there is no such file.") from None
    except pd.errors.ParserWarning:
        raise ConfigError(
            f"{csv}: its rows hold more values than its header; decimals take a point, not a comma."
        ) from None
    except (OSError, ValueError) as error:  # pandas' own errors are among them
        raise ConfigError(f"{csv}: cannot be read as CSV: {one_sentence(error)}") from None
    twice = [name for name in table if str(name).rpartition(".")[0] in table and str(name).rpartition(".")[2].isdigit()]
    if twice:
        raise ConfigError(f"{csv}: column '{str(twice[0]).rpartition('.')[0]}' is there twice.")
    times = [name for name in table if _TIME.fullmatch(str(name))]
    places = [name for name in ("token", "position") if name in table]
    if len(times) != 1 or len(places) != 1:
        raise ConfigError(
            f"{csv}: expected one column 'token' or 'position' and one such as 'latency_s' or 'latency_ms';"
            f" there are: {', '.join(map(str, table))}."
        )
    if "request" not in table:
        if len(served) > 1:
            raise ConfigError(f"{csv}: expected a column 'request', for the run served {len(served)} requests.")
        table["request"] = served["request"].iloc[0]
    if table.empty:
        raise ConfigError(f"{csv}: expected at least one row.")
    for name in ("request", places[0], times[0]):
        numbers = pd.to_numeric(table[name], errors="coerce")
        least_ok = numbers > 0 if name == times[0] else (numbers >= 0) & (numbers % 1 == 0)
        bad = ~(least_ok & np.isfinite(numbers))
        if bad.any():
            expected = "a time above 0" if name == times[0] else "a whole number from 0"
            raise ConfigError(f"{csv}: column '{name}' holds '{table[name][bad].iloc[0]}'; expected {expected}.")
        table[name] = numbers if name == times[0] else numbers.astype("int64")
    table = table.rename(columns={places[0]: "token"})
    if (twice := table[table.duplicated(["request", "token"])]).size:
        row = twice.iloc[0]
        raise ConfigError(f"{csv}: token {row['token']:.0f} of request {row['request']:.0f} is there twice.")
    unit = _TIME.fullmatch(times[0])
    assert unit is not None
    return table[["request", "token"]].assign(measured_s=table[times[0]] * _SECONDS[unit.group(1)])
