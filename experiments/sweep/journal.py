"""Finished points on disk: nothing that was written whole is lost, nothing half-written is read.

Every process that runs points appends to a file of its own in the sweep's folder, one line a point: a
checksum, a blank, JSON. A line is with the operating system as soon as its point is through, which no
kill can undo, and forced to the disk with its batch, a fraction of a second later. A line cut short by a kill
or a full disk fails its checksum and is passed over.
"""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

FOLDER = "journal"
_SUFFIX = ".jsonl"


class Journal:
    """Appends to a new file in the journal of `folder`; use it as a context."""

    def __init__(self, folder: Path) -> None:
        place = folder / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        self._file, self.name = tempfile.mkstemp(suffix=_SUFFIX, dir=place)

    def append(self, entry: dict[str, Any]) -> None:
        """Write an entry. Raises OSError if there is no room."""
        text = json.dumps(entry, separators=(",", ":"), allow_nan=True).encode()
        line = b"%08x %s\n" % (zlib.crc32(text), text)
        written = os.write(self._file, line)
        while written < len(line):
            written += os.write(self._file, line[written:])

    def sync(self) -> None:
        """Force what was written to the disk."""
        os.fsync(self._file)

    def close(self) -> None:
        """Close the file; an empty one is removed."""
        self.sync()
        os.close(self._file)
        if os.path.getsize(self.name) == 0:
            os.remove(self.name)

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def entries(folder: Path) -> Iterator[dict[str, Any]]:
    """Every whole entry in the journal of `folder`, files in order of name."""
    for path in sorted((folder / FOLDER).glob(f"*{_SUFFIX}")):
        for line in path.read_bytes().split(b"\n"):
            checksum, _, text = line.partition(b" ")
            if text and checksum == b"%08x" % zlib.crc32(text):
                yield json.loads(text)
