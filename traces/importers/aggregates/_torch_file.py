"""Reading tensors from a ``torch.save`` file without PyTorch, and without running what the file says.

Such a file is a zip archive: ``<name>/data.pkl`` pickles the object with every storage as a persistent id
``("storage", type, key, device, count)``, and ``<name>/data/<key>`` holds the bytes, little-endian
(PyTorch notes, "Serialization semantics"). The unpickler knows the two names a tensor needs and no other.
"""

from __future__ import annotations

import collections
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from traces.schema import TraceError

_KINDS = {
    "ByteStorage": np.uint8,
    "CharStorage": np.int8,
    "ShortStorage": np.int16,
    "IntStorage": np.int32,
    "LongStorage": np.int64,
    "FloatStorage": np.float32,
    "DoubleStorage": np.float64,
}


def read_torch_file(path: Path) -> Any:
    """Return the object in the file, tensors as arrays; raises TraceError if it holds anything but plain values."""
    try:
        with zipfile.ZipFile(path) as archive:
            name = next(entry for entry in archive.namelist() if entry.endswith("/data.pkl"))
            return _Unpickler(archive, name.removesuffix("data.pkl"), archive.read(name)).load()
    except (TraceError, MemoryError):
        raise
    except Exception:  # a damaged pickle may raise anything
        raise TraceError(f"{path.name}: the file must be a complete torch.save file, but is cut or damaged.") from None


class _Unpickler(pickle.Unpickler):
    def __init__(self, archive: zipfile.ZipFile, prefix: str, raw: bytes) -> None:
        super().__init__(io.BytesIO(raw))
        self._archive, self._prefix = archive, prefix

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _tensor
        if module == "torch" and name in _KINDS:
            return _KINDS[name]
        raise TraceError(
            f"{Path(str(self._archive.filename)).name}: the file holds '{module}.{name}', which is not read."
        )

    def persistent_load(self, pid: Any) -> np.ndarray:
        _, kind, key, _, count = pid
        raw = self._archive.read(f"{self._prefix}data/{key}")
        return np.frombuffer(raw, dtype=np.dtype(kind).newbyteorder("<"), count=count)


def _tensor(storage: np.ndarray, offset: int, shape: tuple[int, ...], strides: tuple[int, ...], *_: Any) -> np.ndarray:
    if any(size < 0 for size in (offset, *shape, *strides)):
        raise ValueError("a tensor has no negative sizes")
    last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
    if 0 not in shape and last >= len(storage):
        raise ValueError("the tensor is larger than its storage")
    bytes_apart = [stride * storage.itemsize for stride in strides]
    view: Callable[..., np.ndarray] = np.lib.stride_tricks.as_strided
    return view(storage[offset:], shape, bytes_apart, writeable=False).copy()
