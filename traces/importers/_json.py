"""Reading foreign JSON: documents and JSON-lines whose faults become one sentence, and arrays of expert ids."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from traces.schema import TraceError


def first_bytes(path: Path, count: int) -> bytes:
    """Return the first `count` bytes of a file, or nothing if `path` is a folder."""
    if path.is_dir():
        return b""
    with open(path, "rb") as file:
        return file.read(count)


def first_object(path: Path, limit_bytes: int = 1 << 20) -> dict[str, Any]:
    """Return the JSON object on the first line of a file, or an empty one if there is none."""
    if path.is_dir():
        return {}
    with open(path, "rb") as file:
        line = file.readline(limit_bytes)
    try:
        value = parse_json(line, path.name)
    except TraceError:
        return {}
    return value if isinstance(value, dict) else {}


def parse_json(raw: bytes, where: str) -> Any:
    """Parse JSON in UTF-8; raises TraceError saying what of `where` is not."""
    try:
        return json.loads(raw.decode("utf-8"))
    except UnicodeDecodeError:
        raise TraceError(f"{where}: the text must be UTF-8.") from None
    except (ValueError, RecursionError):
        raise TraceError(f"{where}: the text must be complete JSON, but it is cut or damaged.") from None


def read_document(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds; raises TraceError if it holds anything else."""
    value = parse_json(path.read_bytes(), path.name)
    if not isinstance(value, dict):
        raise TraceError(f"{path.name}: the file must hold a JSON object.")
    return value


def read_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield ``("file: line n", object)`` for each line that is not blank, one at a time.

    Raises TraceError at the first line that is not a JSON object.
    """
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            where = f"{path.name}: line {number}"
            value = parse_json(line, where)
            if not isinstance(value, dict):
                raise TraceError(f"{where}: each line must hold a JSON object.")
            yield where, value


def take(record: dict[str, Any], field: str, kind: type | tuple[type, ...], where: str) -> Any:
    """Return a field of `record`; raises TraceError if it is missing or of another type (a bool is no int)."""
    if field not in record:
        raise TraceError(f"{where}: field '{field}' is missing.")
    value = record[field]
    kinds = kind if isinstance(kind, tuple) else (kind,)
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        names = {int: "an integer", str: "a text", list: "a list", dict: "an object"}
        expected = " or ".join(names.get(one, one.__name__) for one in kinds)
        raise TraceError(f"{where}: field '{field}' must be {expected}, not {_short(value)}.")
    return value


def expert_ids(values: Any, shape: tuple[int | None, ...], num_experts: int, where: str, lowest: int = 0) -> np.ndarray:
    """Return nested lists, or an array, of expert ids as an int16 array of `shape` (None: any length).

    Raises TraceError if they are not integers, have another shape, or are not from `lowest` to
    ``num_experts - 1``.
    """
    try:
        ids = np.asarray(values)
    except (ValueError, OverflowError):
        ids = np.zeros(0, dtype=object)  # ragged
    expected = ", ".join("any" if size is None else str(size) for size in shape)
    fits = len(ids.shape) == len(shape) and all(
        want is None or have == want for have, want in zip(ids.shape, shape, strict=True)
    )
    if ids.dtype.kind not in "iu" or not fits:
        raise TraceError(f"{where}: the expert ids must be integers of shape [{expected}].")
    if ids.size and not (lowest <= int(ids.min()) and int(ids.max()) < num_experts):
        wrong = ids[(ids < lowest) | (ids >= num_experts)].flat[0]
        raise TraceError(f"{where}: an expert id must be from {lowest} to {num_experts - 1}, not {wrong}.")
    return ids.astype(np.int16)


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
