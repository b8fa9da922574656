"""Importer of ``route_trace v1`` CSV files, written by BigMoeOnEdge's ``--route-trace`` on a phone.

Header lines start with ``#``: the format, the model (``n_layer``, ``n_expert``, ``n_expert_used``), then for
each layer the bytes of one expert and of the dense part. Rows are ``turn,phase,step,layer,slot,expert,weight,
residency,expert_bytes``: prefill layer by layer, decode token by token. A turn becomes a request; ``step`` is
the position in it. In prefill the last layer may hold the last token only (llama.cpp needs no other); the
others are -1 there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv

from traces.importers._dense import dense_request, slots_are_ranked
from traces.importers._json import first_bytes
from traces.importers._models import canonical_name, resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import DECODE, RequestTrace, TraceError, TraceMeta

FIRST_LINE = "# route_trace v1"
_COLUMNS = ("turn", "phase", "step", "layer", "slot", "expert", "weight", "residency", "expert_bytes")
_MODEL = re.compile(r"# model=(\S+) arch=\S+ n_layer=(\d+) n_expert=(\d+) n_expert_used=(\d+)")
_LAYER = re.compile(r"# layer=(\d+) expert_bytes=(\d+) dense_bytes=(\d+)")
ACCESS_DTYPE = np.dtype(
    [
        ("request", np.int32),
        ("position", np.int32),
        ("phase", np.int8),
        ("layer", np.int16),
        ("slot", np.int8),
        ("expert", np.int16),
        ("residency", np.int8),
        ("expert_bytes", np.int64),
    ]
)


@dataclass(frozen=True)
class RouteHeader:
    """What the header lines say; the sizes are in bytes, one per entry of `layers`."""

    model: str
    num_experts: int
    top_k: int
    layers: tuple[int, ...]
    expert_bytes: tuple[int, ...]
    dense_bytes: tuple[int, ...]
    lines: int


def recognise(path: Path) -> bool:
    """Return whether `path` starts with the line of this format."""
    return first_bytes(path, 256).partition(b"\n")[0].rstrip() == FIRST_LINE.encode()


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the turns of `path` as requests; see the package for the protocol.

    The format does not say how long a turn is; salvage drops the rows of the last token, which the cut may
    have hit.
    """
    header = read_route_header(path)
    columns = _read_columns(path, header, salvage=options.salvage)
    remark = ""
    if options.salvage:
        whole = _whole_tokens(columns, header)
        if whole < len(columns["turn"]):
            remark = f"; salvaged, the first {whole} of {len(columns['turn'])} whole rows"
            columns = {field: values[:whole] for field, values in columns.items()}
    name = options.model or canonical_name(header.model)
    native = resolve_native_top_k(name, options.native_top_k, None, header.top_k, path.name)
    meta = TraceMeta(
        model=name,
        num_experts=resolve_num_experts(name, options.num_experts, header.num_experts, path.name),
        top_k=header.top_k,
        native_top_k=native,
        layers=header.layers,
        rank_known=slots_are_ranked(columns["slot"], columns["expert"], columns["weight"]),
        expert_bytes=header.expert_bytes,
        has_weights=True,
        capture_tool=f"BigMoeOnEdge {FIRST_LINE[2:]}",
        source=path.name,
        notes=f"model as recorded: {header.model}"
        + (f"; run with a reduced top-k, {header.top_k} of {native}" if header.top_k < native else "")
        + remark,
    )
    return meta, _requests(columns, meta, path.name, options)


def _requests(
    columns: dict[str, np.ndarray], meta: TraceMeta, name: str, options: ImportOptions
) -> Iterator[tuple[RequestTrace, str | None]]:
    turns = [int(turn) for turn in np.unique(columns["turn"])]
    options.require_found(turns, name)
    for turn in turns:
        if options.wants(turn):
            mine = columns["turn"] == turn
            rows = {field: values[mine] for field, values in columns.items()}
            request = dense_request(turn, {**rows, "position": rows["step"]}, meta, name)
            _require_complete(request, name)
            yield request, None


