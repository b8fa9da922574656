"""Reading traces: memory-mapped, one request at a time."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from traces.checks import Digest, check_request
from traces.schema import (
    METADATA_KEY,
    RequestInfo,
    RequestTrace,
    TraceError,
    TraceMeta,
    arrow_schema,
    decode_metadata,
    request_info,
)

# What pyarrow raises on damaged bytes: its own errors, OSError from the checksums, and in the footer
# errors of text decoding (UnicodeDecodeError is a ValueError).
_DAMAGE = (pa.ArrowException, OSError, ValueError)


KEPT_BYTES = 64 * 2**20


class Trace:
    """An open trace file: its metadata, its request table, and its requests on demand.

    Iterating reads one request at a time. The requests read last are kept, up to KEPT_BYTES of them, since
    runs read the same few again; memory is bounded by that and the longest request.
    """

    def __init__(self, path: Path, file: pq.ParquetFile, meta: TraceMeta, requests: tuple[RequestInfo, ...]) -> None:
        self.path = path
        self.meta = meta
        self.requests = requests
        self._file = file
        self._schema = arrow_schema(meta)
        self._kept: OrderedDict[int, RequestTrace] = OrderedDict()  # the one read last at the end
        self._kept_bytes = 0

    def __len__(self) -> int:
        return len(self.requests)

    def _repr_html_(self) -> str:
        from traces.drawing import trace_html

        return trace_html(self)

    def __iter__(self) -> Iterator[RequestTrace]:
        for index in range(len(self)):
            yield self.request(index)

    def request(self, index: int) -> RequestTrace:
        """Read and check the request at `index` (0 … len - 1) of the request table; its arrays are read-only.

        Raises TraceError if the stored rows are damaged or break a rule of the format, IndexError if there is
        no such request.
        """
        if not 0 <= index < len(self):
            raise IndexError(f"{self.path.name}: there is no request at index {index}; there are {len(self)}.")
        request = self._kept.get(index)
        if request is None:
            request = self._kept[index] = self._read(index)
            self._kept_bytes += request.size_bytes
            while self._kept_bytes > KEPT_BYTES:
                self._kept_bytes -= self._kept.popitem(last=False)[1].size_bytes
        else:
            self._kept.move_to_end(index)
        return request

    def embeddings(self) -> np.ndarray:
        """Read the embeddings of all requests, float32 [requests, embedding_width], and nothing else of them.

        A trace without embeddings gives a width of 0. Raises TraceError if they are damaged.
        """
        found = np.empty((len(self), self.meta.embedding_width), dtype=np.float32)
        for index, info in enumerate(self.requests if self.meta.embedding_width else ()):
            where = f"{self.path.name}: request {info.id}"
            try:
                table = self._file.read_row_group(index, columns=["embedding"], use_threads=False)
            except _DAMAGE:
                raise TraceError(f"{where}: the stored rows are damaged and cannot be read.") from None
            values = _first_row(table.column("embedding"), where)
            if values.shape != found.shape[1:]:
                raise TraceError(
                    f"{where}, field 'embedding': expected {found.shape[1]} numbers, as the trace's metadata says, not"
                    f" {len(values)}."
                )
            found[index] = values
        return found

    def _read(self, index: int) -> RequestTrace:
        info, where = self.requests[index], f"{self.path.name}: request {self.requests[index].id}"
        try:
            table = self._file.read_row_group(index, use_threads=False)
        except _DAMAGE:
            raise TraceError(f"{where}: the stored rows are damaged and cannot be read.") from None
        layers = np.asarray(self.meta.layers, dtype=np.int16)
        shape = (info.tokens, len(layers))
        columns = {name: _flat(table.column(name), where, name) for name in table.column_names if name != "embedding"}
        grids = {name: columns[name].reshape(shape) for name in ("request", "position", "phase", "layer")}
        if bool(np.any(grids["request"] != info.id)):
            raise TraceError(f"{where}, field 'request': every row of the row group must carry the request's id.")
        if bool(np.any(grids["layer"] != layers)):
            raise TraceError(f"{where}, field 'layer': every token must have one row for each layer of the metadata.")
        for name in ("position", "phase"):
            if bool(np.any(grids[name] != grids[name][:, :1])):
                raise TraceError(f"{where}, field '{name}': all layers of a token must have the same {name}.")
        meta = self.meta
        request = RequestTrace(
            id=info.id,
            positions=_frozen(grids["position"][:, 0]),
            phases=_frozen(grids["phase"][:, 0]),
            experts=columns["experts"].reshape(*shape, meta.top_k),
            weights=columns["weights"].reshape(*shape, meta.top_k) if meta.has_weights else None,
            probabilities=columns["probabilities"].reshape(*shape, meta.num_experts)
            if meta.has_probabilities
            else None,
            guesses=columns["guesses"].reshape(*shape, meta.guess_distances, meta.guess_width)
            if meta.guess_distances
            else None,
            norms=columns["norms"].reshape(shape) if meta.has_norms else None,
            embedding=_first_row(table.column("embedding"), where) if meta.embedding_width else None,
        )
        check_request(request, meta, self.path.name)
        if request_info(request, info.task) != info:
            raise TraceError(f"{where}, field 'requests': the request table of the metadata must match the rows.")
        return request

    def verify(self) -> None:
        """Read everything and raise TraceError if the content's digest is not the one in the metadata."""
        digest = Digest(self.meta)
        for index, info in enumerate(self.requests):
            digest.add(self._read(index), info.task)
        if digest.hexdigest() != self.meta.digest:
            raise TraceError(f"{self.path.name}: metadata field 'digest' must be the digest of the content.")


