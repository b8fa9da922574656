"""Attention of decoding requests on a unit over the worker's own memory, where the KV cache lies."""

from __future__ import annotations

import numpy as np

from hwmodels import Device
from simulator.model import ModelSpec
from simulator.runtime.costs import DenseCosts, joined


class NearAttention(DenseCosts):
    """Dense costs of a worker, but the attention of requests that decode is a unit's.

    In a step of both kinds the worker computes the prompts' attention meanwhile, and the slower side counts (Duplex,
    arXiv 2409.01141). Each side gets the bandwidth of its own path.
    """

    def __init__(self, model: ModelSpec, worker: Device, unit: Device) -> None:
        super().__init__(model, worker)
        self.unit = unit
        self._unit = DenseCosts.of(model, unit)

    def attention_s(self, layer: int, new: np.ndarray, kv: np.ndarray, mixed: bool = False) -> np.ndarray:
        """[steps, 3] seconds; new tokens and context length of each request, [steps, requests]."""
        works = [work for work in self.model.layer_dense_work(layer, new, kv) if work.kind == "attention"]
        near = self._unit.works_s([joined(work, new == 1) for work in works])
        own = self.works_s([joined(work, new > 1) for work in works])
        slower = near.sum(axis=-1, keepdims=True) > own.sum(axis=-1, keepdims=True)
        return np.asarray(np.where(slower, near, own))
