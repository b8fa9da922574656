"""A worker whose memory writes slower than it reads, or after a latency (high-bandwidth flash)."""

from __future__ import annotations

import numpy as np

from hwmodels import Device
from simulator.model import ModelSpec
from simulator.runtime.costs import DenseCosts


def writes_slower(device: Device) -> bool:
    """Whether a GPU's memory writes slower than it reads, or after a latency."""
    slower = 0 < device.memory_write_bytes_per_s < device.memory_read_bytes_per_s
    return device.kind == "gpu" and (slower or device.memory_write_latency_s > 0)


class SlowWrites(DenseCosts):
    """Dense costs, and for the keys and values of new tokens the time that writing takes longer than reading:
    bytes x (1 / write rate - 1 / read rate), after the attention that reads them, and once the latency of a write, as
    all of a layer are under way at once. Activations are taken to stay in memory on the die."""

    def __init__(self, model: ModelSpec, device: Device) -> None:
        super().__init__(model, device)
        self._s_per_byte = 1 / device.memory_write_bytes_per_s - 1 / device.memory_read_bytes_per_s
        self._latency_s = device.memory_write_latency_s

    def attention_s(self, layer: int, new: np.ndarray, kv: np.ndarray, mixed: bool = False) -> np.ndarray:
        """[steps, 3] seconds; new tokens and context length of each request, [steps, requests]."""
        written = new.sum(axis=-1) * self.model.kv_bytes(1, (layer,))
        writes_s = written * self._s_per_byte + self._latency_s * (written > 0)
        return super().attention_s(layer, new, kv, mixed) + np.multiply.outer(writes_s, [0, 1, 0])
