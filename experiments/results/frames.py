"""One tidy frame from sweep folders, run folders, and folders of them."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import OmegaConf

from experiments.compose import read_yaml
from experiments.explain import ConfigError, did_you_mean, one_sentence
from experiments.results.names import configuration_columns
from experiments.run import DRAWS, MARK
from experiments.schema import Config

Paths = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]
SWEEP_MARK = "sweep.json"
RUN_FILES = (MARK, "summary.json", "config.yaml")
_KEYS = {f.name for f in fields(Config)} - {"name", "out"}


def load(*paths: Paths) -> pd.DataFrame:
    """One row per finished run or sweep point below `paths`, in order of path and sweep.

    A path is a sweep folder, a run folder, or a folder that holds some at any depth; a list of paths is fine too.
    Columns: `point` (unique; that of the sweep if there is nothing else), `point_id`, `folder`, `name`, the
    configuration (choices such as `policy.cache` by name, values such as `cache_gib` and `workload.requests`),
    `trace_digest`, every scalar of the summary, and `<cause>_share` of the time, 0 to 1. What a run does not define
    is missing (NaN). The provenance of each folder is in `.attrs["provenance"]`. Raises ConfigError for folders that
    hold no whole result.
    """
    parts = _points(paths)
    table = _tidy(pd.concat([points for _, points, _ in parts], ignore_index=True))
    marks = {folder: folder / (SWEEP_MARK if _is_sweep(folder) else MARK) for folder, _, _ in parts}
    table.attrs["provenance"] = {folder.as_posix(): _json(mark) for folder, mark in marks.items()}
    return table


def requests(*paths: Paths) -> pd.DataFrame:
    """One row per request of every point of `load(*paths)`; `.merge(points, on="point")` adds the configuration.

    Columns: `point`, `request`, `batch`, `warmup`, `context_tokens`, `decode_tokens`, `start_s`, `ttft_s`, `tpot_s`,
    `latency_s`, and `hits` and `accesses` of the expert cache (missing where requests share a batch).
    """
    tables = []
    for folder, _, shift in _points(paths):
        table = read_table(folder / "requests.parquet")
        if _is_sweep(folder):
            check_columns(table, "point")
            table["point"] += shift
        else:
            table.insert(0, "point", shift)
        tables.append(table)
    return _tidy(pd.concat(tables, ignore_index=True))


def draws(*paths: Paths) -> pd.DataFrame:
    """One row per draw of the constants and point of `load(*paths)` that ran with `uncertainty=calibration`.

    Columns: `point`, `draw`, `tpot_mean_s`, `ttft_mean_s`, `tokens_per_s`. Raises ConfigError if no point has draws.
    """
    tables = []
    for folder, _, shift in _points(paths):
        if (folder / DRAWS).is_file():
            table = read_table(folder / DRAWS)
            if _is_sweep(folder):
                check_columns(table, "point")
                table["point"] += shift
            else:
                table.insert(0, "point", shift)
            tables.append(table)
    if not tables:
        raise ConfigError("no point has draws of its constants; run it with uncertainty=calibration.")
    return _tidy(pd.concat(tables, ignore_index=True))


def configuration(points: pd.DataFrame) -> list[str]:
    """The columns that say what was run, not what came out: keys of the configuration, and the trace's digest."""
    return [column for column in points if column in _KEYS or column == "trace_digest" or "." in str(column)]


def check_columns(table: pd.DataFrame, *names: str) -> None:
    """Raise ConfigError for a name that is no column."""
    for name in names:
        if name not in table:
            raise ConfigError(f"'{name}': there is no such column{did_you_mean(str(name), map(str, table))}")


def check_numbers(table: pd.DataFrame, *names: str) -> None:
    """Raise ConfigError for a name that is no column of numbers."""
    check_columns(table, *names)
    for name in names:
        if not pd.api.types.is_numeric_dtype(table[name]) or pd.api.types.is_bool_dtype(table[name]):
            raise ConfigError(f"'{name}': expected a column of numbers.")


def read_table(path: Path) -> pd.DataFrame:
    """A Parquet file. Raises ConfigError naming it if it is missing or cannot be read."""
    try:
        return pd.read_parquet(path)
    except FileNotFoundError:
        raise ConfigError(f"{path.parent}: there is no {path.name}; make the folder again.") from None
    except (OSError, ValueError) as error:  # pyarrow's errors are among them
        raise ConfigError(f"{path}: cannot be read as Parquet: {one_sentence(error)}") from None


# ---- folders


