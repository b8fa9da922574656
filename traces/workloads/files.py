"""Request lists as files: a table (CSV, Parquet) of rows, or the YAML of a specification."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from traces.schema import RequestInfo
from traces.workloads.recorded import FOLDER
from traces.workloads.requests import (
    OPEN,
    PREFIX,
    SLOS,
    RequestList,
    WorkloadError,
    check_requests,
    decode_tokens_of,
    followed,
    prompt_tokens_of,
)
from traces.workloads.spec import make_requests
from traces.workloads.tables import read_columns
from traces.workloads.yaml_file import read_yaml

COLUMNS = (
    "arrival_s",
    "prompt_tokens",
    "decode_tokens",
    "task",
    "tenant",
    "trace_request",
    "client",
    "think_s",
    *SLOS,
    *PREFIX,
)


def open_requests(path: str | os.PathLike[str], trace: Sequence[RequestInfo], seed: int = 0) -> RequestList:
    """The request list in a table (.csv, .parquet), or that of a specification (.yaml) over the requests of a trace.

    A name without folder and ending is that of a shipped specification. `seed` is that of what a specification draws.
    Raises WorkloadError, one sentence naming the file.
    """
    path = Path(path).expanduser()
    if path.name == str(path) and not path.suffix:
        known = sorted(shipped.stem for shipped in FOLDER.glob("*.yaml"))
        if path.name not in known:
            raise WorkloadError(f"{path}: expected a file's path, or a shipped request list ({', '.join(known)}).")
        path = FOLDER / f"{path}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        return read_requests(path, trace)
    return make_requests(read_yaml(path), trace, seed, str(path))


def read_requests(path: str | os.PathLike[str], trace: Sequence[RequestInfo]) -> RequestList:
    """Read a table of requests; columns that it lacks are filled from the trace.

    Missing: trace_request (the trace's requests in turn, those of the row's task if there is one), prompt_tokens and
    decode_tokens (as the trace's request), arrival_s (at once), tenant, client, think_s (none), slo_ttft_s, slo_tpot_s
    (NaN), prefix, prefix_tokens (none). Raises WorkloadError.
    """
    path = Path(path).expanduser()
    columns = read_columns(path)
    where = str(path)
    for name in columns:
        if name not in COLUMNS:
            raise WorkloadError(f"{where}: column '{name}' is not known (there are: {', '.join(COLUMNS)}).")
    count = len(next(iter(columns.values()), ()))
    if not count:
        raise WorkloadError(f"{where}: there must be at least one request.")
    tasks = _texts(columns.get("task"), count)
    if "trace_request" in columns:
        ids = _integers(columns["trace_request"], where, "trace_request")
        by_id = {info.id: info for info in trace}
        wrong = [row for row, number in enumerate(ids) if int(number) not in by_id]
        if wrong:
            raise WorkloadError(
                f"{where}: row {wrong[0] + 1}, field 'trace_request' must be the id of a request of the trace,"
                f" not {ids[wrong[0]]}."
            )
        chosen = [by_id[int(number)] for number in ids]
    else:
        chosen = followed(trace, tasks, count, where)

    def tokens(name: str, own: Any) -> np.ndarray:
        if name in columns:
            return _integers(columns[name], where, name)
        return np.array([own(info) for info in chosen], dtype=np.int64)

    requests = RequestList(
        arrival_s=_numbers(columns.get("arrival_s", np.zeros(count)), where, "arrival_s"),
        prompt_tokens=tokens("prompt_tokens", prompt_tokens_of),
        decode_tokens=tokens("decode_tokens", decode_tokens_of),
        trace_request=np.array([info.id for info in chosen], dtype=np.int64),
        task=tuple(given if given is not None else info.task for given, info in zip(tasks, chosen, strict=True)),
        tenant=_texts(columns.get("tenant"), count),
        client=_integers(columns.get("client", np.full(count, OPEN)), where, "client", empty=OPEN),
        prefix=_texts(columns.get("prefix"), count),
        prefix_tokens=_integers(columns.get("prefix_tokens", np.zeros(count)), where, "prefix_tokens", empty=0),
        **{name: _numbers(columns.get(name, np.full(count, np.nan)), where, name) for name in ("think_s", *SLOS)},
    )
    check_requests(requests, trace, where)
    return requests


def write_requests(requests: RequestList, path: str | os.PathLike[str]) -> None:
    """Write a table, by the suffix .csv or .parquet; `read_requests` reads the same list from it."""
    path = Path(path)
    if path.suffix not in (".csv", ".parquet"):
        raise WorkloadError(f"{path}: expected a name ending in .csv or .parquet.")
    missing = {name: np.isnan(getattr(requests, name)) for name in ("arrival_s", "think_s", *SLOS)}
    missing["client"] = requests.client == OPEN
    arrays = {}
    for name in COLUMNS:
        if requests.leaves_out(name):
            continue
        values = getattr(requests, name)
        arrays[name] = (
            pa.array(list(values), pa.string())
            if isinstance(values, tuple)
            else pa.array(values, mask=missing.get(name))
        )
    table = pa.table(arrays)
    if path.suffix == ".csv":
        pa.csv.write_csv(table, path, pa.csv.WriteOptions(quoting_style="needed"))
    else:
        pq.write_table(table, path, compression="zstd")


def _numbers(values: np.ndarray, where: str, name: str) -> np.ndarray:
    """Float64, NaN where a cell is empty. Dates and truth values are no numbers, though NumPy can convert them."""
    try:
        if values.dtype.kind in "bmM" or any(isinstance(value, bool) for value in values if values.dtype.kind == "O"):
            raise TypeError
        numbers = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        if numbers.ndim != 1:  # of a column of lists
            raise TypeError
        return numbers
    except (ValueError, TypeError, OverflowError):
        raise WorkloadError(f"{where}: column '{name}' must hold numbers.") from None


def _integers(values: np.ndarray, where: str, name: str, empty: int | None = None) -> np.ndarray:
    numbers = _numbers(values, where, name)
    if empty is not None:
        numbers = np.where(np.isnan(numbers), empty, numbers)
    wrong = np.flatnonzero(~(np.isfinite(numbers) & (numbers == np.rint(numbers)) & (np.abs(numbers) < 2**53)))
    if len(wrong):
        raise WorkloadError(f"{where}: row {wrong[0] + 1}, field '{name}' must be a whole number.")
    return numbers.astype(np.int64)


def _texts(values: np.ndarray | None, count: int) -> tuple[str | None, ...]:
    if values is None:
        return (None,) * count
    return tuple(None if value is None or value != value or value == "" else str(value) for value in values)
