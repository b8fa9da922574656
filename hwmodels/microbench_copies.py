"""Copies between host and GPU, by size, from pinned and from pageable memory; needs torch with CUDA."""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from typing import Any

from hwmodels.microbench import Case

COPY_BYTES = tuple(2**power for power in range(12, 29, 2))  # 4 KiB to 256 MiB


def cuda_torch() -> Any:
    """The torch module if it can be imported and sees a GPU, else None."""
    try:
        torch = importlib.import_module("torch")
    except ImportError:
        return None
    return torch if torch.cuda.is_available() else None


def copy_cases(torch: Any, sizes: Sequence[int] = COPY_BYTES) -> list[Case]:
    """Copies of each size in both directions, pinned and pageable (`cached`)."""
    return [
        _copy(torch, size, to_device, pageable) for size in sizes for to_device in (True, False) for pageable in (0, 1)
    ]


def _copy(torch: Any, size: int, to_device: bool, pageable: int) -> Case:
    def run() -> float:
        host = torch.empty(size, dtype=torch.uint8, pin_memory=not pageable)
        device = torch.empty(size, dtype=torch.uint8, device="cuda")
        source, target = (host, device) if to_device else (device, host)
        target.copy_(source)
        torch.cuda.synchronize()
        start = time.perf_counter()
        target.copy_(source, non_blocking=not pageable)
        torch.cuda.synchronize()
        return time.perf_counter() - start

    name = "copy_to_device" if to_device else "copy_from_device"
    return Case(name, size, run, cached=bool(pageable))
