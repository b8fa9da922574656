from __future__ import annotations

import numpy as np

from simulator.policies.gating.base import GatingPolicy
from simulator.routing import Choice, Routing
from simulator.tenants.identity import Identity


class OwnChoice(Choice):
    """What one instance's router chose in a layer, by its own numbers."""

    __slots__ = ("_places", "_whole")

    def __init__(self, whole: Choice, rows: np.ndarray, identity: Identity, instance: int) -> None:
        self.layer, self.prefill = whole.layer, whole.prefill
        self.ids = identity.own(whole.ids[rows], instance)
        self.weights = whole.weights[rows]
        self._places = identity.table[instance]
        probabilities = whole.probabilities
        self.probabilities = None if probabilities is None else probabilities[rows][:, self._places]
        guessed = identity.own(np.array(whole.guessed, dtype=np.int64), instance)
        self.guessed = guessed[guessed >= 0].tolist()
        self._whole = whole

    def resident(self, coming: bool = True) -> np.ndarray:
        """As `Choice.resident`, of the instance's experts."""
        found: np.ndarray = self._whole.resident(coming)[self._places]
        return found


class OwnExperts(GatingPolicy):
    """A gating policy that decides for each instance by itself, so that tokens stay with their own model's experts."""

    chooses = True

    def __init__(self, policy: GatingPolicy, identity: Identity, routing: Routing) -> None:
        self._policy, self._identity, self._routing = policy, identity, routing

    def choose(self, choice: Choice) -> tuple[np.ndarray, np.ndarray]:
        """As the policy would for each instance alone."""
        ids, weights = choice.ids.copy(), np.array(choice.weights)
        instances = self._routing.instances()
        for instance in np.unique(instances).tolist():
            rows = np.flatnonzero(instances == instance)
            own, weights[rows] = self._policy.choose(OwnChoice(choice, rows, self._identity, instance))
            ids[rows] = np.where(own >= 0, self._identity.table[instance][np.maximum(own, 0)], -1)
        return ids, weights
