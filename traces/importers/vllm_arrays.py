"""Importer of the arrays of vLLM's ``--enable-return-routed-experts``, saved with NumPy.

vLLM gives for each completion ``routed_experts``, integers [tokens, MoE layers, top-k] (docs.vllm.ai, Routed
Experts); up to release 0.21 that array holds the generated tokens and ``prompt_routed_experts`` those of the
prompt, later releases have prompt and generated tokens in one. Nothing is published about saving several requests, so
the arrays of all requests are simply concatenated along the tokens, with offsets. The file is an ``.npz`` with

    routed_experts          [tokens, layers, top-k]
    offsets                 [requests + 1], from 0 to tokens; one request if absent
    prompt_routed_experts   optional [prompt tokens, layers, top-k], with prompt_offsets [requests + 1]
    prompt_lengths          optional [requests]: how many of a request's tokens are prompt; if absent, and without
                            prompt_routed_experts, the phase is unknown
    layers                  optional [layers]: the model's layer indices; 0, 1, … if absent
    num_experts, model      optional

or an ``.npy`` with routed_experts and beside ``X.npy`` a JSON object ``X.json`` with the others. An id of -1 marks
a position that vLLM took from its prefix cache. The order of the slots is the kernel's, so no rank is claimed.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import expert_ids, first_bytes, read_document
from traces.importers._models import canonical_name, resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import DECODE, PREFILL, UNKNOWN_PHASE, RequestTrace, TraceError, TraceMeta

ARRAY = "routed_experts"


def recognise(path: Path) -> bool:
    """Return whether `path` is an .npy file, or a zip archive with ``routed_experts.npy``."""
    head = first_bytes(path, 6)
    if head == b"\x93NUMPY":
        return True
    if not head.startswith(b"PK\x03\x04"):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return f"{ARRAY}.npy" in archive.namelist()
    except Exception:  # damaged archives raise all kinds
        return b".npy" in first_bytes(path, 256)  # cut


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the requests, numbered from 0; see the package for the protocol."""
    fields, announced = _read(path, options.salvage)
    tokens, layers, top_k = _require_rank_3(fields.get(ARRAY), path.name, ARRAY)
    recorded = str(_scalar(fields, "model", "unknown"))
    model = options.model or canonical_name(recorded)
    count = _scalar(fields, "num_experts", None)
    if count is not None and (isinstance(count, bool) or not isinstance(count, int | np.integer)):
        raise TraceError(f"{path.name}: field 'num_experts' must be an integer.")
    num_experts = resolve_num_experts(model, options.num_experts, None if count is None else int(count), path.name)
    indices = _integers(fields.get("layers", range(layers)), (layers,), path.name, "layers")
    meta = TraceMeta(
        model=model,
        num_experts=num_experts,
        top_k=top_k,
        native_top_k=resolve_native_top_k(model, options.native_top_k, None, top_k, path.name),
        layers=tuple(int(index) for index in indices),
        rank_known=top_k == 1,
        capture_tool="vLLM routed experts",
        source=path.name,
        notes="" if recorded == "unknown" else f"model as recorded: {recorded}",
    )
    return meta, _requests(fields, tokens if announced is None else announced, meta, options, path.name)


