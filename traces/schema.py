"""What a trace is: its values in memory, its Arrow schema on disk and its metadata document.

The disk format is described for readers in ``docs/trace_format.md``; this module is its only definition.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

FORMAT_VERSION = 2  # the newest; a trace is of the first version that has all it holds (`format_version`)
SINCE_VERSION_2 = ("has_norms", "embedding_width")  # metadata fields that version 1 does not have
METADATA_KEY = b"moesim.trace"
PREFILL, DECODE, UNKNOWN_PHASE = 0, 1, -1
MAX_EXPERTS = 32767  # ids are int16


class TraceError(ValueError):
    """A trace, or a file that should hold one, is not what it must be; the message is one sentence."""


@dataclass(frozen=True, kw_only=True)
class TraceMeta:
    """What holds for a whole trace.

    ``layers`` are the model's layer indices of the routed layers, ascending; the second axis of every
    array of a request follows it. ``expert_bytes``, if known, is the size in bytes of one expert per entry of
    ``layers``. ``top_k`` is the number of slots recorded, ``native_top_k`` what the model was trained with.
    ``rank_known`` is false where the slot order says nothing about the router's preference. The look-ahead
    guesses reach ``guess_distances`` layers (0: none) and name ``guess_width`` experts each. Embeddings of requests
    have ``embedding_width`` numbers (0: there are none). ``digest`` is the SHA-256 of the content, filled in by
    the writer.
    """

    model: str
    num_experts: int
    top_k: int
    native_top_k: int
    layers: tuple[int, ...]
    rank_known: bool = True
    expert_bytes: tuple[int, ...] | None = None
    has_weights: bool = False
    has_probabilities: bool = False
    guess_distances: int = 0
    guess_width: int = 0
    has_norms: bool = False
    embedding_width: int = 0
    capture_tool: str = ""
    dataset: str = ""
    licence: str = ""
    source: str = ""
    notes: str = ""
    digest: str = ""


@dataclass(frozen=True, kw_only=True)
class RequestInfo:
    """One line of the request table: known without reading the request's rows.

    ``tokens`` = ``prefill_tokens`` + ``decode_tokens`` + ``unknown_tokens`` are routed tokens; the prompt of
    a decode-only trace is not among them, and ``first_position`` then tells its length.
    """

    id: int
    tokens: int
    first_position: int
    prefill_tokens: int
    decode_tokens: int
    unknown_tokens: int
    task: str | None = None


@dataclass(frozen=True, eq=False)
class RequestTrace:
    """The routing of one request; T tokens, L routed layers, k slots, E experts, H numbers of an embedding.

    positions      int32 [T], strictly ascending, counted from the start of the prompt
    phases         int8 [T]: 0 prefill, 1 decode, -1 unknown; no prefill after decode
    experts        int16 [T, L, k] in rank order; -1 where the slot is empty (not routed or not recorded)
    weights        float32 [T, L, k] gate weights as applied, NaN where unknown; None if the trace has none
    probabilities  float32 [T, L, E] of the whole router, NaN where unknown; None if the trace has none
    guesses        int16 [T, L, d, g]: guesses[t, l, j] are the experts guessed at layer ordinal l for layer
                   ordinal l + 1 + j, -1 where none; None if the trace has none
    norms          float32 [T, L]: L2 norm of the hidden state that the layer's router was given, NaN where
                   unknown; None if the trace has none
    embedding      float32 [H] of the request's prompt, whatever of its tokens is in the trace, NaN where unknown;
                   None if the trace has none
    """

    id: int
    positions: np.ndarray
    phases: np.ndarray
    experts: np.ndarray
    weights: np.ndarray | None = None
    probabilities: np.ndarray | None = None
    guesses: np.ndarray | None = None
    norms: np.ndarray | None = None
    embedding: np.ndarray | None = None

    @property
    def tokens(self) -> int:
        """Number of routed tokens T."""
        return len(self.positions)

    @property
    def size_bytes(self) -> int:
        """Bytes of all arrays."""
        return sum(value.nbytes for value in vars(self).values() if isinstance(value, np.ndarray))


def request_info(request: RequestTrace, task: str | None = None) -> RequestInfo:
    """Return the line of the request table that describes `request`."""
    phases = request.phases
    return RequestInfo(
        id=int(request.id),
        tokens=len(phases),
        first_position=int(request.positions[0]),
        prefill_tokens=int(np.count_nonzero(phases == PREFILL)),
        decode_tokens=int(np.count_nonzero(phases == DECODE)),
        unknown_tokens=int(np.count_nonzero(phases == UNKNOWN_PHASE)),
        task=task,
    )


def arrow_schema(meta: TraceMeta) -> pa.Schema:
    """Return the disk schema: one row per (request, position, layer), rows in that order."""
    fields = [
        ("request", pa.int32()),
        ("position", pa.int32()),
        ("phase", pa.int8()),
        ("layer", pa.int16()),
        ("experts", _vector(pa.int16(), meta.top_k)),
    ]
    if meta.has_weights:
        fields.append(("weights", _vector(pa.float32(), meta.top_k)))
    if meta.has_probabilities:
        fields.append(("probabilities", _vector(pa.float32(), meta.num_experts)))
    if meta.guess_distances:
        fields.append(("guesses", _vector(pa.int16(), meta.guess_distances * meta.guess_width)))
    if meta.has_norms:
        fields.append(("norms", pa.float32()))
    if meta.embedding_width:
        fields.append(("embedding", _vector(pa.float32())))  # empty in all rows of a request but the first
    return pa.schema([pa.field(name, kind, nullable=False) for name, kind in fields])


def _vector(kind: pa.DataType, width: int = -1) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False), width)


def format_version(meta: TraceMeta) -> int:
    """Return the version of a trace: 2 if it holds norms or embeddings, else 1."""
    return 2 if any(getattr(meta, name) for name in SINCE_VERSION_2) else 1


def encode_metadata(meta: TraceMeta, requests: tuple[RequestInfo, ...]) -> bytes:
    """Return the metadata document (JSON, sorted keys, UTF-8) that goes under ``METADATA_KEY``."""
    version = format_version(meta)
    document = {"format_version": version, **dataclasses.asdict(meta)}
    for name in SINCE_VERSION_2 if version == 1 else ():
        del document[name]
    document["requests"] = [dataclasses.asdict(info) for info in requests]
    return canonical_json(document)


def canonical_json(values: dict[str, Any]) -> bytes:
    """Return `values` as JSON with sorted keys and no spaces, UTF-8; numpy integers count as integers."""
    return json.dumps(
        values, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=lambda value: value.item()
    ).encode()


def decode_metadata(raw: bytes, file: str) -> tuple[TraceMeta, tuple[RequestInfo, ...]]:
    """Parse and check a metadata document of `file`; inverse of `encode_metadata`.

    Raises TraceError naming the field if the document is not JSON, is of another format version, or has a
    missing, unknown or ill-typed field.
    """
    try:
        document = json.loads(raw)
    except ValueError:
        raise TraceError(f"{file}: the metadata under '{METADATA_KEY.decode()}' must be valid JSON.") from None
    if not isinstance(document, dict):
        raise TraceError(f"{file}: the metadata under '{METADATA_KEY.decode()}' must be a JSON object.")
    version = document.pop("format_version", None)
    if type(version) is not int or not 1 <= version <= FORMAT_VERSION:
        known = f"from 1 to {FORMAT_VERSION}"
        raise TraceError(f"{file}: metadata field 'format_version' must be {known}, not {version!r}.")
    rows = document.pop("requests", None)
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise TraceError(f"{file}: metadata field 'requests' must be a list of at least one request.")
    without = SINCE_VERSION_2 if version == 1 else ()
    meta = TraceMeta(**_fields(TraceMeta, document, _META_KINDS, file, "metadata field", without))
    check_meta(meta, file)
    if version != format_version(meta):
        raise TraceError(f"{file}: metadata field 'format_version' must be 1 where there is nothing that is new in 2.")
    infos = tuple(
        RequestInfo(**_fields(RequestInfo, row, _REQUEST_KINDS, file, f"line {number} of 'requests', field"))
        for number, row in enumerate(rows)
    )
    check_requests(infos, file)
    return meta, infos


_META_KINDS = {"layers": "integers", "expert_bytes": "integers or null"}
_REQUEST_KINDS = {"task": "a text or null"}
_DEFAULT_KINDS = {"int": "an integer", "bool": "true or false", "str": "a text"}
_TESTS: dict[str, Callable[[Any], bool]] = {
    "an integer": lambda value: type(value) is int,
    "true or false": lambda value: type(value) is bool,
    "a text": lambda value: isinstance(value, str),
    "a text or null": lambda value: value is None or isinstance(value, str),
    "integers": lambda value: isinstance(value, list) and all(type(item) is int for item in value),
    "integers or null": lambda value: value is None or _TESTS["integers"](value),
}


def _fields(
    kind: type, document: dict[str, Any], special: dict[str, str], file: str, what: str, without: Sequence[str] = ()
) -> dict[str, Any]:
    """Return the values of `document` for the dataclass `kind` but the fields `without`, names and types checked."""
    names = {field.name: str(field.type) for field in dataclasses.fields(kind) if field.name not in without}
    for name in document:
        if name not in names:
            raise TraceError(f"{file}: {what} '{name}' is not known.")
    values = {}
    for name, annotation in names.items():
        if name not in document:
            raise TraceError(f"{file}: {what} '{name}' is missing.")
        value, expected = document[name], special.get(name) or _DEFAULT_KINDS[annotation]
        if not _TESTS[expected](value):
            raise TraceError(f"{file}: {what} '{name}' must be {expected}, not {value!r}.")
        values[name] = tuple(value) if isinstance(value, list) else value
    return values


def check_meta(meta: TraceMeta, file: str) -> None:
    """Raise TraceError if the numbers of `meta` do not fit together."""

    def require(condition: bool, field: str, expected: str) -> None:
        if not condition:
            raise TraceError(f"{file}: metadata field '{field}' must be {expected}, not {getattr(meta, field)!r}.")

    layers, sizes = meta.layers, meta.expert_bytes
    require(1 <= meta.num_experts <= MAX_EXPERTS, "num_experts", f"from 1 to {MAX_EXPERTS}")
    require(1 <= meta.top_k <= meta.num_experts, "top_k", f"from 1 to num_experts ({meta.num_experts})")
    require(
        1 <= meta.native_top_k <= meta.num_experts,
        "native_top_k",
        f"from 1 to num_experts ({meta.num_experts})",
    )
    require(bool(layers) and layers[0] >= 0 and layers[-1] <= 32767, "layers", "layer indices from 0 to 32767")
    require(all(a < b for a, b in itertools.pairwise(layers)), "layers", "strictly ascending")
    if sizes is not None:
        require(len(sizes) == len(layers), "expert_bytes", f"one size for each of the {len(layers)} layers")
        require(min(sizes) > 0, "expert_bytes", "positive sizes in bytes")
    require(meta.guess_distances >= 0, "guess_distances", "0 or more")
    widest = meta.num_experts if meta.guess_distances else 0
    require(bool(meta.guess_distances) <= meta.guess_width <= widest, "guess_width", _width_rule(widest))
    require(meta.embedding_width >= 0, "embedding_width", "0 or more")


def _width_rule(widest: int) -> str:
    return f"from 1 to num_experts ({widest})" if widest else "0 where guess_distances is 0"


def check_requests(infos: tuple[RequestInfo, ...], file: str) -> None:
    """Raise TraceError if the request table has a repeated id or counts that do not add up."""
    seen: set[int] = set()
    for info in infos:
        if info.id in seen:
            raise TraceError(f"{file}: request {info.id} occurs twice in metadata field 'requests'.")
        seen.add(info.id)
        counts = (info.prefill_tokens, info.decode_tokens, info.unknown_tokens)
        if info.tokens < 1 or min(counts) < 0 or sum(counts) != info.tokens:
            raise TraceError(
                f"{file}: request {info.id} must have at least one token, and its prefill, decode and "
                f"unknown tokens must add up to 'tokens', but {counts} do not give {info.tokens}."
            )
