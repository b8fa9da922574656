"""Importer of the expert scores of ESFT: a folder with ``expert_weights_{layer}.txt`` for each routed layer.

A line is one sample: its tokens' expert ids, six per token and in no order, then two tabs, then their softmax
weights (not renormalised), all separated by single tabs. The samples stand in the same order in all files. Where
several processes recorded, the files stand in folders ``rank_0``, ``rank_1``, …, whose samples follow one another.
Slots are put into rank order by weight; ties stay in the file's order. The samples were teacher-forced, so
all tokens are prefill; the folder's name (intent, law, …) becomes the task.

Published as results/expert_scores of github deepseek-ai/ESFT (arXiv 2407.01906), whose
scripts/expert/generate_expert_config.py states 26 layers from 1 on, 64 experts and top-6.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import numpy as np

from traces.importers._json import expert_ids, first_bytes
from traces.importers._models import resolve_native_top_k, resolve_num_experts
from traces.importers._options import ImportOptions
from traces.schema import PREFILL, RequestTrace, TraceError, TraceMeta

MODEL, TOP_K, LAYERS = "deepseek_v2_lite", 6, tuple(range(1, 27))
_FILE = re.compile(r"expert_weights_(\d+)\.txt")
_LINE = re.compile(rb"\d+(\t\d+){5}[\t\d]*(\t\t|$)")


def recognise(path: Path) -> bool:
    """Return whether `path` is a folder of such files, or one of the files."""
    if path.is_dir():
        return bool(_folders(path))
    return _LINE.match(first_bytes(path, 4096).partition(b"\n")[0]) is not None


def load(path: Path, options: ImportOptions) -> tuple[TraceMeta, Iterator[tuple[RequestTrace, str | None]]]:
    """Return the metadata and the samples, numbered from 0; see the package for the protocol."""
    if not path.is_dir():
        raise TraceError(f"{path.name}: this is one layer's file; the folder with all layers must be given.")
    model = options.model or MODEL
    folders = _folders(path)
    layers = LAYERS if model == MODEL else tuple(sorted(folders[0][1]))
    for folder, files in folders:
        for layer in sorted({*layers, *files}):
            if layer not in files or layer not in layers:
                found = "missing" if layer not in files else "not a routed layer"
                raise TraceError(f"{folder.name}: the file 'expert_weights_{layer}.txt' is {found}.")
    meta = TraceMeta(
        model=model,
        num_experts=resolve_num_experts(model, options.num_experts, None, path.name),
        top_k=TOP_K,
        native_top_k=resolve_native_top_k(model, options.native_top_k, None, TOP_K, path.name),
        layers=layers,
        has_weights=True,
        capture_tool="ESFT get_expert_scores.py",
        dataset=path.resolve().name,
        source=path.resolve().name,
        notes="prompt and answer in one forward pass; softmax weights, not renormalised",
    )
    return meta, _requests(path, folders, meta, options)


def _folders(path: Path) -> list[tuple[Path, dict[int, Path]]]:
    """Return the folders that hold files of layers, each with its files by layer."""
    ranks = [entry for entry in path.iterdir() if entry.is_dir() and re.fullmatch(r"rank_\d+", entry.name)]
    found = []
    for folder in [path, *sorted(ranks, key=lambda entry: int(entry.name[5:]))]:
        matches = ((_FILE.fullmatch(entry.name), entry) for entry in folder.iterdir())
        files = {int(match[1]): entry for match, entry in matches if match is not None}
        if files:
            found.append((folder, files))
    return found


def _requests(
    path: Path, folders: list[tuple[Path, dict[int, Path]]], meta: TraceMeta, options: ImportOptions
) -> Iterator[tuple[RequestTrace, str | None]]:
    number = 0
    for _, files in folders:
        with ExitStack() as stack:
            opened = [stack.enter_context(open(files[layer], "rb")) for layer in meta.layers]
            for line, texts in enumerate(itertools.zip_longest(*opened), start=1):
                request = _sample(number, line, texts, meta)
                if options.wants(number):
                    yield request, path.resolve().name
                number += 1
    options.require_found(range(number), path.name)


def _sample(number: int, line: int, texts: tuple[bytes | None, ...], meta: TraceMeta) -> RequestTrace:
    """Return the sample on line `line` of the files, one text for each layer."""
    experts, weights = [], []
    tokens: int | None = None
    for layer, text in zip(meta.layers, texts, strict=True):
        where = f"expert_weights_{layer}.txt: line {line}"
        if text is None:
            raise TraceError(f"{where}: the file ends here, but other layers have more samples.")
        ids, values = _numbers(text, where)
        ids = expert_ids(ids.reshape(-1, TOP_K), (tokens, TOP_K), meta.num_experts, where)
        tokens = len(ids)
        order = np.argsort(-values.reshape(-1, TOP_K), axis=-1, kind="stable")
        experts.append(np.take_along_axis(ids, order, axis=-1))
        weights.append(np.take_along_axis(values.reshape(-1, TOP_K), order, axis=-1))
    return RequestTrace(
        id=number,
        positions=np.arange(tokens or 0, dtype=np.int32),
        phases=np.full(tokens or 0, PREFILL, dtype=np.int8),
        experts=np.ascontiguousarray(np.stack(experts, axis=1)),
        weights=np.ascontiguousarray(np.stack(weights, axis=1)),
    )


def _numbers(text: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Return the ids (int64) and weights (float32) of a line, equally many and six for each token."""
    if not text.endswith(b"\n"):
        raise TraceError(f"{where}: the line has no end, so the file was cut.")
    ids, separator, weights = text.strip().partition(b"\t\t")
    try:
        numbers = np.array([int(item) for item in ids.split(b"\t")], dtype=np.int64)
        values = np.array([float(item) for item in weights.split(b"\t")], dtype=np.float32)
    except (ValueError, OverflowError):
        separator = b""
    if not separator:
        raise TraceError(f"{where}: the line must be expert ids, two tabs and as many weights, separated by tabs.")
    if len(numbers) != len(values) or len(numbers) % TOP_K:
        raise TraceError(f"{where}: there must be {TOP_K} ids and {TOP_K} weights for each token.")
    if not bool(np.all(np.isfinite(values))) or bool(np.any(values < 0)):
        raise TraceError(f"{where}: every weight must be a finite number that is not negative.")
    return numbers, values
