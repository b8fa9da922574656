"""Importer of long Parquet tables: one row per (request, position, layer, slot).

Columns ``request``, ``position``, ``phase`` (0/1/-1, or a boolean that is true in decode), ``layer``,
``slot``, ``expert``; optionally ``weight`` (NaN or null where unknown) and ``guess1``, ``guess2``, … (the
slot-th guess for the layer that many layers on, -1 where none). The rows of a request stand together. A slot
without a row is empty (-1), for top-k may vary and a layer may run for some tokens only; notes count them. The
schema's metadata says ``num_experts``, or has under ``model`` the JSON of a Hugging Face configuration;
further known keys are ``model``, ``top_k``, ``native_top_k``, ``source``, ``licence``, ``note``, ``dataset``
and ``capture_tool``.

Requests may be described by a list of objects with ``request`` and ``category`` or ``domain`` (becomes the
task) and ``dataset``, in the metadata under ``requests`` or in a file ``X.requests.json`` beside
``X.parquet``.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traces.importers._dense import dense_request, slots_are_ranked
from traces.importers._json import first_bytes, parse_json
from traces.importers._models import canonical_name, resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import RequestTrace, TraceError, TraceMeta

_DAMAGE = (pa.ArrowException, OSError, ValueError)  # what pyarrow raises on damaged bytes
REQUIRED_COLUMNS = ("request", "position", "phase", "layer", "slot", "expert")
_BATCH_ROWS = 1 << 17


def recognise(path: Path) -> bool:
    """Return whether `path` is a Parquet file with the columns of this format, or one whose end is cut off."""
    if first_bytes(path, 4) != b"PAR1":
        return False
    try:
        names = pq.ParquetFile(path).schema_arrow.names
    except _DAMAGE:
        return True  # `load` says so
    return all(name in names for name in REQUIRED_COLUMNS)


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the requests of `path`; see the package for the protocol.

    The file is scanned once for its layers and then read in batches: memory holds a batch and one request.
    Its end says where everything is, so nothing can be salvaged from a file that was cut.
    """
    try:
        file = pq.ParquetFile(path)
    except _DAMAGE:
        raise TraceError(f"{path.name}: the Parquet file is cut or damaged, and without its end unreadable.") from None
    _require_kinds(file, path.name)
    recorded = _recorded(file, path.name)
    described = _described_requests(path, recorded)
    scan = _scan(file, path.name)
    count = _integer(recorded, "num_experts", path.name)
    if count is None and options.num_experts is None:
        raise TraceError(f"{path.name}: metadata field 'num_experts' is missing.")
    top_k = _integer(recorded, "top_k", path.name) or scan.slots
    if scan.slots > top_k:
        raise TraceError(f"{path.name}: field 'slot' must be below the top_k {top_k} of the metadata.")
    name = options.model or canonical_name(recorded.get("model", "unknown"))
    trained = _integer(recorded, "native_top_k", path.name)
    native = resolve_native_top_k(name, options.native_top_k, trained, top_k, path.name)
    distances = 0
    while f"guess{distances + 1}" in file.schema_arrow.names:
        distances += 1
    for column in file.schema_arrow.names:
        if re.fullmatch(r"guess\d+", column) and not 1 <= int(column[5:]) <= distances:
            raise TraceError(f"{path.name}: column '{column}' must follow 'guess{distances + 1}', which is missing.")
    datasets = sorted({str(entry["dataset"]) for entry in described.values() if entry.get("dataset")})
    notes = [
        recorded.get("note", ""),
        f"model as recorded: {recorded['model']}" if "model" in recorded else "",
    ]
    if empty := scan.tokens * len(scan.layers) * top_k - scan.rows:
        notes.append(f"{empty} of {empty + scan.rows} slots have no row and are empty")
    meta = TraceMeta(
        model=name,
        num_experts=resolve_num_experts(name, options.num_experts, count, path.name),
        top_k=top_k,
        native_top_k=native,
        layers=scan.layers,
        rank_known=scan.ranked,
        has_weights=scan.has_weights,
        guess_distances=distances,
        guess_width=top_k if distances else 0,
        capture_tool=recorded.get("capture_tool", ""),
        dataset=recorded.get("dataset", ", ".join(datasets)),
        licence=recorded.get("licence", ""),
        source=recorded.get("source", path.name),
        notes="; ".join(note for note in notes if note),
    )
    return meta, _requests(file, path.name, meta, described, options)


@dataclass(frozen=True)
class _Scan:
    layers: tuple[int, ...]
    slots: int
    ranked: bool
    has_weights: bool
    tokens: int
    rows: int


def _require_kinds(file: pq.ParquetFile, name: str) -> None:
    names = file.schema_arrow.names
    if len(set(names)) < len(names):
        raise TraceError(f"{name}: the names of its columns must differ.")
    for field in file.schema_arrow:
        whole = pa.types.is_integer(field.type) or (field.name == "phase" and pa.types.is_boolean(field.type))
        if not whole and (field.name in REQUIRED_COLUMNS or field.name.startswith("guess")):
            raise TraceError(f"{name}: column '{field.name}' must hold integers, not {field.type}.")
        if field.name == "weight" and not (whole or pa.types.is_floating(field.type) or pa.types.is_null(field.type)):
            raise TraceError(f"{name}: column 'weight' must hold numbers, not {field.type}.")


