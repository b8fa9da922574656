from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.policies.base import PolicyContext
from simulator.policies.prediction.base import PredictionPolicy
from simulator.routing import Routing
from simulator.tenants.identity import Identity


class OwnRouting(Routing):
    """What one instance's router said in the step that runs, by its own numbers. No rows if it has no token there."""

    __slots__ = ("_identity", "_instance", "_whole")

    def __init__(self, whole: Routing, identity: Identity, instance: int) -> None:
        self._whole, self._identity, self._instance = whole, identity, instance

    @property
    def requests(self) -> list[int]:
        """Ids of the instance's requests in the step."""
        step = self._whole._now()
        pairs = zip(step.requests, step.block.instances, strict=True)
        return [request for request, instance in pairs if instance == self._instance]

    def ids(self, layer: int) -> np.ndarray:
        """As `Routing.ids`."""
        return self._identity.own(self._whole.ids(layer)[self._rows()], self._instance)

    def instances(self) -> np.ndarray:
        """As `Routing.instances`."""
        return self._whole.instances()[self._rows()]

    def weights(self, layer: int) -> np.ndarray:
        """As `Routing.weights`."""
        return self._whole.weights(layer)[self._rows()]

    def probabilities(self, layer: int) -> np.ndarray | None:
        """As `Routing.probabilities`, of the instance's experts."""
        found = self._whole.probabilities(layer)
        return None if found is None else found[self._rows()][:, self._identity.table[self._instance]]

    def _rows(self) -> np.ndarray:
        return np.flatnonzero(self._whole.instances() == self._instance)


class OwnForecasts(PredictionPolicy):
    """A prediction that is asked in every step, for each instance its own: each names experts of its model alone.

    All learn from the same requests, those that are not served. What several name is named once, by its place in
    the pool, without scores.
    """

    by_step = True

    def __init__(self, policies: Sequence[PredictionPolicy], identity: Identity) -> None:
        self._policies, self._identity = list(policies), identity
        self.clairvoyant, self.needs, self.uses = policies[0].clairvoyant, policies[0].needs, policies[0].uses

    def bind(self, context: PolicyContext) -> None:
        """`context`: that of one instance."""
        for policy in self._policies:
            policy.bind(context)

    def expect(self, layer: int, routing: Routing) -> tuple[Sequence[int], Sequence[float] | None]:
        """As `PredictionPolicy.expect`."""
        identity, named = self._identity, dict[int, None]()
        for instance, policy in enumerate(self._policies):
            blobs, _ = policy.expect(layer, OwnRouting(routing, identity, instance))
            layers, experts = np.divmod(np.array(blobs, dtype=np.int64), identity.experts)
            places = layers * identity.pool + identity.table[instance][experts]
            named.update(dict.fromkeys(places.tolist()))
        return list(named), None
