"""Importer of ``simllm-preplay-trace-v2`` JSON-lines: dispatches that SGLang was observed to make.

Lines carry a ``row_type``. ``header`` gives under ``provenance`` the model, ``expert_count``, ``top_k`` and
``moe_layer_indices``. For each request one ``request`` line (``request_id``, ``input_token_ids``,
``output_length``) comes before its ``observed-dispatch`` lines, one per token: ``phase`` (prefill or decode),
``token_index`` in that phase, ``routing`` with ``layer_index`` and ``expert_ids`` in rank order. The last
generated token is not fed back, so a request of p prompt and n generated tokens has p + n - 1 of them.
``kv-event`` lines are skipped. ``footer`` closes the file with the counts.

Published example: github openfabric-systems/simllm@9c2672cd,
examples/sglang_composed_deployment_v1/fixtures/routing-trace.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import expert_ids, first_object, read_lines, take
from traces.importers._models import canonical_name, resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import DECODE, PREFILL, RequestTrace, TraceError, TraceMeta

SCHEMA = "simllm-preplay-trace-v2"
_PHASES = {"prefill": PREFILL, "decode": DECODE}
_COUNTED = ("request", "prefill_dispatch", "decode_dispatch")


def recognise(path: Path) -> bool:
    """Return whether the first line is an object of this schema."""
    return first_object(path).get("schema") == SCHEMA


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the requests, numbered from 0 in file order; see the package for the protocol."""
    where, header = next(read_lines(path))
    if header.get("row_type") != "header":
        raise TraceError(f"{where}: the first line must be the header (row_type 'header').")
    recorded = take(header, "provenance", dict, where)
    as_recorded = take(recorded, "model_id", str, where)
    model = options.model or canonical_name(as_recorded)
    top_k = take(recorded, "top_k", int, where)
    layers = take(recorded, "moe_layer_indices", list, where)
    if not layers or not all(type(layer) is int for layer in layers):
        raise TraceError(f"{where}: field 'moe_layer_indices' must be a list of layer indices.")
    count = take(recorded, "expert_count", int, where)
    meta = TraceMeta(
        model=model,
        num_experts=resolve_num_experts(model, options.num_experts, count, path.name),
        top_k=top_k,
        native_top_k=resolve_native_top_k(model, options.native_top_k, None, top_k, path.name),
        layers=tuple(layers),
        capture_tool=f"{recorded.get('framework', 'simllm')} {recorded.get('framework_version', '')}".strip(),
        source=path.name,
        notes=f"model as recorded: {as_recorded}",
    )
    return meta, _requests(path, meta, options)


@dataclass
class _Open:
    """The request whose dispatch lines are being read."""

    number: int
    name: str
    prompt: int
    tokens: dict[str, int]  # dispatch lines expected in each phase
    where: str
    positions: list[int] = field(default_factory=list)
    phases: list[int] = field(default_factory=list)
    experts: list[np.ndarray] = field(default_factory=list)


def _requests(path: Path, meta: TraceMeta, options: ImportOptions) -> Iterator[tuple[RequestTrace, str | None]]:
    seen, current = set[str](), None
    dispatches, footer = 0, False
    lines = read_lines(path)
    next(lines)
    for where, record in lines:
        kind = take(record, "row_type", str, where)
        if footer:
            raise TraceError(f"{where}: nothing may follow the footer.")
        if kind in ("request", "footer") and current is not None:
            if options.wants(current.number):
                yield _close(current), None
            current = None
        if kind == "request":
            current = _open(record, len(seen), where)
            if current.name in seen:
                raise TraceError(f"{where}: request '{current.name}' occurs twice.")
            seen.add(current.name)
        elif kind == "observed-dispatch":
            if current is None or record.get("request_id") != current.name:
                raise TraceError(f"{where}: a dispatch must follow the line of its request.")
            _add(current, record, meta, where)
            dispatches += 1
        elif kind == "footer":
            footer = True
            counted = [take(record, f"{name}_count", int, where) for name in _COUNTED]
            if counted[0] != len(seen) or counted[1] + counted[2] != dispatches:
                raise TraceError(f"{where}: the footer's counts must be those of the lines before it.")
        elif kind != "kv-event":
            raise TraceError(f"{where}: row_type '{kind}' is not known.")
    if not footer:
        raise TraceError(f"{path.name}: the file must end in a footer, so it was cut.")
    options.require_found(range(len(seen)), path.name)


def _open(record: dict[str, Any], number: int, where: str) -> _Open:
    prompt = len(take(record, "input_token_ids", list, where))
    cached = record.get("framework_cached_tokens", 0)
    output = take(record, "output_length", int, where)
    if type(cached) is not int or not 0 <= cached < max(prompt, 1) or output < 1:
        raise TraceError(f"{where}: 'framework_cached_tokens' and 'output_length' must fit the prompt.")
    tokens = {"prefill": prompt - cached, "decode": output - 1}
    return _Open(number, take(record, "request_id", str, where), prompt, tokens, where)


def _add(current: _Open, record: dict[str, Any], meta: TraceMeta, where: str) -> None:
    phase, index = take(record, "phase", str, where), take(record, "token_index", int, where)
    if phase not in _PHASES:
        raise TraceError(f"{where}: field 'phase' must be prefill or decode, not '{phase}'.")
    position = index + (current.prompt if phase == "decode" else 0)
    if not (current.positions[-1] if current.positions else -1) < position < 2**31:
        raise TraceError(f"{where}: field 'token_index' must rise from line to line.")
    routing = take(record, "routing", list, where)
    if not all(isinstance(entry, dict) for entry in routing):
        raise TraceError(f"{where}: field 'routing' must be a list of objects.")
    if tuple(entry.get("layer_index") for entry in routing) != meta.layers:
        raise TraceError(f"{where}: field 'routing' must have one entry for each layer of the header.")
    values = [take(entry, "expert_ids", list, where) for entry in routing]
    current.experts.append(expert_ids(values, (len(meta.layers), meta.top_k), meta.num_experts, where))
    current.positions.append(position)
    current.phases.append(_PHASES[phase])


def _close(current: _Open) -> RequestTrace:
    for name, phase in _PHASES.items():
        if current.phases.count(phase) != current.tokens[name]:
            raise TraceError(
                f"{current.where}: request '{current.name}' must have {current.tokens[name]} {name} dispatches, "
                f"not {current.phases.count(phase)}."
            )
    return RequestTrace(
        id=current.number,
        positions=np.array(current.positions, dtype=np.int32),
        phases=np.array(current.phases, dtype=np.int8),
        experts=np.stack(current.experts),
    )
