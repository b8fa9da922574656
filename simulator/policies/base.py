"""What every policy is given before a run, whatever its role."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from traces import RequestTrace


def _no_requests() -> Iterator[RequestTrace]:
    return iter(())


@dataclass
class PolicyContext:
    """Facts of the run, fixed before its first event.

    layers, experts, top_k: routed layers of the trace, experts per layer, experts per token;
    size_bytes: of every blob (blob = layer * experts + expert); capacity_bytes: budget of the
    partition a cache policy rules, 0 for other roles; guess_distances: how many layers ahead the
    trace holds look-ahead guesses; rng: this component's own generator;
    training: requests of the trace that the run does not serve, for policies that learn offline;
    future: the groups of blobs that will be asked for, in order, for clairvoyant policies only.
    """

    layers: int
    experts: int
    top_k: int
    size_bytes: list[int]
    guess_distances: int = 0
    capacity_bytes: int = 0
    rng: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))
    training: Callable[[], Iterator[RequestTrace]] = _no_requests
    future: Callable[[], Iterator[list[int]]] = field(default=lambda: iter(()))

    def popularity(self) -> np.ndarray:
        """Selections of every blob in the training requests, int64 [layers * experts]."""
        counts = np.zeros(self.layers * self.experts, dtype=np.int64)
        offsets = np.arange(self.layers)[None, :, None] * self.experts
        for request in self.training():
            ids = (request.experts + offsets)[request.experts >= 0]
            counts += np.bincount(ids, minlength=len(counts))
        return counts


COMPONENTS = ("plan", "prediction", "placement", "slots", "host_cache", "execution", "prefetch", "cache")


def component_seed(seed: int, component: str, child: int = 0) -> np.random.SeedSequence:
    """The seed sequence of one component of a run; `child` tells several of a kind apart."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(COMPONENTS.index(component), child))


class Policy:
    """Base of all roles. `bind` is called once, before the run."""

    def bind(self, context: PolicyContext) -> None:
        """Take what is needed from the context; the default needs nothing."""
