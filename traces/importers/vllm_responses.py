"""Importer of responses of vLLM's OpenAI-compatible server, run with ``--enable-return-routed-experts``.

The file holds one response as a JSON object, or one on each line. Every choice is a request. Two published forms
of the routing are read (docs.vllm.ai, Routed Experts):

up to release 0.21
    nested lists: ``prompt_routed_experts`` [prompt tokens, MoE layers, top-k] of the response and
    ``choices[i].routed_experts`` [generated tokens, MoE layers, top-k]
later
    ``choices[i].routed_experts`` as the base64 of an .npy file [tokens, MoE layers, top-k] with the prompt's tokens
    before the generated ones, of which the last is not fed back; ``usage.prompt_tokens`` tells them apart

An id of -1 marks a position taken from the prefix cache. Responses do not say how many experts a layer has.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import expert_ids, first_bytes, parse_json, read_lines, take
from traces.importers._models import canonical_name, resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import DECODE, PREFILL, UNKNOWN_PHASE, RequestTrace, TraceError, TraceMeta

_FIELD = "routed_experts"


def recognise(path: Path) -> bool:
    """Return whether the file starts as a JSON object that soon has ``choices``."""
    head = first_bytes(path, 65536)
    return head.lstrip().startswith(b"{") and b'"choices"' in head


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the choices, numbered from 0; see the package for the protocol."""
    where, first = next(_responses(path))
    choices = _choices(first, where)
    ids = _array(take(choices[0], _FIELD, (list, str), where), where)
    _, layers, top_k = ids.shape
    recorded = str(first.get("model", "unknown"))
    model = options.model or canonical_name(recorded)
    meta = TraceMeta(
        model=model,
        num_experts=resolve_num_experts(model, options.num_experts, None, path.name),
        top_k=top_k,
        native_top_k=resolve_native_top_k(model, options.native_top_k, None, top_k, path.name),
        layers=tuple(range(layers)),
        rank_known=top_k == 1,
        capture_tool="vLLM routed experts",
        source=path.name,
        notes=f"model as recorded: {recorded}; layers are ordinals of the MoE layers",
    )
    return meta, _requests(path, meta, options)


def _requests(path: Path, meta: TraceMeta, options: ImportOptions) -> Iterator[tuple[RequestTrace, str | None]]:
    number = 0
    for where, response in _responses(path):
        choices = _choices(response, where)
        for choice in choices:
            request = _request(number, choice, response, len(choices), meta, where)
            if options.wants(number):
                yield request, None
            number += 1
    options.require_found(range(number), path.name)


def _request(
    number: int, choice: dict[str, Any], response: dict[str, Any], choices: int, meta: TraceMeta, where: str
) -> RequestTrace:
    ids = _array(take(choice, _FIELD, (list, str), where), where)
    usage = response.get("usage")
    prompt_tokens, generated = _usage(usage, where) if usage is not None else (None, None)
    if response.get(f"prompt_{_FIELD}") is not None:
        prompt = _array(take(response, f"prompt_{_FIELD}", (list, str), where), where)
        if prompt_tokens not in (None, len(prompt)):
            raise TraceError(f"{where}: prompt_{_FIELD} must have the {prompt_tokens} prompt tokens of 'usage'.")
        if prompt.shape[1:] != ids.shape[1:]:
            raise TraceError(f"{where}: prompt_{_FIELD} must have the layers and top-k of {_FIELD}.")
        prompt_tokens, ids = len(prompt), np.concatenate([prompt, ids])
    if prompt_tokens is not None and generated is not None and choices == 1:
        total = prompt_tokens + generated
        if len(ids) not in (total - 1, total):
            raise TraceError(f"{where}: {_FIELD} must have the {total} tokens of 'usage', or one less, not {len(ids)}.")
    phases = np.full(len(ids), UNKNOWN_PHASE, dtype=np.int8)
    if prompt_tokens is not None:
        if prompt_tokens > len(ids):
            raise TraceError(f"{where}: {_FIELD} must begin with the {prompt_tokens} prompt tokens of 'usage'.")
        phases[:prompt_tokens], phases[prompt_tokens:] = PREFILL, DECODE
    return RequestTrace(
        id=number,
        positions=np.arange(len(ids), dtype=np.int32),
        phases=phases,
        experts=expert_ids(ids, (None, len(meta.layers), meta.top_k), meta.num_experts, where, lowest=-1),
    )


def _responses(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the responses: of a file with one on each line, or of one that is a single object."""
    head = first_bytes(path, 65536)
    if head.lstrip()[1:].lstrip(b" \t\r")[:1] == b"\n":  # an object laid out over several lines
        response = parse_json(path.read_bytes(), path.name)
        if not isinstance(response, dict):
            raise TraceError(f"{path.name}: the file must hold a JSON object.")
        yield path.name, response
    else:
        yield from read_lines(path)


def _choices(response: dict[str, Any], where: str) -> list[dict[str, Any]]:
    choices = take(response, "choices", list, where)
    if not choices or not all(isinstance(choice, dict) for choice in choices):
        raise TraceError(f"{where}: field 'choices' must be a list of objects.")
    if any(choice.get(_FIELD) is None for choice in choices):
        raise TraceError(f"{where}: a choice has no '{_FIELD}'; the server needs --enable-return-routed-experts.")
    return choices


def _usage(usage: Any, where: str) -> tuple[int, int]:
    if not isinstance(usage, dict):
        raise TraceError(f"{where}: field 'usage' must be an object.")
    return take(usage, "prompt_tokens", int, where), take(usage, "completion_tokens", int, where)


def _array(value: list[Any] | str, where: str) -> np.ndarray:
    """Return integers [tokens, layers, top-k] from nested lists or the base64 of an .npy file."""
    try:
        if isinstance(value, str):
            array = np.load(io.BytesIO(base64.b64decode(value, validate=True)), allow_pickle=False)
        else:
            array = np.asarray(value)
    except Exception:  # a damaged .npy header raises all kinds
        array = np.zeros(0, dtype=object)
    if not isinstance(array, np.ndarray) or array.ndim != 3 or array.dtype.kind not in "iu" or 0 in array.shape:
        raise TraceError(f"{where}: routed experts must be integers [tokens, layers, top-k], as lists or base64 .npy.")
    return array