def open_trace(path: str | os.PathLike[str], *, verify: bool = False) -> Trace:
    """Open the trace file at `path`, memory-mapped; with `verify` also read it all and check its digest.

    Opening checks the container, the metadata, the columns and the row counts; each request's content is
    checked when it is read. Raises TraceError if `path` is not a trace file of this format version.

    >>> from traces import data_path
    >>> trace = open_trace(data_path("gpt_oss_20b.parquet"))
    >>> len(trace), trace.meta.num_experts
    (40, 32)
    >>> trace.request(0).experts.shape  # tokens, layers, experts per token
    (511, 24, 4)
    """
    path = Path(path)
    if not path.is_file():
        raise TraceError(f"{path}: there is no such trace file.")
    name = path.name
    try:
        file = pq.ParquetFile(path, memory_map=True, page_checksum_verification=True)
    except _DAMAGE:
        raise TraceError(f"{name}: a trace must be a complete Parquet file, but this is none.") from None
    raw = (file.metadata.metadata or {}).get(METADATA_KEY)
    if raw is None:
        raise TraceError(f"{name}: the Parquet metadata must have a '{METADATA_KEY.decode()}' entry; import it first.")
    meta, requests = decode_metadata(raw, name)
    _check_columns(file.schema_arrow, arrow_schema(meta), name)
    _check_row_groups(file.metadata, meta, requests, name)
    trace = Trace(path, file, meta, requests)
    if verify:
        trace.verify()
    return trace


def _check_columns(found: pa.Schema, expected: pa.Schema, name: str) -> None:
    for field in expected:
        if field.name not in found.names:
            raise TraceError(f"{name}: column '{field.name}' is missing.")
        kind = found.field(field.name).type
        if kind != field.type:
            raise TraceError(f"{name}: column '{field.name}' must be {field.type}, not {kind}.")
    for column in found.names:
        if column not in expected.names:
            raise TraceError(f"{name}: column '{column}' is not part of the format, or not announced in the metadata.")


def _check_row_groups(found: pq.FileMetaData, meta: TraceMeta, requests: tuple[RequestInfo, ...], name: str) -> None:
    if found.num_row_groups != len(requests):
        raise TraceError(
            f"{name}: there must be one row group for each of the {len(requests)} requests of the metadata, "
            f"not {found.num_row_groups}."
        )
    for index, info in enumerate(requests):
        rows, expected = found.row_group(index).num_rows, info.tokens * len(meta.layers)
        if rows != expected:
            raise TraceError(
                f"{name}: request {info.id} must have {expected} rows ({info.tokens} tokens on "
                f"{len(meta.layers)} layers), not {rows}."
            )


def _flat(column: pa.ChunkedArray, where: str, name: str) -> np.ndarray:
    """Return the values of a column as one flat array, without a copy if it is one chunk."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    if array.null_count:
        raise TraceError(f"{where}, field '{name}': there must be no nulls.")
    if pa.types.is_fixed_size_list(array.type):
        array = array.flatten()
        if array.null_count:
            raise TraceError(f"{where}, field '{name}': there must be no nulls.")
    return array.to_numpy()


def _first_row(column: pa.ChunkedArray, where: str) -> np.ndarray:
    """Return the list in the first row of a column of lists, whose other rows must be empty."""
    array = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    values = array.flatten()
    if array.null_count or values.null_count:
        raise TraceError(f"{where}, field 'embedding': there must be no nulls.")
    if len(values) != array.value_lengths()[0].as_py():
        raise TraceError(f"{where}, field 'embedding': it must stand in the first row of the request alone.")
    return _frozen(values.to_numpy())


def _frozen(values: np.ndarray) -> np.ndarray:
    values = np.ascontiguousarray(values)
    values.flags.writeable = False
    return values
