"""A small trace to copy and to damage."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from traces import RequestTrace, TraceMeta, TraceWriter

META = TraceMeta(
    model="toy",
    num_experts=8,
    top_k=2,
    native_top_k=2,
    layers=(1, 3, 4),
    expert_bytes=(10, 10, 20),
    has_weights=True,
)


def toy_request(request: int = 7, tokens: int = 4) -> RequestTrace:
    """Token t at layer ordinal l goes to experts (t + l) mod 8 and (t + l + 3) mod 8; two prefill tokens."""
    first = (np.arange(tokens)[:, None] + np.arange(3)[None, :]) % 8
    return RequestTrace(
        id=request,
        positions=np.arange(5, 5 + tokens, dtype=np.int32),
        phases=np.where(np.arange(tokens) < 2, 0, 1).astype(np.int8),
        experts=np.stack([first, (first + 3) % 8], axis=-1).astype(np.int16),
        weights=np.tile(np.array([0.75, 0.25], dtype=np.float32), (tokens, 3, 1)),
    )


@pytest.fixture
def meta() -> TraceMeta:
    return META


@pytest.fixture
def make_request() -> Callable[..., RequestTrace]:
    return toy_request


@pytest.fixture
def toy_trace(tmp_path: Path) -> Path:
    """Two requests, ids 7 (4 tokens) and 2 (6 tokens), task "maths" and none."""
    path = tmp_path / "toy.parquet"
    with TraceWriter(path, META) as writer:
        writer.write(toy_request(7, 4), task="maths")
        writer.write(toy_request(2, 6))
    return path


@pytest.fixture
def damage(toy_trace: Path) -> Callable[..., Path]:
    """Rewrite the toy trace with another column of its first request or other metadata, past the checks."""

    def rewrite(
        column: str | None = None,
        change: Callable[[np.ndarray], object] | None = None,
        document: Callable[[dict], object] | None = None,
        tables: Callable[[list[pa.Table]], list[pa.Table]] = lambda tables: tables,
    ) -> Path:
        file = pq.ParquetFile(toy_trace)
        metadata = json.loads(file.metadata.metadata[b"moesim.trace"])
        groups = [file.read_row_group(index) for index in range(file.num_row_groups)]
        if column is not None and change is not None:
            index, table = groups[0].schema.get_field_index(column), groups[0]
            kind, values = table.schema.field(column).type, table.column(column).combine_chunks()
            nested = pa.types.is_fixed_size_list(kind)
            flat = (values.flatten() if nested else values).to_numpy().copy()
            change(flat)
            changed = pa.FixedSizeListArray.from_arrays(pa.array(flat), type=kind) if nested else pa.array(flat)
            groups[0] = table.set_column(index, table.schema.field(column), changed)
        if document is not None:
            metadata = document(metadata) or metadata
        groups = tables(groups)
        damaged = toy_trace.with_name("damaged.parquet")
        with pq.ParquetWriter(damaged, groups[0].schema) as writer:
            for group in groups:
                writer.write_table(group)
            raw = metadata if isinstance(metadata, bytes) else json.dumps(metadata).encode()
            writer.add_key_value_metadata({b"moesim.trace": raw})
        return damaged

    return rewrite
