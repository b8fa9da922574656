"""Past routings that a running one is compared with, and when a request's own join them."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from traces import RequestTrace


class Collection:
    """At most `capacity` maps, [layers, experts] of numbers that are not negative, with an embedding each or none.

    A map that comes when it is full takes the place of the most similar one, so that each stands for those
    like it. Similarity is the cosine of the flattened maps; of embeddings, where there are any, for the share
    `embedding_weight`: the redundancy score of FineMoE (arXiv 2502.05370; memory/expert_map.py of its repository).
    """

    def __init__(self, capacity: int, layers: int, experts: int, embedding_weight: float = 0.0) -> None:
        self.capacity, self.count = capacity, 0
        self._shape = (layers, experts)
        self._weight = embedding_weight
        self._maps = np.zeros((0, layers, experts), dtype=np.float32)
        self._norms = np.zeros(0, dtype=np.float32)  # of whole maps
        self._embeddings: np.ndarray | None = None  # of length 1

    @property
    def maps(self) -> np.ndarray:
        """What it holds, float32 [count, layers, experts]."""
        return self._maps[: self.count]

    def add(self, maps: Iterable[np.ndarray], embedding: np.ndarray | None = None) -> None:
        """Take in maps, one after the other, of a request with this embedding."""
        unit = None if embedding is None else _unit(np.nan_to_num(embedding))
        for one in maps:
            at = self.count
            if self.count == self.capacity:
                at = int(np.argmax(np.round(self._redundancy(one, unit), 6)))
            elif self.count == len(self._maps):
                more = min(self.capacity, 2 * self.count + 8)
                self._maps = np.resize(self._maps, (more, *self._shape))
                self._norms = np.resize(self._norms, more)
            self._maps[at] = one
            self._norms[at] = np.linalg.norm(one)
            if unit is not None:
                if self._embeddings is None:
                    self._embeddings = np.zeros((self.capacity, len(unit)))
                self._embeddings[at] = unit
            self.count = max(self.count, at + 1)

    def _redundancy(self, one: np.ndarray, unit: np.ndarray | None) -> np.ndarray:
        flat = np.asarray(one, dtype=np.float32).ravel()
        likeness = self.maps.reshape(self.count, -1) @ flat
        likeness /= np.maximum(self._norms[: self.count] * np.linalg.norm(flat), 1e-12)
        if unit is None:
            return likeness
        return (1 - self._weight) * likeness + self._weight * self.like_embedding(unit)

    def like_embedding(self, embedding: np.ndarray) -> np.ndarray:
        """Cosine of an embedding with that of each map, [count]; zeros where none were given."""
        if self._embeddings is None:
            return np.zeros(self.count)
        return self._embeddings[: self.count] @ _unit(np.nan_to_num(embedding))

    def likeness(self, maps: np.ndarray) -> Iterator[np.ndarray]:
        """Cosine of the first layers of maps [n, layers, experts] with those of each that it holds.

        Yields [n, count] in [0, 1] for the first layer, then for the first two, and so on, in millionths rounded
        to whole ones, so that ties are the same on every machine.
        """
        dots = np.zeros((len(maps), self.count))
        own, theirs = np.zeros(len(maps)), np.zeros(self.count)
        for layer in range(self._shape[0]):
            here = self.maps[:, layer].astype(np.float64)
            rows = maps[:, layer].astype(np.float64)
            dots += rows @ here.T
            own += (rows * rows).sum(axis=1)
            theirs += (here * here).sum(axis=1)
            lengths = np.sqrt(own)[:, None] * np.sqrt(theirs)[None, :]
            yield np.rint(1e6 * np.clip(dots / np.maximum(lengths, 1e-12), 0.0, 1.0)) / 1e6


class Running:
    """What is gathered of requests while they run, handed over when they have ended.

    concurrent: how many run at once (the batch size); a request has ended when so many have begun after it.
    """

    def __init__(self, concurrent: int) -> None:
        if concurrent < 1:
            raise ValueError(f"policy.prediction.concurrent is {concurrent}; expected at least 1, the batch size.")
        self._concurrent = concurrent
        self._open: OrderedDict[int, tuple[int, Any]] = OrderedDict()  # last position, what is gathered

    def enter(self, rows: RequestTrace, begin: Callable[[], Any]) -> tuple[Any, list[Any]]:
        """What is gathered of a request (`begin()` at its start), and of those that ended before it began."""
        known = self._open.get(rows.id)
        ended = []
        if known is None or int(rows.positions[0]) <= known[0]:  # it begins, or begins again
            self._open.pop(rows.id, None)
            known = (-1, begin())
            while len(self._open) >= self._concurrent:
                ended.append(self._open.popitem(last=False)[1][1])
        self._open[rows.id] = (int(rows.positions[-1]), known[1])
        return known[1], ended


def one_hot(experts: np.ndarray, count: int, weights: np.ndarray | None = None) -> np.ndarray:
    """Expert ids [tokens, layers, top_k] (-1: none) -> [tokens, layers, count] of ones, or of their weights."""
    tokens, layers, _ = experts.shape
    found = np.zeros((tokens, layers, count + 1), dtype=np.float32)
    values = 1.0 if weights is None else np.nan_to_num(weights)
    found[np.arange(tokens)[:, None, None], np.arange(layers)[None, :, None], experts] = values
    return found[:, :, :count]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / max(float(np.linalg.norm(vector)), 1e-12)
