"""Writing traces: one request at a time, and never a half-written file under the final name."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from types import TracebackType

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
    check_meta,
    check_requests,
    encode_metadata,
    request_info,
)


class TraceWriter:
    """Context manager that writes a trace file, one row group per request, in the order of the calls.

    The file appears under `path` when the block ends without an exception; otherwise nothing is left behind.
    Errors name the file at `path`, or `blame` if the content is from elsewhere.
    `meta.digest` is ignored: the digest is computed from what is written. The same content gives the same
    bytes (for one version of pyarrow).

    Raises TraceError if `meta` is inconsistent, or the block ends without a request.
    """

    def __init__(self, path: str | os.PathLike[str], meta: TraceMeta, *, blame: str | None = None) -> None:
        self._path = Path(path)
        self._file = blame or self._path.name
        check_meta(meta, self._file)
        self._meta = meta
        self._schema = arrow_schema(meta)
        self._digest = Digest(meta)
        self._infos: list[RequestInfo] = []
        self._ids: set[int] = set()
        self._temporary = self._path.with_name(f".{self._path.name}.{os.getpid()}.partial")
        self._writer: pq.ParquetWriter | None = None

    def __enter__(self) -> TraceWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._writer = pq.ParquetWriter(
            self._temporary,
            self._schema,
            version="2.6",
            compression="zstd",
            compression_level=9,
            use_dictionary=True,
            write_statistics=False,
            write_page_checksum=True,
        )
        return self

    def write(self, request: RequestTrace, task: str | None = None) -> None:
        """Check `request` and append it; `task` is an optional label such as the dataset's category.

        Raises TraceError if the request breaks a rule of the format or its id was written before.
        """
        if self._writer is None:
            raise TraceError(f"{self._file}: a trace is written inside the writer's 'with' block.")
        check_request(request, self._meta, self._file)
        info = request_info(request, task)
        if info.id in self._ids:
            raise TraceError(f"{self._file}: request {info.id} was written twice, but ids must be unique.")
        table = _table(request, self._meta, self._schema)
        self._writer.write_table(table, row_group_size=len(table))
        self._digest.add(request, task)
        self._infos.append(info)
        self._ids.add(info.id)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._writer is not None
        writer, self._writer = self._writer, None
        try:
            if kind is None:
                if not self._infos:
                    raise TraceError(f"{self._file}: a trace must hold at least one request.")
                infos = tuple(self._infos)
                check_requests(infos, self._file)
                meta = dataclasses.replace(self._meta, digest=self._digest.hexdigest())
                writer.add_key_value_metadata({METADATA_KEY: encode_metadata(meta, infos)})
            writer.close()
            if kind is None:
                os.replace(self._temporary, self._path)
        finally:
            self._temporary.unlink(missing_ok=True)


def _table(request: RequestTrace, meta: TraceMeta, schema: pa.Schema) -> pa.Table:
    tokens, layers = len(request.positions), len(meta.layers)
    columns = {
        "request": np.full(tokens * layers, request.id, dtype=np.int32),
        "position": np.repeat(request.positions, layers),
        "phase": np.repeat(request.phases, layers),
        "layer": np.tile(np.asarray(meta.layers, dtype=np.int16), tokens),
        "experts": request.experts,
        "weights": request.weights,
        "probabilities": request.probabilities,
        "guesses": request.guesses,
        "norms": request.norms,
        "embedding": request.embedding,
    }
    arrays = []
    for field in schema:
        values = pa.array(np.ascontiguousarray(columns[field.name]).reshape(-1))
        if pa.types.is_fixed_size_list(field.type):
            values = pa.FixedSizeListArray.from_arrays(values, type=field.type)
        elif pa.types.is_list(field.type):  # all in the first row
            ends = np.full(tokens * layers + 1, len(values), dtype=np.int32)
            ends[0] = 0
            values = pa.ListArray.from_arrays(ends, values, type=field.type)
        arrays.append(values)
    return pa.Table.from_arrays(arrays, schema=schema)
