"""The rules the content of a request must meet, and the digest of content; all vectorised."""

from __future__ import annotations

import hashlib

import numpy as np

from traces.schema import (
    DECODE,
    PREFILL,
    SINCE_VERSION_2,
    RequestTrace,
    TraceError,
    TraceMeta,
    canonical_json,
    format_version,
)


def check_request(request: RequestTrace, meta: TraceMeta, file: str) -> None:
    """Raise TraceError naming the file, the request and the field where `request` breaks a rule.

    Shapes and dtypes are those of `RequestTrace`; see ``docs/trace_format.md`` for the rules.
    """
    where = f"{file}: request {request.id}"
    _check_shapes(request, meta, where)
    _check_order(request, where)
    _check_experts(request.experts, meta, where)
    for field in ("weights", "probabilities", "norms"):
        values = getattr(request, field)
        # NaN passes: it fails both comparisons
        if values is not None and bool(np.any((values < 0) | (values == np.inf))):
            raise TraceError(f"{where}, field '{field}': values must be finite and not negative (or NaN if unknown).")
    if request.embedding is not None and bool(np.isinf(request.embedding).any()):
        raise TraceError(f"{where}, field 'embedding': values must be finite (or NaN if unknown).")
    if request.guesses is not None:
        _check_guesses(request.guesses, meta, where)


def _check_shapes(request: RequestTrace, meta: TraceMeta, where: str) -> None:
    tokens, layers = len(request.positions), len(meta.layers)
    if tokens == 0:
        raise TraceError(f"{where}, field 'positions': a request must have at least one token.")
    if not 0 <= request.id < 2**31:
        raise TraceError(f"{where}, field 'id': a request id must fit a non-negative int32.")
    expected: dict[str, tuple[type, tuple[int, ...]] | None] = {
        "positions": (np.int32, (tokens,)),
        "phases": (np.int8, (tokens,)),
        "experts": (np.int16, (tokens, layers, meta.top_k)),
        "weights": (np.float32, (tokens, layers, meta.top_k)) if meta.has_weights else None,
        "probabilities": (np.float32, (tokens, layers, meta.num_experts)) if meta.has_probabilities else None,
        "guesses": (np.int16, (tokens, layers, meta.guess_distances, meta.guess_width))
        if meta.guess_distances
        else None,
        "norms": (np.float32, (tokens, layers)) if meta.has_norms else None,
        "embedding": (np.float32, (meta.embedding_width,)) if meta.embedding_width else None,
    }
    for field, want in expected.items():
        array = getattr(request, field)
        if want is None or array is None:
            if want is not None or array is not None:
                needed = "absent" if want is None else "present"
                raise TraceError(f"{where}, field '{field}': it must be {needed}, as the trace's metadata says.")
            continue
        kind, shape = np.dtype(want[0]), want[1]
        if array.dtype != kind or array.shape != shape:
            raise TraceError(
                f"{where}, field '{field}': expected {kind} of shape {shape}, not {array.dtype} of shape {array.shape}."
            )


def _check_order(request: RequestTrace, where: str) -> None:
    positions, phases = request.positions, request.phases
    if positions[0] < 0 or bool(np.any(positions[1:] <= positions[:-1])):
        raise TraceError(f"{where}, field 'position': positions must be non-negative and strictly ascending.")
    if bool(np.any((phases < -1) | (phases > 1))):
        raise TraceError(f"{where}, field 'phase': a phase must be 0 (prefill), 1 (decode) or -1 (unknown).")
    decode, prefill = np.flatnonzero(phases == DECODE), np.flatnonzero(phases == PREFILL)
    if decode.size and prefill.size and decode[0] < prefill[-1]:
        raise TraceError(f"{where}, field 'phase': prefill must not follow decode.")


def _check_experts(experts: np.ndarray, meta: TraceMeta, where: str) -> None:
    _check_range(experts, meta, where, "experts")
    if meta.top_k > 1:
        ordered = np.sort(experts, axis=-1)
        repeated = (ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)
        if bool(repeated.any()):
            token, layer, slot = (int(index) for index in np.argwhere(repeated)[0])
            raise TraceError(
                f"{where}, field 'experts': the experts of one token and layer must differ, but expert "
                f"{ordered[token, layer, slot]} occurs twice at token {token} of layer {meta.layers[layer]}."
            )


def _check_guesses(guesses: np.ndarray, meta: TraceMeta, where: str) -> None:
    _check_range(guesses, meta, where, "guesses")
    layers = len(meta.layers)
    for distance in range(meta.guess_distances):
        if bool(np.any(guesses[:, max(layers - 1 - distance, 0) :, distance] != -1)):
            raise TraceError(f"{where}, field 'guesses': a guess for a layer after the last one must be -1.")


def _check_range(ids: np.ndarray, meta: TraceMeta, where: str, field: str) -> None:
    if ids.size and (int(ids.min()) < -1 or int(ids.max()) >= meta.num_experts):
        wrong = ids[(ids < -1) | (ids >= meta.num_experts)].flat[0]
        raise TraceError(
            f"{where}, field '{field}': an expert id must be from 0 to {meta.num_experts - 1}, "
            f"or -1 for none, not {wrong}."
        )


class Digest:
    """SHA-256 over the content of a trace, independent of how a file encodes it.

    Hashed are a JSON header with the metadata that gives the numbers their meaning, then request by request a
    JSON line (id, task, shapes) and the arrays in little-endian C order, NaNs made alike.
    """

    _HEADER = (
        "num_experts",
        "top_k",
        "native_top_k",
        "layers",
        "rank_known",
        "expert_bytes",
        "has_weights",
        "has_probabilities",
        "guess_distances",
        "guess_width",
    )
    _ARRAYS = ("positions", "phases", "experts", "weights", "probabilities", "guesses", "norms", "embedding")

    def __init__(self, meta: TraceMeta) -> None:
        names = self._HEADER if format_version(meta) == 1 else (*self._HEADER, *SINCE_VERSION_2)
        self._hash = hashlib.sha256(_line({name: getattr(meta, name) for name in names}))

    def add(self, request: RequestTrace, task: str | None) -> None:
        """Add the next request."""
        arrays = {name: getattr(request, name) for name in self._ARRAYS}
        present = {name: array for name, array in arrays.items() if array is not None}
        shapes = {name: list(array.shape) for name, array in present.items()}
        self._hash.update(_line({"id": int(request.id), "task": task, "shapes": shapes}))
        for array in present.values():
            if array.dtype.kind == "f":
                array = np.where(np.isnan(array), np.float32(np.nan), array)
            self._hash.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).data)

    def hexdigest(self) -> str:
        """Return the digest so far, 64 hexadecimal characters."""
        return self._hash.hexdigest()


def _line(values: dict[str, object]) -> bytes:
    return canonical_json(values) + b"\n"
