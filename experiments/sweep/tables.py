"""The tables of a sweep, from its points and its journal."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.run import write_table
from experiments.sweep.identity import trace_digest
from experiments.sweep.points import Point

if TYPE_CHECKING:
    import pandas as pd

TOP_KEYS = ("name", "cache_gib", "host_cache_gib", "seed")
NUMBERS = ("cache_gib", "host_cache_gib")


def point_table(points: Sequence[tuple[Point, str]], found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per finished point: number, id, configuration, metrics."""
    import pandas as pd

    rows = [
        {"point": point.number, "point_id": point_id, **settings_of(point), **found[point_id]["metrics"]}
        for point, point_id in points
        if point_id in found
    ]
    frame = pd.DataFrame(rows)
    shares = [column for column in frame if str(column).endswith("_share")]
    frame[shares] = frame[shares].fillna(0.0)
    metrics = list(dict.fromkeys(key for entry in found.values() for key in entry["metrics"]))
    for column in (*metrics, *NUMBERS):
        if column in frame and frame[column].dtype == object:
            frame[column] = frame[column].astype("float64")  # all missing
    for column in frame.columns.difference(metrics):
        if not _is_of_one_type(frame[column].dropna()):
            frame[column] = frame[column].map(str, na_action="ignore")
    return frame


def _is_of_one_type(values: pd.Series) -> bool:
    """Whether a Parquet column can hold them: texts, truths, or numbers of 64 bits."""
    if values.dtype != object:
        return True
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return all(isinstance(value, float) or -(2**63) <= value < 2**63 for value in values)
    return len({type(value) for value in values}) <= 1


def settings_of(point: Point) -> dict[str, Any]:
    """The configuration of a point in one level: choices, numbers, and whatever was overridden."""
    config = point.config
    row: dict[str, Any] = {"name": config["name"]}
    row |= {group.replace("/", "."): choice for group, choice in point.choices.items() if group != "experiment"}
    row["system"] = config["system"]["name"] or "custom"
    row |= {key: config[key] for key in TOP_KEYS}
    row["trace_digest"] = trace_digest(config)
    for group in ("workload", "settings"):
        row |= {f"{group}.{key}": value for key, value in config[group].items()}
    for override in point.overrides:
        key = override.partition("=")[0].lstrip("+")
        if not key.startswith("~") and "/" not in key and "." in key and key not in row and "@" not in key:
            value: Any = config
            for part in key.split("."):
                value = value[int(part)] if isinstance(value, list) else value[part]
            if not isinstance(value, dict | list):
                row[key] = value
    return row


def request_table(points: Sequence[tuple[Point, str]], found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per finished point and request; what only some points say of their requests is missing for the others."""
    import pandas as pd

    columns: dict[str, list[Any]] = {"point": []}
    for point, point_id in points:
        if point_id in found:
            requests = found[point_id]["requests"]
            before, count = len(columns["point"]), len(requests["request"])
            columns["point"] += [point.number] * count
            for key in dict.fromkeys((*columns, *requests)):
                if key != "point":
                    columns.setdefault(key, [None] * before).extend(requests.get(key, [None] * count))
    frame = pd.DataFrame(columns)
    for column in ("ttft_s", "tpot_s"):
        frame[column] = frame[column].astype("float64")
    for column in ("hits", "accesses"):
        frame[column] = frame[column].astype("Int64")
    return frame


def draw_table(points: Sequence[tuple[Point, str]], found: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One row per finished point and draw of its constants; empty if nothing was drawn."""
    import pandas as pd

    rows = [
        pd.DataFrame({"point": point.number, **found[point_id]["draws"]})
        for point, point_id in points
        if "draws" in found.get(point_id, {})
    ]
    if not rows:
        return pd.DataFrame()
    frame = pd.concat(rows, ignore_index=True)
    return frame.astype({name: "float64" for name in frame if name not in ("point", "draw")})


def write_file(table: pd.DataFrame, path: Path) -> None:
    """Write a table as Parquet or CSV, all or nothing."""
    with whole(path) as temporary:
        write_table(table, temporary)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary file which takes the place of `path` at the end, and vanishes on an error."""
    number, name = tempfile.mkstemp(prefix=f".{path.stem}.", suffix=path.suffix, dir=path.parent)
    os.close(number)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
