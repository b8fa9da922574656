"""What the roles `execution` and `prefetch` see of a layer that is about to run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING

from simulator.residency import RESIDENT
from simulator.runtime.near_divided import DIVIDED

if TYPE_CHECKING:
    from simulator.engine import Lane
    from simulator.residency import Tier
    from simulator.routing import Routing
    from simulator.runtime.near import NearUnit
    from simulator.runtime.near_divided import DividedUnit


class LayerWork:
    """Read-only, one object per worker, current during a hook. Blobs are integers, times in ps.

    layer        ordinal of the routed layer; `layers`, `experts`: how many there are
    prefill      whether the step processes a prompt
    blobs        what the layer asks for, in order of access; tokens[blob]: tokens that it serves
    hits, misses of these, what is here, and what is neither here nor coming
    expected     what the prediction names, most likely first; `scores` beside it, or None
    routing      what the router said (weights, probabilities), if the policy asks for it
    """

    __slots__ = (
        "_cpu_ps",
        "_firsts_ps",
        "_lane",
        "_near",
        "_run_ps",
        "_tier",
        "blobs",
        "expected",
        "experts",
        "hits",
        "layer",
        "layers",
        "misses",
        "prefill",
        "routing",
        "scores",
        "tokens",
    )

    def __init__(
        self,
        tier: Tier,
        lane: Lane,
        routing: Routing,
        run_ps: Callable[[int, Sequence[int]], int],
        cpu_ps: Callable[[int, int], int] | None,
        near: Mapping[str, NearUnit | DividedUnit] = MappingProxyType({}),
        firsts_ps: Callable[[int, Sequence[int]], Sequence[int]] | None = None,
    ) -> None:
        self._near, self._firsts_ps = near, firsts_ps
        self._tier, self._lane, self._run_ps, self._cpu_ps = tier, lane, run_ps, cpu_ps
        self.routing = routing
        self.layers = tier.layers
        self.experts = len(tier.slots) // len(tier.partitions)
        self.layer = -1
        self.prefill = False
        self.blobs: Sequence[int] = ()
        self.hits: Sequence[int] = ()
        self.misses: Sequence[int] = ()
        self.tokens: Mapping[int, int] = {}
        self.expected: Sequence[int] = ()
        self.scores: Sequence[float] | None = None

    def layer_of(self, blob: int) -> int:
        """Ordinal of the routed layer that a blob belongs to."""
        return blob // self.experts % self.layers

    def distance(self, blob: int) -> int:
        """How many layers on a blob's layer runs next: 1 for the next one, `layers` for the running one."""
        return (self.layer_of(blob) - self.layer - 1) % self.layers + 1

    def resident(self, blob: int) -> bool:
        """Whether a blob is here."""
        slot = self._tier.slots[blob]
        return slot is RESIDENT or (slot is not None and slot.landed_ps is not None)  # type: ignore[union-attr]

    def here_or_coming(self, blob: int) -> bool:
        """Whether a blob is here, or on its way."""
        return self._tier.slots[blob] is not None

    def size_bytes(self, blob: int) -> int:
        """Size of a blob in bytes."""
        return self._tier.sizes[blob]

    @property
    def queued(self) -> int:
        """Transfers that wait or run on the copy lane."""
        return self._lane.queue_depth

    @property
    def queued_ps(self) -> int:
        """How long what waits or runs on the copy lane takes, if nobody else uses its media."""
        lane = self._lane
        return lane.pending_bytes * 10**12 // lane.bottleneck + lane.queue_depth * lane.latency_ps

    def fetch_ps(self, blob: int) -> int:
        """How long a blob takes to be copied here, if nothing else is under way."""
        size = self._tier.sizes[blob]
        return self._lane.latency_ps + size * 10**12 // self._lane.best_rate_at(size)

    def run_ps(self, blob: int, tokens: int = 1) -> int:
        """How long a blob that is here runs for so many tokens, by itself."""
        return self._run_ps(blob // self.experts, (tokens,))

    def run_together_ps(self, layer: int, tokens: Sequence[int]) -> int:
        """How long experts of a layer that are here run as one launch, for the given tokens each."""
        return self._run_ps(layer, tokens)

    def run_firsts_ps(self, layer: int, tokens: Sequence[int]) -> Sequence[int]:
        """[n]: as `run_together_ps` of the first n of these, n from 0 to all; cheaper than to ask for each."""
        if self._firsts_ps is not None:
            return self._firsts_ps(layer, tokens)
        return [self._run_ps(layer, tokens[:count]) for count in range(len(tokens) + 1)]

    def cpu_ps(self, blob: int, tokens: int = 1) -> int:
        """How long a blob runs for so many tokens on the host CPU. Raises ValueError where there is none."""
        if self._cpu_ps is None:
            raise ValueError(
                "the policy asks for the host CPU's times (`cpu_ps`) without `uses_cpu = True`, or the machine has no"
                " host CPU."
            )
        return self._cpu_ps(blob // self.experts, tokens)

    @property
    def units(self) -> tuple[str, ...]:
        """Names of the units near memory, in the order of the platform's file; none without `uses_units`."""
        return tuple(name for name in self._near if name != DIVIDED)

    @property
    def divides(self) -> bool:
        """Whether experts can be divided over all units, which are then addressed as "divided"."""
        return DIVIDED in self._near

    def runs_on(self, unit: str) -> list[int]:
        """Blobs of the layer that a unit can run where they lie, in order of access: resident ones for a unit over the
        worker's own memory; for one over the experts' home also what is missing."""
        if self._near[unit].shares_worker_memory:
            return list(self.hits)
        able = {*self.hits, *self.misses}
        return [blob for blob in self.blobs if blob in able]

    def unit_ps(self, unit: str, blob: int, tokens: int = 1) -> int:
        """How long a blob runs for so many tokens on a unit, by itself, without its activations' way."""
        return self._near[unit].runs_ps(blob, tokens)

    def activations_ps(self, unit: str, tokens: int) -> int:
        """How long the inputs and results of so many tokens take to a unit and back, if nobody else is on the link."""
        return self._near[unit].moves_ps(tokens)
