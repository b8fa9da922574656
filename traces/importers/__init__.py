"""Importers of foreign trace formats, one module per format.

A module of this package whose name has no leading underscore is an importer; it is found by walking the
package, so adding a format is adding a file. It offers

``recognise(path) -> bool``
    whether the file's content (not its name) is of this format; never raises on a readable file
``load(path, *, requests=None, model=None, native_top_k=None) -> (TraceMeta, iterator)``
    the metadata, and an iterator of (RequestTrace, task or None); `requests` limits it to these ids, `model`
    and `native_top_k` replace what the file says or leaves open. Raises TraceError if the file breaks its
    format's rules, when called or while iterating.
"""

from __future__ import annotations

import dataclasses
import importlib
import os
import pkgutil
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from traces.reader import Trace, open_trace
from traces.schema import TraceError
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
    origin: str | None = None,
    notes: str | None = None,
) -> Trace:
    """Convert `source`, of any known foreign format, to a trace file at `destination`, and open that.

    requests       ids to keep, all if None; they stay in the file's order
    model, dataset, licence, native_top_k, notes
                   replace what the file records
    origin         becomes ``meta.source``: where `source` itself was published
    Raises TraceError if the format is not known, the content breaks its rules, or a wanted request is
    missing; then no file is left at `destination`.
    """
    source = Path(source)
    if not source.is_file():
        raise TraceError(f"{source}: there is no such file to import.")
    meta, rows = find_importer(source).load(source, requests=requests, model=model, native_top_k=native_top_k)
    given = {"dataset": dataset, "licence": licence, "source": origin, "notes": notes}
    meta = dataclasses.replace(meta, **{name: value for name, value in given.items() if value is not None})
    with TraceWriter(destination, meta, blame=source.name) as writer:
        for request, task in rows:
            writer.write(request, task)
    return open_trace(destination)


def find_importer(path: Path) -> ModuleType:
    """Return the one importer that recognises the content of `path`; raises TraceError if there is none."""
    modules = list_importers()
    for module in modules:
        if module.recognise(path):
            return module
    known = ", ".join(module.__name__.rpartition(".")[2] for module in modules)
    raise TraceError(f"{path.name}: the file's format is not one that can be imported (known formats: {known}).")


def list_importers() -> list[ModuleType]:
    """Return all importer modules, by name."""
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    return [importlib.import_module(f"{__name__}.{name}") for name in names]
