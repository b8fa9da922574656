"""Which expert of which instance is which blob."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from simulator.served import PlanError, Served
from simulator.tenants.spec import Tenants
from traces import RequestTrace
from traces.workloads import RequestList

MOST = np.iinfo(np.int16).max  # experts of a layer that a trace's ids can tell apart


class Identity:
    """For I instances of E experts per layer, of which S are shared: a layer's pool holds S shared experts, then the
    E - S of each instance in turn.

    table   int16 [I, E], an instance's expert -> its place in the pool, the same in all layers
    pool    distinct experts of a layer, S + I (E - S)
    """

    def __init__(self, instances: int, experts: int, unique: int) -> None:
        self.instances, self.experts = instances, experts
        shared = experts - unique
        self.pool = shared + instances * unique
        own = np.arange(experts) + unique * np.arange(instances)[:, None]
        self.table = np.where(np.arange(experts) < shared, np.arange(experts), own).astype(np.int16)

    @classmethod
    def of(cls, tenants: Tenants, experts: int) -> Identity | None:
        """That of a run; None for one instance. Raises PlanError for what cannot be."""
        for name, value, least, most in (
            ("count", tenants.count, 1, MOST),
            ("unique_experts", tenants.unique_experts, 0, experts),
        ):
            if not least <= value <= most:
                raise PlanError(f"tenants.{name} is {value}; expected from {least} to {most}.")
        if tenants.count == 1:
            return None
        found = cls(tenants.count, experts, tenants.unique_experts if tenants.deduplicate else experts)
        if found.pool > MOST:
            raise PlanError(
                f"tenants.count is {tenants.count}, which makes {found.pool} distinct experts in a layer; expected at"
                f" most {MOST}."
            )
        return found

    def dealt(self, served: Sequence[Served], listed: RequestList | None) -> list[Served]:
        """The requests with their instances: by the names of the list's tenants, in order of first mention, or in turn.

        Raises PlanError if the list names more tenants than there are instances, or only some requests' tenants.
        """
        names = listed.tenant if listed is not None else ()
        known = [name for name in dict.fromkeys(names) if name is not None]
        if not known:
            return [replace(request, instance=place % self.instances) for place, request in enumerate(served)]
        if None in names:
            raise PlanError(
                f"workload.file: row {names.index(None) + 1} names no tenant, but other rows do; expected one in"
                " each, or in none (then requests are dealt in turn)."
            )
        if len(known) > self.instances:
            raise PlanError(
                f"workload.file names {len(known)} tenants, but tenants.count is {self.instances}; expected at least as"
                " many instances."
            )
        place_of = {name: place for place, name in enumerate(known)}
        return [replace(request, instance=place_of[str(names[request.id])]) for request in served]

    def rows(self, request: RequestTrace, instance: int) -> RequestTrace:
        """A request's routing by places in the pool; what its instance has no expert for has probability 0."""
        row = self.table[instance]

        def placed(ids: np.ndarray) -> np.ndarray:
            return np.where(ids >= 0, row[np.maximum(ids, 0)], -1).astype(ids.dtype)

        probabilities = request.probabilities
        if probabilities is not None:
            wide = np.zeros((*probabilities.shape[:-1], self.pool), dtype=probabilities.dtype)
            wide[..., row] = probabilities
            probabilities = wide
        guesses = request.guesses
        return replace(
            request,
            experts=placed(request.experts),
            guesses=None if guesses is None else placed(guesses),
            probabilities=probabilities,
        )

    def own(self, ids: np.ndarray, instance: int) -> np.ndarray:
        """Places in the pool as the instance's own numbers, -1 for what is not its own."""
        back = np.full(self.pool + 1, -1, dtype=np.int64)  # the last for -1
        back[self.table[instance]] = np.arange(self.experts)
        found: np.ndarray = back[ids]
        return found