def _scan(file: pq.ParquetFile, name: str) -> _Scan:
    """Read the columns that decide the metadata, batch by batch."""
    names = ["request", "position", "layer", "slot", "expert"]
    names += ["weight"] if "weight" in file.schema_arrow.names else []
    layers: set[int] = set()
    slots, ranked, has_weights, rows = 0, True, False, 0
    tokens = np.empty((0, 2), dtype=np.int64)
    for columns in _batches(file, names, name):
        layers.update(int(layer) for layer in np.unique(columns["layer"]))
        slots = max(slots, int(columns["slot"].max()) + 1)
        rows += len(columns["slot"])
        tokens = np.concatenate([tokens, _tokens(columns["request"], columns["position"])])
        weight = columns.get("weight")
        has_weights = has_weights or (weight is not None and not bool(np.isnan(weight).all()))
        ranked = ranked and slots_are_ranked(columns["slot"], columns["expert"], weight)
    if not layers:
        raise TraceError(f"{name}: the table must have at least one row.")
    return _Scan(tuple(sorted(layers)), slots, ranked, has_weights, len(np.unique(tokens, axis=0)), rows)


def _tokens(request: np.ndarray, position: np.ndarray) -> np.ndarray:
    """(request, position) int64 [n, 2] wherever they differ from the row before."""
    pairs = np.stack([request.astype(np.int64), position.astype(np.int64)], axis=1)
    return pairs[np.concatenate([[True], (pairs[1:] != pairs[:-1]).any(axis=1)])]


def _requests(
    file: pq.ParquetFile,
    name: str,
    meta: TraceMeta,
    described: dict[int, dict[str, Any]],
    options: ImportOptions,
) -> Iterator[tuple[RequestTrace, str | None]]:
    columns = list(REQUIRED_COLUMNS) + (["weight"] if meta.has_weights else [])
    columns += [f"guess{distance}" for distance in range(1, meta.guess_distances + 1)]
    found: set[int] = set()
    for request, rows in _runs(file, columns, name):
        if not options.wants(request):
            continue
        if request in found:
            raise TraceError(f"{name}: request {request}, field 'request': the rows of a request must stand together.")
        found.add(request)
        entry = described.get(request, {})
        task = entry.get("category", entry.get("domain"))
        yield dense_request(request, rows, meta, name), None if task is None else str(task)
    options.require_found(found, name)


def _runs(file: pq.ParquetFile, names: list[str], source: str) -> Iterator[tuple[int, dict[str, np.ndarray]]]:
    """Yield the rows of each run of equal request ids, which may span batches."""
    current, pieces = -1, list[dict[str, np.ndarray]]()
    for columns in _batches(file, names, source):
        ids = columns["request"]
        cuts = [0, *(np.flatnonzero(ids[1:] != ids[:-1]) + 1).tolist(), len(ids)]
        for start, stop in itertools.pairwise(cuts):
            if pieces and int(ids[start]) != current:
                yield current, _joined(pieces)
                pieces = []
            current = int(ids[start])
            pieces.append({name: values[start:stop] for name, values in columns.items()})
    if pieces:
        yield current, _joined(pieces)


def _joined(pieces: list[dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    return {name: np.concatenate([piece[name] for piece in pieces]) for name in pieces[0]}


def _batches(file: pq.ParquetFile, names: list[str], source: str) -> Iterator[dict[str, np.ndarray]]:
    batches = file.iter_batches(batch_size=_BATCH_ROWS, columns=names)
    while True:
        try:
            batch = next(batches, None)
        except _DAMAGE:
            raise TraceError(f"{source}: stored rows are damaged and cannot be read.") from None
        if batch is None:
            return
        for name in names:
            if batch.column(name).null_count and name != "weight":
                raise TraceError(f"{source}: column '{name}' must have a number in every row.")
        if batch.num_rows:
            columns = {name: batch.column(name).to_numpy(zero_copy_only=False) for name in names}
            if "weight" in columns:
                with np.errstate(over="ignore"):  # too large: infinite, and refused as such
                    columns["weight"] = columns["weight"].astype(np.float32)
            yield columns


def _recorded(file: pq.ParquetFile, name: str) -> dict[str, str]:
    """Return the schema's metadata as text; a model's JSON configuration is taken apart."""
    raw = file.schema_arrow.metadata or {}
    recorded = {key.decode(errors="replace"): value.decode(errors="replace") for key, value in raw.items()}
    if recorded.get("model", "").startswith("{"):
        config = _json(recorded["model"], name, "model")
        recorded["model"] = str(config.get("model_type", "unknown"))
        for key, source in (("num_experts", "num_experts"), ("top_k", "num_experts_per_tok")):
            if source in config:
                recorded.setdefault(key, str(config[source]))
    return recorded


def _described_requests(path: Path, recorded: dict[str, str]) -> dict[int, dict[str, Any]]:
    sidecar = path.with_suffix(".requests.json")
    if sidecar.is_file():
        name, entries = sidecar.name, parse_json(sidecar.read_bytes(), sidecar.name)
    else:
        name, entries = path.name, _json(recorded.get("requests", "[]"), path.name, "requests")
    if not isinstance(entries, list) or not all(isinstance(e, dict) and type(e.get("request")) is int for e in entries):
        raise TraceError(f"{name}: field 'requests' must be a list of objects that each have a 'request' id.")
    return {entry["request"]: entry for entry in entries}


def _json(text: str, name: str, field: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        raise TraceError(f"{name}: field '{field}' must be valid JSON.") from None


def _integer(recorded: dict[str, str], field: str, name: str) -> int | None:
    if field not in recorded:
        return None
    try:
        return int(recorded[field])
    except ValueError:
        raise TraceError(f"{name}: metadata field '{field}' must be an integer, not {recorded[field]!r}.") from None
