"""Reading a file as an offloading runtime does: threads, whole requests, past the page cache."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType

import numpy as np

from hwmodels.errors import PlatformError
from hwmodels.microbench import MIB, Case, buffer

BLOCK_BYTES = 4096
"""What offsets, sizes and addresses of direct reads are multiples of; enough for the block sizes in use (512, 4096)."""

REQUEST_BYTES = tuple(2**power * 128 * 1024 for power in range(7))  # 128 KiB to 8 MiB
DEPTHS = (1, 2, 4, 8)


class Reader:
    """A file and the threads that read it. `method` says how the page cache is kept out:

    O_DIRECT            it is not used
    posix_fadvise       what was read is dropped from it at once
    nothing             the system offers neither, and reads may come from memory

    Raises PlatformError if the file is empty, OSError if it cannot be opened.
    """

    def __init__(self, path: Path, threads: int, direct: bool = True) -> None:
        self.path = path
        self.size_bytes = path.stat().st_size
        if self.size_bytes < BLOCK_BYTES:
            raise PlatformError(f"{path}: the file to read has {self.size_bytes} bytes; expected at least a block.")
        self.method, self._file = _open(path, direct)
        self._threads = ThreadPoolExecutor(threads)

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()
        os.close(self._file)

    def submit(self, target: memoryview, offset_bytes: int) -> Future[int]:
        """Fill `target` from `offset_bytes` on, on one of the threads; the result is the number of bytes read.

        Size, place in memory and offset must be multiples of BLOCK_BYTES.
        """
        return self._threads.submit(self._read, target, offset_bytes)

    def _read(self, target: memoryview, offset_bytes: int) -> int:
        done = 0
        while done < len(target):
            count = os.preadv(self._file, [target[done:]], offset_bytes + done)
            if not count:
                raise PlatformError(f"{self.path}: the file ends within the {len(target)} bytes at {offset_bytes}.")
            done += count
        if self.method == "posix_fadvise":
            os.posix_fadvise(self._file, offset_bytes, done, os.POSIX_FADV_DONTNEED)
        return done


def _open(path: Path, direct: bool) -> tuple[str, int]:
    if direct and hasattr(os, "O_DIRECT"):
        file = -1
        try:
            file = os.open(path, os.O_RDONLY | os.O_DIRECT)
            os.preadv(file, [buffer(BLOCK_BYTES)], 0)
            return "O_DIRECT", file
        except OSError:  # some file systems refuse when opening, some when reading
            if file >= 0:
                os.close(file)
    file = os.open(path, os.O_RDONLY)
    if not hasattr(os, "posix_fadvise"):
        return "nothing", file
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_RANDOM)  # no read-ahead
    os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
    return "posix_fadvise", file


def write_random(path: Path, size_bytes: int, seed: int = 0) -> None:
    """Write a file of numbers that do not compress, drawn from N(0, 0.02²) in fp32, and force it to the drive.

    Small enough as weights that a model of them does not overflow.
    """
    rng = np.random.default_rng(seed)
    with path.open("wb") as file:
        left = size_bytes
        while left > 0:
            block = rng.standard_normal(min(left, 8 * MIB) // 4, dtype=np.float32) * np.float32(0.02)
            file.write(block.tobytes())
            left -= block.nbytes
        file.flush()
        os.fsync(file.fileno())


def file_cases(
    path: Path,
    request_bytes: Sequence[int] = REQUEST_BYTES,
    depths: Sequence[int] = DEPTHS,
    pass_bytes: int = 24 * MIB,
    seed: int = 0,
) -> list[Case]:
    """Reads at random places that are multiples of their size: `depth` threads with one request each at any time."""
    rng = np.random.default_rng(seed)
    largest = max(request_bytes)
    memory = memoryview(buffer(largest * max(depths)))
    return [
        _reads(path, size, depth, max(pass_bytes // size, 2 * depth), memory, rng)
        for size in request_bytes
        for depth in depths
    ]


def _reads(path: Path, size: int, depth: int, count: int, memory: memoryview, rng: np.random.Generator) -> Case:
    def run() -> float:
        with Reader(path, depth) as reader:
            places = reader.size_bytes // size
            if not places:
                raise PlatformError(f"{path}: the file has {reader.size_bytes} bytes; expected at least {size}.")
            chosen = rng.permutation(max(places, count)) % places
            for future in [reader.submit(memory[:size], 0) for _ in range(depth)]:
                future.result()  # the threads are there before the time runs
            start = time.perf_counter()
            reads = [
                reader.submit(memory[index % depth * size :][:size], int(place) * size)
                for index, place in enumerate(chosen[:count])
            ]
            for read in reads:
                read.result()
            return (time.perf_counter() - start) / count

    return Case("read_file", size, run, at_once=depth)
