"""Finished requests of a capture on disk, so that an interrupted one goes on where it stopped."""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from traces.capture import CaptureError
from traces.schema import RequestTrace


class Journal:
    """The folder `<trace>.capture` beside the trace to be: settings, and a file for each finished request.

    Raises CaptureError if the folder holds a capture with other settings.
    """

    def __init__(self, trace: Path, settings: dict[str, Any]) -> None:
        self.folder = trace.with_name(f"{trace.name}.capture")
        file = self.folder / "settings.json"
        text = json.dumps(settings, indent=1, sort_keys=True)
        if not self.folder.exists():
            self.folder.mkdir(parents=True)
            _replace(file, text.encode())
        begun = json.loads(file.read_text()) if file.exists() else {}
        wanted = json.loads(text)
        if begun != wanted:
            other = next(name for name in sorted({*begun, *wanted}) if begun.get(name) != wanted.get(name))
            raise CaptureError(
                f"{self.folder}: a capture was begun there with '{other}' {begun.get(other)!r}, not"
                f" {wanted.get(other)!r}; expected the same settings to go on with it, or remove the folder."
            )

    def has(self, number: int) -> bool:
        """Whether request `number` is finished."""
        return self._file(number).exists()

    def add(self, request: RequestTrace, tokens: dict[str, np.ndarray]) -> None:
        """Keep a finished request and its token ids."""
        arrays: dict[str, Any] = {f"tokens_{name}": value for name, value in tokens.items()}
        arrays |= {name: value for name, value in vars(request).items() if isinstance(value, np.ndarray)}
        buffer = io.BytesIO()
        np.savez(buffer, **arrays)
        _replace(self._file(request.id), buffer.getvalue())

    def requests(self, count: int) -> Iterator[tuple[RequestTrace, dict[str, np.ndarray]]]:
        """The first `count` requests and their token ids, one at a time."""
        for number in range(count):
            with np.load(self._file(number)) as arrays:
                values = {name: arrays[name] for name in arrays if not name.startswith("tokens_")}
                tokens = {name.removeprefix("tokens_"): arrays[name] for name in arrays if name.startswith("tokens_")}
            yield RequestTrace(id=number, **values), tokens

    def remove(self) -> None:
        """Delete the folder, once the trace is written."""
        shutil.rmtree(self.folder)

    def _file(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npz"


def _replace(file: Path, content: bytes) -> None:
    partial = file.with_name(f"{file.name}.partial")
    partial.write_bytes(content)
    os.replace(partial, file)