def _requests(
    fields: dict[str, Any], announced: int, meta: TraceMeta, options: ImportOptions, name: str
) -> Iterator[tuple[RequestTrace, str | None]]:
    shape = (None, len(meta.layers), meta.top_k)
    offsets = _offsets(fields, "offsets", announced, name)
    prompt = fields.get("prompt_routed_experts")
    prompt_offsets = lengths = None
    if prompt is not None:
        rows, *_ = _require_rank_3(prompt, name, "prompt_routed_experts")
        prompt_offsets = _offsets(fields, "prompt_offsets", rows, name, len(offsets))
    elif "prompt_lengths" in fields:
        lengths = _integers(fields["prompt_lengths"], (len(offsets) - 1,), name, "prompt_lengths")
    for number in range(len(offsets) - 1):
        if not options.wants(number):
            continue
        where = f"{name}: request {number}"
        start, stop = int(offsets[number]), int(offsets[number + 1])
        if stop > len(fields[ARRAY]):
            raise TraceError(f"{where}: the array ends before the request does, so the file was cut.")
        ids, phases = fields[ARRAY][start:stop], np.full(stop - start, UNKNOWN_PHASE, dtype=np.int8)
        if prompt is not None and prompt_offsets is not None:
            before = prompt[int(prompt_offsets[number]) : int(prompt_offsets[number + 1])]
            if before.shape[1:] != ids.shape[1:]:
                raise TraceError(f"{where}: prompt_routed_experts must have the layers and top-k of {ARRAY}.")
            phases = np.repeat(np.array([PREFILL, DECODE], dtype=np.int8), (len(before), len(ids)))
            ids = np.concatenate([before, ids])
        elif lengths is not None:
            if not 0 <= lengths[number] <= len(ids):
                raise TraceError(f"{where}: its prompt_lengths must be from 0 to its {len(ids)} tokens.")
            phases[: lengths[number]] = PREFILL
            phases[lengths[number] :] = DECODE
        yield (
            RequestTrace(
                id=number,
                positions=np.arange(len(ids), dtype=np.int32),
                phases=phases,
                experts=expert_ids(ids, shape, meta.num_experts, where, lowest=-1),
            ),
            None,
        )
    options.require_found(range(len(offsets) - 1), name)


def _read(path: Path, salvage: bool) -> tuple[dict[str, Any], int | None]:
    """Return the arrays and fields of an .npz, or of an .npy and the JSON beside it, and what the .npy announces."""
    try:
        if first_bytes(path, 2) == b"PK":
            with np.load(path, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}, None
        array, complete = _read_array(path)
    except Exception:  # damaged archives and headers raise all kinds, even TokenError
        raise TraceError(f"{path.name}: the file must be a complete NumPy file, but it is cut or damaged.") from None
    if len(array) < complete and not salvage:
        raise TraceError(
            f"{path.name}: of the array's {complete} tokens only {len(array)} are in the file, so it was cut."
        )
    sidecar = path.with_suffix(".json")
    fields = read_document(sidecar) if sidecar.is_file() else {}
    return {**fields, ARRAY: array}, complete


def _read_array(path: Path) -> tuple[np.ndarray, int]:
    """Return the whole rows that are in an .npy file, and how many its header announces."""
    with open(path, "rb") as file:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, kind = read(file)
        if fortran or kind.hasobject or not shape or not kind.itemsize:
            raise ValueError("the layout of the array is not one that is written here")
        row = int(np.prod(shape[1:], dtype=np.int64))
        size = path.stat().st_size - file.tell()
        rows = min(shape[0], size // max(row * kind.itemsize, 1))
        flat = np.fromfile(file, dtype=kind, count=rows * row)
    return flat.reshape(rows, *shape[1:]), shape[0]


def _require_rank_3(array: Any, name: str, field: str) -> tuple[int, int, int]:
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "iu" or 0 in array.shape[1:]:
        raise TraceError(f"{name}: '{field}' must be an integer array [tokens, layers, top-k].")
    tokens, layers, top_k = array.shape
    return tokens, layers, top_k


def _offsets(fields: dict[str, Any], field: str, tokens: int, name: str, length: int | None = None) -> np.ndarray:
    """Return the offsets of the requests; they must rise from 0 to `tokens`."""
    offsets = _integers(fields.get(field, [0, tokens]), (length,), name, field)
    if len(offsets) < 2 or offsets[0] != 0 or offsets[-1] != tokens or bool(np.any(offsets[1:] < offsets[:-1])):
        raise TraceError(f"{name}: field '{field}' must rise from 0 to the {tokens} tokens of its array.")
    return offsets


def _integers(values: Any, shape: tuple[int | None, ...], name: str, field: str) -> np.ndarray:
    try:
        array = np.asarray(list(values) if isinstance(values, range) else values)
    except (ValueError, OverflowError):
        array = np.zeros(0, dtype=object)
    fits = array.ndim == 1 and shape[0] in (None, len(array))
    if array.dtype.kind not in "iu" or not fits:
        length = "" if shape[0] is None else f" of length {shape[0]}"
        raise TraceError(f"{name}: field '{field}' must be a list of integers{length}.")
    return array


def _scalar(fields: dict[str, Any], field: str, default: Any) -> Any:
    value = fields.get(field, default)
    return value[()] if isinstance(value, np.ndarray) and value.ndim == 0 else value