def _require_complete(request: RequestTrace, name: str) -> None:
    """A layer of a token has all its slots or, in prefill only, none."""
    empty = request.experts < 0
    wrong = empty.any(axis=-1) & (~empty.all(axis=-1) | (request.phases == DECODE)[:, None])
    if bool(wrong.any()):
        position = request.positions[int(np.argmax(wrong.any(axis=-1)))]
        raise TraceError(f"{name}: request {request.id}: rows are missing at step {position}.")


def _whole_tokens(columns: dict[str, np.ndarray], header: RouteHeader) -> int:
    """Return how many rows come before a last token, or a last turn's prefill, that is not complete."""
    turn, phase, step = (columns[field] for field in ("turn", "phase", "step"))
    mine = turn == turn[-1]
    if phase[-1] != DECODE:
        mine &= phase != DECODE  # prefill is written layer by layer: its last layer may be incomplete
        return int(np.argmax(mine))
    mine &= (phase == DECODE) & (step == step[-1])
    return int(np.argmax(mine)) if int(mine.sum()) < len(header.layers) * header.top_k else len(turn)


def read_accesses(path: str | Path) -> np.ndarray:
    """Return the rows as a structured array of `ACCESS_DTYPE`, in file order.

    ``residency`` is 0 for a miss, 1 for a hit, 2 for a hit on a prefetched expert; the device fills it in
    decode rows only (0 in prefill). ``expert_bytes`` is the expert's size if this access read it from flash:
    0 on a hit, and in prefill on every occurrence of an expert in its layer but the first. Raises TraceError
    as `load` does.
    """
    path = Path(path)
    columns = _read_columns(path, read_route_header(path))
    sources = {"request": "turn", "position": "step"}
    accesses = np.empty(len(columns["turn"]), dtype=ACCESS_DTYPE)
    for name in ACCESS_DTYPE.names or ():
        accesses[name] = columns[sources.get(name, name)]
    return accesses


def read_route_header(path: str | Path) -> RouteHeader:
    """Return the header of a route file; raises TraceError if a line is missing or not of the format."""
    path, lines = Path(path), list[str]()
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            if not line.startswith("#"):
                break
            lines.append(line.rstrip())
    if not lines or lines[0] != FIRST_LINE:
        raise TraceError(f"{path.name}: line 1 must be '{FIRST_LINE}'.")
    model = _MODEL.fullmatch(lines[1]) if len(lines) > 1 else None
    if model is None:
        raise TraceError(f"{path.name}: line 2 must give model, arch, n_layer, n_expert and n_expert_used.")
    sizes = []
    for number, line in enumerate(lines[2:], start=3):
        match = _LAYER.fullmatch(line)
        if match is None:
            raise TraceError(f"{path.name}: line {number} must give layer, expert_bytes and dense_bytes.")
        sizes.append(tuple(int(group) for group in match.groups()))
    if len(sizes) != int(model[2]):
        raise TraceError(f"{path.name}: the header must describe {model[2]} layers (n_layer), not {len(sizes)}.")
    layers, expert_bytes, dense_bytes = zip(*sorted(sizes), strict=True)
    return RouteHeader(model[1], int(model[3]), int(model[4]), layers, expert_bytes, dense_bytes, len(lines))


def _read_columns(path: Path, header: RouteHeader, *, salvage: bool = False) -> dict[str, np.ndarray]:
    kinds = {name: pa.float32() if name == "weight" else pa.int64() for name in _COLUMNS}
    raw = path.read_bytes()
    if not raw.endswith(b"\n"):
        if not salvage:
            raise TraceError(f"{path.name}: the last row has no end, so the file was cut.")
        raw = raw[: raw.rfind(b"\n") + 1]
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(raw),
            read_options=pa.csv.ReadOptions(skip_rows=header.lines, use_threads=False),
            convert_options=pa.csv.ConvertOptions(column_types=kinds, include_columns=list(_COLUMNS)),
        )
    except (pa.ArrowException, KeyError):
        raise TraceError(
            f"{path.name}: the rows below the header must be a complete CSV table with the columns "
            f"{','.join(_COLUMNS)}."
        ) from None
    for name in _COLUMNS:
        if table.column(name).null_count:
            raise TraceError(f"{path.name}: column '{name}' must have a number in every row.")
    if not table.num_rows:
        raise TraceError(f"{path.name}: there must be at least one row below the header.")
    return {name: table.column(name).to_numpy() for name in _COLUMNS}
