"""Importer of ``router-trace.v2`` documents of stratamoe-lab: prompts through the encoder of Switch.

One JSON object: ``version`` 2, ``tokens``, ``layers``, ``expertsPerLayer``, ``topK``, and ``selections`` as nested
lists [tokens][layers][topK]; ``source.model.id`` names the model. The tokens of all prompts follow one another.
Where a prompt ends stands in ``capture-metadata.json`` beside the file (``prompt_spans``), as do the model's layer
indices (``sparse_encoder_block_indices``); without that file there is one request, and layers are numbered
from 0. A prompt's id up to its last hyphen becomes the task.

Published example: github Labeeb2339/stratamoe-lab@08bfd806, evidence/switch-base-8/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from traces.importers._json import expert_ids, first_bytes, read_document, take
from traces.importers._models import canonical_name, resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import PREFILL, RequestTrace, TraceError, TraceMeta

SIDECAR = "capture-metadata.json"


def recognise(path: Path) -> bool:
    """Return whether the file starts as a JSON object that soon names ``expertsPerLayer`` or ``selections``."""
    head = first_bytes(path, 4096)
    return head.lstrip().startswith(b"{") and (b'"expertsPerLayer"' in head or b'"selections"' in head)


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the prompts as requests; see the package for the protocol."""
    name = path.name
    document = read_document(path)
    if take(document, "version", int, name) != 2:
        raise TraceError(f"{name}: field 'version' must be 2.")
    tokens, layers, experts, top_k = (
        take(document, field, int, name) for field in ("tokens", "layers", "expertsPerLayer", "topK")
    )
    source = document.get("source", {})
    described = source.get("model", {}) if isinstance(source, dict) else {}
    recorded = str(described.get("id", "unknown")) if isinstance(described, dict) else "unknown"
    model = options.model or canonical_name(recorded)
    num_experts = resolve_num_experts(model, options.num_experts, experts, name)
    ids = expert_ids(take(document, "selections", list, name), (tokens, layers, top_k), num_experts, name)
    sidecar = path.with_name(SIDECAR)
    if sidecar.is_file():
        capture = read_document(sidecar)
        indices, spans = _layer_indices(capture, layers), _spans(capture, tokens)
    else:
        indices, spans = tuple(range(layers)), [("", 0, tokens)]
    meta = TraceMeta(
        model=model,
        num_experts=num_experts,
        top_k=top_k,
        native_top_k=resolve_native_top_k(model, options.native_top_k, None, top_k, name),
        layers=indices,
        capture_tool="stratamoe-lab",
        source=name,
        notes=f"model as recorded: {recorded}; encoder tokens"
        + ("" if sidecar.is_file() else "; prompts not told apart"),
    )
    return meta, _requests(ids, spans, options, name)


def _requests(
    ids: np.ndarray, spans: list[tuple[str, int, int]], options: ImportOptions, name: str
) -> Iterator[tuple[RequestTrace, str | None]]:
    for number, (label, start, stop) in enumerate(spans):
        if options.wants(number):
            request = RequestTrace(
                id=number,
                positions=np.arange(stop - start, dtype=np.int32),
                phases=np.full(stop - start, PREFILL, dtype=np.int8),
                experts=ids[start:stop],
            )
            yield request, label.rpartition("-")[0] or label or None
    options.require_found(range(len(spans)), name)


def _layer_indices(capture: dict[str, Any], layers: int) -> tuple[int, ...]:
    indices = take(capture, "sparse_encoder_block_indices", list, SIDECAR)
    if len(indices) != layers or not all(type(index) is int for index in indices):
        raise TraceError(f"{SIDECAR}: field 'sparse_encoder_block_indices' must hold {layers} layer indices.")
    return tuple(indices)


def _spans(capture: dict[str, Any], tokens: int) -> list[tuple[str, int, int]]:
    spans, end = [], 0
    for span in take(capture, "prompt_spans", list, SIDECAR):
        if not isinstance(span, dict):
            raise TraceError(f"{SIDECAR}: field 'prompt_spans' must be a list of objects.")
        start, stop = take(span, "token_start", int, SIDECAR), take(span, "token_end_exclusive", int, SIDECAR)
        if start != end or stop <= start:
            raise TraceError(f"{SIDECAR}: field 'prompt_spans' must cover the tokens in order, without gaps.")
        spans.append((take(span, "id", str, SIDECAR), start, stop))
        end = stop
    if end != tokens:
        raise TraceError(f"{SIDECAR}: field 'prompt_spans' must end at the trace's {tokens} tokens, not at {end}.")
    return spans
