"""What every policy is given before a run, whatever its role."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import zip_longest
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
    future: the groups of blobs that will be asked for, in order, for clairvoyant policies only;
    levels: of precision; with several, a blob is (level * layers + layer) * experts + expert;
    stored_bits: per weight of an expert as the model stores it;
    training_tasks: task label (or None) of each of the training requests, in their order; tasks: id of each request
    served -> its label.
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
    levels: int = 1
    stored_bits: float = 16.0
    training_tasks: Callable[[], Iterator[str | None]] = field(default=lambda: iter(()))
    tasks: Mapping[int, str | None] = field(default_factory=dict)

    def labelled(self) -> Iterator[tuple[RequestTrace, str | None]]:
        """The training requests with their task labels."""
        return zip_longest(self.training(), self.training_tasks())

    def popularity(self) -> np.ndarray:
        """Selections of every blob in the training requests, int64 [levels * layers * experts]; equal at all levels."""
        counts = np.zeros(self.layers * self.experts, dtype=np.int64)
        offsets = np.arange(self.layers)[None, :, None] * self.experts
        for request in self.training():
            ids = (request.experts + offsets)[request.experts >= 0]
            counts += np.bincount(ids, minlength=len(counts))
        return np.tile(counts, self.levels)

    def layer_of(self, blob: int) -> int:
        """Ordinal of the routed layer that a blob belongs to."""
        return blob // self.experts % self.layers


COMPONENTS = (
    *("plan", "prediction", "placement", "slots", "host_cache", "execution", "prefetch", "cache"),
    *("gating", "precision", "attention", "scheduling"),
)


def component_seed(seed: int, component: str, child: int = 0) -> np.random.SeedSequence:
    """The seed sequence of one component of a run; `child` tells several of a kind apart."""
    return np.random.SeedSequence(entropy=seed, spawn_key=(COMPONENTS.index(component), child))


class Policy:
    """Base of all roles. `bind` is called once, before the run.

    needs, uses   what it sees of the router during the run: "weights", "probabilities". A run whose trace
                  lacks what a policy needs is refused; what it merely uses may be missing.
    hooks         of a role: (hook, flag) of hooks that are called only if the flag is True
    """

    needs: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()
    hooks: tuple[tuple[str, str], ...] = ()

    def bind(self, context: PolicyContext) -> None:
        """Take what is needed from the context; the default needs nothing."""


def unheard_hook(policy: Policy) -> tuple[str, str] | None:
    """A hook that the policy's class overrides though nothing will call it, and the flag that is False; or None.

    Meant as it is: a flag that the instance sets, as by a parameter, or a class below the one with the hook.
    """
    line = type(policy).__mro__
    owner = {name: kind for kind in reversed(line) for name in vars(kind)}
    for role in Policy.__subclasses__():
        if isinstance(policy, role):
            for hook, flag in role.hooks:
                silent = not getattr(policy, flag) and flag not in vars(policy)
                if silent and owner[hook] is not role and line.index(owner[flag]) >= line.index(owner[hook]):
                    return hook, flag
    return None
