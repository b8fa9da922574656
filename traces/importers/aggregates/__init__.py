"""Readers of files that hold statistics of routing: how often experts were selected, but not by which token.

Nothing can be replayed from them, so they are no traces and ``moesim trace import`` says so; they tell a generator how
popular experts are. As with the importers, a module without a leading underscore is a reader, with

``DESCRIPTION``          what such a file holds, to follow "the file is no trace but"
``recognise(path)``      whether the content is of this format; never raises on a readable file
``read(path)``           returns `Aggregates`, or a dictionary of them by model where the file has several;
                         raises TraceError if the file breaks the format's rules
"""

from __future__ import annotations

import importlib
import os
import pkgutil
from pathlib import Path
from types import ModuleType

from traces.importers.aggregates._aggregates import Aggregates
from traces.schema import TraceError

__all__ = ["Aggregates", "describe_aggregates", "read_aggregates"]


def read_aggregates(path: str | os.PathLike[str], *, model: str | None = None) -> Aggregates:
    """Return the statistics in `path`, of the given model where the file has those of several.

    Raises TraceError if the format is not known, the content breaks its rules, or the model must be chosen.
    """
    path = Path(path)
    if not path.is_file():
        raise TraceError(f"{path}: there is no such file of statistics.")
    reader = _reader(path)
    if reader is None:
        raise TraceError(f"{path.name}: the file's format is not one of statistics that can be read.")
    found = reader.read(path)
    if isinstance(found, Aggregates):
        return found
    if model not in found:
        raise TraceError(f"{path.name}: the file has statistics of {', '.join(found)}; one of these models is needed.")
    chosen: Aggregates = found[model]
    return chosen


def describe_aggregates(path: Path) -> str | None:
    """Return what a file of statistics holds, or None if `path` is of no known format."""
    reader = _reader(path)
    return None if reader is None else str(reader.DESCRIPTION)


def _reader(path: Path) -> ModuleType | None:
    names = sorted(info.name for info in pkgutil.iter_modules(__path__) if not info.name.startswith("_"))
    for name in names:
        module = importlib.import_module(f"{__name__}.{name}")
        if module.recognise(path):
            return module
    return None
