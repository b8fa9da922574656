"""Routing traces: which experts the router chose, per request, token and layer.

Reading, writing, importing foreign formats, and the traces shipped with the package.
"""

from __future__ import annotations

from pathlib import Path

from traces.reader import Trace, open_trace
from traces.schema import RequestInfo, RequestTrace, TraceError, TraceMeta
from traces.writer import TraceWriter

__all__ = [
    "RequestInfo",
    "RequestTrace",
    "Trace",
    "TraceError",
    "TraceMeta",
    "TraceWriter",
    "data_path",
    "open_trace",
]

DATA_FOLDER = Path(__file__).parent / "data"


def data_path(name: str) -> Path:
    """Return the path of the shipped trace file `name`, for instance ``"gpt_oss_20b.parquet"``.

    An absolute path, or one that exists from the current folder, is returned as it is, so that a
    configuration may name a shipped trace or a file of one's own. Raises TraceError if there is neither.
    """
    shipped = DATA_FOLDER / name
    if shipped.is_file():
        return shipped
    if Path(name).is_file():
        return Path(name)
    known = ", ".join(sorted(path.name for path in DATA_FOLDER.glob("*.parquet")))
    raise TraceError(f"{name}: there is no such trace file, and none of that name is shipped (there are: {known}).")
