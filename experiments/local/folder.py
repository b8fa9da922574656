"""A temporary folder for the files that are read, on the drive that is to be measured."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from experiments.explain import ConfigError
from experiments.table import size

SPARE_BYTES = 64 * 2**20  # to be left free on the drive


@contextmanager
def scratch(folder: Path, need_bytes: int) -> Iterator[Path]:
    """A new folder inside `folder`, removed at the end whatever happens.

    Raises ConfigError if `folder` is none, cannot be written, or its drive has less than `need_bytes` to spare.
    """
    if not folder.is_dir():
        raise ConfigError(f"--folder {folder}: there is no such folder; expected one on the drive to measure.")
    free = shutil.disk_usage(folder).free
    if free < need_bytes + SPARE_BYTES:
        raise ConfigError(
            f"--folder {folder}: its drive has {size(free)} free; expected {size(need_bytes + SPARE_BYTES)} for the"
            " files to read."
        )
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".moesim.", dir=folder)
    except OSError as error:
        raise ConfigError(f"--folder {folder}: cannot write in it ({(error.strerror or '').lower()}).") from None
    with temporary as name:
        yield Path(name)
