"""Static gating: every worker sends every expert the same number of rows, padded or cut to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from simulator.dispatch.base import Dispatch
from simulator.dispatch.capacity import beyond_capacity, capacity_rows, waste_factor
from simulator.dispatch.work import einsum_works, mask_work, scatter_works, static_bytes
from simulator.model import ModelSpec
from simulator.plan import Group, Step
from simulator.routing import weight_shares
from simulator.runtime.exchange import Exchange


class StaticDispatch(Dispatch):
    """Capacity is `ceil(fraction * T)` rows of each worker for each expert, T the tokens of the worker that has most:
    the others pad their tokens to that, as the shapes of an all-to-all must agree (moe_layer.py of fairseq).

    einsum: rows are moved by dense products with masks [T, E, C], else by index.
    """

    uses_padding = True

    def __init__(
        self, model: ModelSpec, workers: int, fraction: float, einsum: bool = True, sequential: bool = True
    ) -> None:
        super().__init__(model, workers, sequential)
        self.fraction, self.einsum = fraction, einsum

    def capacity(self, step: Step) -> int:
        """Rows of each worker for each expert in a step."""
        return capacity_rows(max(self.worker_tokens(step)), self.fraction)

    def rewrite(self, step: Step) -> Step:
        """All experts run the rows of all workers; the weight of what is beyond the capacity is lost."""
        experts, rows = self.model.experts, self.workers * self.capacity(step)
        groups: list[Group] = [
            (list(range(layer * experts, (layer + 1) * experts)), [rows] * experts) for layer in range(len(step.groups))
        ]
        lost = self._lost(step)
        return replace(step, groups=groups, lost=lost if step.lost is None else step.lost + lost)

    def works(self, tokens):
        """See `Dispatch.works`; without einsum, rows are written into a buffer of E*C of them."""
        model, capacity = self.model, capacity_rows(tokens, self.fraction)
        if not self.einsum:
            both = scatter_works(tokens, model.experts * capacity, model.top_k, model.hidden, model.dtype)
            return both[:1], both[1:]
        into, back = einsum_works(tokens, model.experts, capacity, model.hidden, model.dtype)
        return (mask_work(tokens, model.experts, capacity, model.top_k, model.dtype), into), (back,)

    def activation_bytes(self, tokens):
        """See `Dispatch.activation_bytes`."""
        model = self.model
        shape = (model.top_k, model.hidden, model.expert_intermediate, self.workers, self.einsum)
        return static_bytes(tokens, model.experts, capacity_rows(tokens, self.fraction), *shape)

    def exchange(self, *parts):
        """See `Dispatch.exchange`."""
        return PaddedExchange(self, *parts)

    def remark(self):
        """See `Dispatch.remark`."""
        waste = waste_factor(self.model.experts, self.model.top_k, self.fraction)
        return (
            f"static gating: every expert runs {self.fraction:g} of each worker's tokens, padded, in all {waste:.4g}"
            " times the routed rows"
        )

    def _lost(self, step: Step) -> np.ndarray:
        """Gate weight dropped, summed over tokens, [layers, 2]."""
        capacity, layers = self.capacity(step), len(step.groups)
        lost = np.zeros((layers, 2))
        places = range(len(step.rows))
        for rank in range(self.workers):
            mine = [place for place in places if step.block.slots[place] % self.workers == rank]
            if not mine:
                continue
            ids = np.concatenate([step.rows[place] for place in mine])  # [tokens, layers, k]
            weights = np.concatenate([step.weights[place] for place in mine]) if step.weights else np.ones(ids.shape)
            for layer in range(layers):
                full = beyond_capacity(ids[:, layer], capacity)
                if full.any():
                    lost[layer, 0] += weight_shares(ids[:, layer], weights[:, layer])[full].sum()
        return lost


class PaddedExchange(Exchange):
    """Every worker sends every other one a full buffer, there and back."""

    def __init__(self, dispatch: StaticDispatch, *parts: Any) -> None:
        super().__init__(*parts)
        self._dispatch = dispatch
        owned = [np.bincount(owners, minlength=self._workers) for owners in self._owners]
        self._owned = np.array(owned)[:, None, :] * (1 - np.eye(self._workers, dtype=np.int64))  # [layer, src, dst]

    def message_bytes(self, number: int, step: Step) -> list[list[list[int]]]:
        """Bytes of rows [layer][src][dst] from worker to worker in step `number`, own excluded."""
        sizes = self._message_bytes.get(number)
        if sizes is None:
            size = self._dispatch.capacity(step) * self._hidden_bytes
            sizes = self._message_bytes[number] = (self._owned * size).tolist()
        return sizes