def _points(paths: tuple[Paths, ...]) -> list[tuple[Path, pd.DataFrame, int]]:
    """Each folder below `paths`, its rows, and what was added to their numbers so that none repeats."""
    single = (str, os.PathLike)
    several = [path for given in paths for path in ([given] if isinstance(given, single) else given)]
    if not several:
        raise ConfigError("expected the path of at least one run or sweep folder.")
    folders = list(dict.fromkeys(folder for path in several for folder in _found(Path(path).expanduser())))
    runs = [folder for folder in folders if not _is_sweep(folder)]
    configs: list[Any] = [OmegaConf.to_container(read_yaml(folder / "config.yaml")) for folder in runs]
    names = [{"name": config.get("name")} for config in configs]
    columns = {run: name | row for run, name, row in zip(runs, names, configuration_columns(configs), strict=True)}
    parts = []
    shift = 0
    for folder in folders:
        points = _sweep_points(folder) if _is_sweep(folder) else _run_point(folder, columns[folder])
        if not points.empty:
            points["point"] += shift
            parts.append((folder, points, shift))
            shift = int(points["point"].max()) + 1
    if not parts:
        raise ConfigError(_nothing(folders[0]))
    return parts


def _nothing(folder: Path) -> str:
    """Why a sweep has no points to show."""
    from experiments.sweep.journal import entries

    kept = len({entry["id"] for entry in entries(folder) if "error" not in entry})
    if kept:
        return (
            f"{folder}: this sweep was stopped before its tables were written; the {kept} points that are finished are"
            " kept, and the same `moesim sweep` writes them and goes on."
        )
    return f"{folder}: no point of this sweep has finished; run it again, or see its failures.csv."


def _found(path: Path) -> list[Path]:
    if not path.is_dir():
        raise ConfigError(f"{path}: there is no such folder; expected a run, a sweep or a folder of them.")
    folders = list(_walk(path))
    if not folders:
        raise ConfigError(f"{path}: expected a run, a sweep or a folder of them; nothing here was written by moesim.")
    return folders


def _walk(folder: Path) -> Iterator[Path]:
    if _is_sweep(folder):
        yield folder
        return
    missing = [name for name in RUN_FILES if not (folder / name).is_file()]
    if not missing:
        yield folder
        return
    below = [path for path in sorted(folder.iterdir()) if path.is_dir() and not path.is_symlink()]
    found = [run for path in below if not path.name.startswith(".") for run in _walk(path)]
    if not found and not {MARK, "summary.json"} <= set(missing):
        raise ConfigError(f"{folder}: there is no {missing[0]}; make the folder again.")
    yield from found


def _is_sweep(folder: Path) -> bool:
    return (folder / SWEEP_MARK).is_file()


# ---- rows


def _sweep_points(folder: Path) -> pd.DataFrame:
    if not (folder / "points.parquet").exists():
        return pd.DataFrame()  # nothing has finished
    points = read_table(folder / "points.parquet")
    check_columns(points, "point", "trace")
    digests = _json(folder / SWEEP_MARK).get("traces") or {}  # a trace of one's own is there by its stem
    if "trace_digest" not in points:  # sweeps of before
        points["trace_digest"] = [digests.get(trace, digests.get(Path(trace).stem)) for trace in points["trace"]]
    points.insert(min(2, points.shape[1]), "folder", folder.as_posix())
    return points


def _run_point(folder: Path, columns: dict[str, Any]) -> pd.DataFrame:
    summary, provenance = _json(folder / "summary.json"), _json(folder / MARK)
    row = {
        "point": 0,
        "point_id": provenance.get("config_sha256"),
        "folder": folder.as_posix(),
        **columns,
        "system": provenance.get("system"),
        "trace_digest": (provenance.get("trace") or {}).get("digest"),
        **{key: value for key, value in summary.items() if not isinstance(value, (dict, list))},
        **{f"{cause}_share": share for cause, share in (summary.get("attribution") or {}).items()},
    }
    return pd.DataFrame([row])


def _tidy(table: pd.DataFrame) -> pd.DataFrame:
    """Columns of numbers as numbers, missing ones NaN; a cause that took no time has share 0."""
    for column in table:
        values = table[column]
        if values.dtype == object and all(
            isinstance(v, (int, float)) and not isinstance(v, bool) for v in values.dropna()
        ):
            table[column] = pd.to_numeric(values)
    shares = [column for column in table if str(column).endswith("_share")]
    told = table[shares].notna().any(axis=1)
    table.loc[told, shares] = table.loc[told, shares].fillna(0.0)
    return table


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {(error.strerror or 'cannot be read').lower()}.") from None
    except ValueError:
        raise ConfigError(f"{path}: this is not JSON; make the folder again.") from None
    if not isinstance(content, dict):
        raise ConfigError(f"{path}: expected a mapping of keys to values.")
    return content
