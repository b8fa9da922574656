"""Importers of foreign trace formats, one module per format.

A module of this package whose name has no leading underscore is an importer; it is found by walking the
package, so adding a format is adding a file. It offers

``recognise(path) -> bool``
    whether the content of the file or folder (not its name) is of this format; never raises on a readable file
``load(path, options) -> (TraceMeta, iterator)``
    the metadata, and an iterator of (RequestTrace, task or None), one whole request at a time in the file's
    order; `options` is an `ImportOptions`. Raises TraceError if the file breaks its format's rules, when
    called or while iterating. An importer may leave ``options.salvage`` alone, since `import_trace` keeps the
    requests that came before the fault; formats that hold a single request use it to keep whole tokens.

The folder ``aggregates`` reads files that hold statistics of routing only; they are no traces.
"""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import pyarrow as pa
import pyarrow.parquet as pq

from traces.checks import check_request
from traces.importers._options import ImportOptions, MissingRequestError
from traces.importers.aggregates import describe_aggregates
from traces.reader import Trace, open_trace
from traces.schema import METADATA_KEY, TraceError
from traces.writer import TraceWriter


def import_trace(
    source: str | os.PathLike[str],
    destination: str | os.PathLike[str],
    *,
    requests: Sequence[int] | None = None,
    model: str | None = None,
    dataset: str | None = None,
    licence: str | None = None,
    native_top_k: int | None = None,
    num_experts: int | None = None,
    origin: str | None = None,
    notes: str | None = None,
    salvage: bool = False,
) -> Trace:
    """Convert `source`, of any known foreign format, to a trace file at `destination`, and open that.

    requests       ids to keep, all if None; they stay in the file's order
    model, dataset, licence, native_top_k, notes
                   replace what the file records
    num_experts    experts per routed layer, for formats that do not record it
    origin         becomes ``meta.source``: where `source` itself was published
    salvage        of a cut or damaged file, keep the whole requests before the first fault; ``meta.notes`` then
                   names the fault
    Raises TraceError if the format is not known, the content breaks its rules, a wanted request is
    missing, or `destination` is `source`; then no file is written.
    """
    source = Path(source)
    if not source.exists():
        raise TraceError(f"{source}: there is no such file to import.")
    if Path(destination).exists() and source.samefile(destination):
        raise TraceError(f"{destination}: this is the file to import, which would be lost; expected another file.")
    importer = find_importer(source)
    options = ImportOptions(
        requests=requests, model=model, native_top_k=native_top_k, num_experts=num_experts, salvage=salvage
    )
    kept, fault = _whole_requests(importer, source, options) if salvage else (None, "")
    meta, rows = importer.load(source, options)
    given = {"dataset": dataset, "licence": licence, "source": origin, "notes": notes}
    meta = dataclasses.replace(meta, **{name: value for name, value in given.items() if value is not None})
    if fault:
        remark = f"salvaged, {kept} whole requests before the fault: {fault.rstrip('.')}"
        meta = dataclasses.replace(meta, notes="; ".join(filter(None, (meta.notes, remark))))
    with TraceWriter(destination, meta, blame=source.name) as writer:
        for request, task in itertools.islice(rows, kept):
            writer.write(request, task)
    return open_trace(destination)


def _whole_requests(importer: ModuleType, source: Path, options: ImportOptions) -> tuple[int | None, str]:
    """Return how many requests come before the first fault, and the fault; (None, "") if there is none.

    Raises TraceError if no request does.
    """
    count, ids = 0, set[int]()
    try:
        meta, rows = importer.load(source, options)
        for request, _ in rows:
            check_request(request, meta, source.name)
            if request.id in ids:
                raise TraceError(f"{source.name}: request {request.id} occurs twice.")
            ids.add(request.id)
            count += 1
    except MissingRequestError:
        raise
    except TraceError as fault:
        if count == 0:
            raise
        return count, str(fault)
    return None, ""


def find_importer(path: Path) -> ModuleType:
    """Return the one importer that recognises the content of `path`; raises TraceError if there is none.

    The sentence says what the file is, if it is known and no trace.
    """
    modules = list_importers()
    for module in modules:
        if module.recognise(path):
            return module
    if _is_trace(path):
        raise TraceError(f"{path.name}: this is a trace already, so there is nothing to import.")
    description = describe_aggregates(path)
    if description is not None:
        raise TraceError(f"{path.name}: the file is no trace but {description}.")
    known = ", ".join(module.__name__.rpartition(".")[2] for module in modules)
    raise TraceError(f"{path.name}: the file's format is not one that can be imported (known formats: {known}).")


def _is_trace(path: Path) -> bool:
    """Whether the file is a trace of this package's own format."""
    try:
        return METADATA_KEY in (pq.read_metadata(path).metadata or {})
    except (pa.ArrowException, OSError, ValueError):
        return False


def list_importers() -> list[ModuleType]:
    """Return all importer modules, by name."""
    found = pkgutil.iter_modules(__path__)
    names = sorted(info.name for info in found if not info.ispkg and not info.name.startswith("_"))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
