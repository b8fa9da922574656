"""Transformed traces in the user's cache folder: made when they are first asked for."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from pathlib import Path

from traces.reader import open_trace
from traces.schema import TraceError
from traces.synthesis.recipe import CACHE
from traces.transforms import transform_trace


def kept(source: Path, steps: Sequence[str]) -> Path:
    """The file in the cache folder that `steps` make of the trace at `source`, made now if it is not there.

    Its name tells the source's content, the steps and what does them; a file appears whole or not at all. Raises
    TraceError, one sentence, for a step that cannot be done.
    """
    folder = Path(os.environ.get(CACHE) or Path.home() / ".cache" / "moesim").expanduser() / "traces"
    package = Path(__file__).parent
    code = hashlib.sha256(b"".join(path.read_bytes() for path in sorted(package.glob("*.py")))).hexdigest()
    content = json.dumps([open_trace(source).meta.digest, list(steps), code])
    path = folder / f"{source.stem}-{hashlib.sha256(content.encode()).hexdigest()[:16]}.parquet"
    try:
        open_trace(path)
    except TraceError:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            transform_trace(source, path, steps)
        except OSError as error:
            why = (error.strerror or "it fails").lower()
            raise TraceError(f"{folder}: cannot write here ({why}); {CACHE} names another folder.") from None
    return path
