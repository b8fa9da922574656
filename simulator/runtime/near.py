"""Experts that run where a memory is: units of a platform (logic dies, NDP modules, a host CPU) beside a worker."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hwmodels import Platform
from hwmodels.efficiency import efficiency
from hwmodels.near_memory import memory_bytes_per_s
from hwmodels.operators import ACTIVATION_BYTES
from simulator.engine import PS_PER_S, Fabric, Lane, Medium, Transfer
from simulator.model import ModelSpec
from simulator.residency import PolicyError
from simulator.runtime.costs import ExpertCosts
from simulator.runtime.near_divided import DIVIDED, DividedUnit
from simulator.runtime.near_regions import Regions
from simulator.runtime.near_tiers import tier_costs

if TYPE_CHECKING:
    from simulator.runtime.worker import Worker

# what the names of lanes end with: of a worker's own launches, of what runs on a unit, of its inputs and results
KERNELS, EXPERTS, ACTIVATIONS = " kernels", " experts", " activations"


class ExpertTraffic:
    """Bytes that an expert moves: on its memory its weights and each token's vectors, or what a unit that cannot keep
    weights reads again (hwmodels.near_memory); on a link the hidden vector of each token, one way."""

    def __init__(self, model: ModelSpec, reuse_flop_per_byte: float = 0.0) -> None:
        one, two = (model.expert_work(tokens) for tokens in (1, 2))
        self.link_bytes_per_token = model.hidden * ACTIVATION_BYTES
        self._vector_bytes = int(two.size_bytes - one.size_bytes)
        self._reread_bytes = float(one.flops) / reuse_flop_per_byte if reuse_flop_per_byte else 0.0

    def of(self, weight_bytes: int, tokens: int) -> int:
        """Bytes on the memory of an expert with such weights that serves so many tokens."""
        return max(weight_bytes + tokens * self._vector_bytes, int(tokens * self._reread_bytes))


class NearUnit:
    """A server of experts where they lie: each is a flow on that memory, capped by what the unit computes and reads.

    lane, lanes   of its experts; (there, back) for activations: all inputs of a layer cross before its first expert
                  begins, all results after its last one; None if the memory is the worker's own
    costs         of its experts, by tier of its memory; tier_of: blob -> tier (None: there is one)
    """

    def __init__(
        self,
        fabric: Fabric,
        lane: Lane,
        costs: Sequence[ExpertCosts],
        sizes: Sequence[int],
        experts: int,
        traffic: ExpertTraffic,
        lanes: tuple[Lane, Lane] | None = None,
        tier_of: Sequence[int] | None = None,
    ) -> None:
        self.fabric, self.lane, self.lanes = fabric, lane, lanes
        self._costs = costs
        self._tier_of = tier_of
        self._sizes = sizes
        self._experts = experts
        self._traffic = traffic

    @property
    def shares_worker_memory(self) -> bool:
        """Whether it computes from the worker's own memory."""
        return self.lanes is None

    def runs_ps(self, blob: int, tokens: int, share: float = 1.0) -> int:
        """How long an expert, or a share of it, takes for so many tokens by itself, without its activations' way."""
        return self.lane.latency_ps + int(share * self._alone_ps(blob, tokens))

    def _alone_ps(self, blob: int, tokens: int) -> int:
        costs = self._costs[self._tier_of[blob] if self._tier_of is not None else 0]
        return costs.alone_ps(blob // self._experts, tokens)

    def vectors_bytes(self, blobs: Sequence[int], tokens: Mapping[int, int]) -> int:
        """Bytes of the inputs, or of the results, of these experts."""
        return self._traffic.link_bytes_per_token * sum(tokens[blob] for blob in blobs)

    def moves_ps(self, tokens: int) -> int:
        """How long the activations of so many tokens take there and back, if nobody else is on the link."""
        if self.lanes is None:
            return 0
        size_bytes = tokens * self._traffic.link_bytes_per_token
        return sum(lane.latency_ps + size_bytes * PS_PER_S // lane.bottleneck for lane in self.lanes)

    def submit(
        self, blobs: Sequence[int], tokens: Mapping[int, int], now_ps: int
    ) -> tuple[list[Transfer], list[Transfer]]:
        """Start experts, in this order. Returns them, and what the layer has to wait for."""
        jobs = [self.job(blob, tokens[blob]) for blob in blobs]
        if self.lanes is None:
            self.fabric.submit_all(self.lane, jobs, now_ps)
            return jobs, jobs[-1:]
        size_bytes = self.vectors_bytes(blobs, tokens)
        inputs, results = (Transfer(-1, size_bytes, True) for _ in range(2))
        inputs.then = [(self.lane, job) for job in jobs]
        for job in jobs:
            job.cause = inputs
        jobs[-1].then = [(self.lanes[1], results)]
        results.cause = jobs[-1]
        self.fabric.submit(self.lanes[0], inputs, now_ps)
        return jobs, [results]

    def job(self, blob: int, tokens: int, share: float = 1.0) -> Transfer:
        """An expert for so many tokens, or a share of it, as a flow: so much of its bytes in so much of its time."""
        size_bytes = max(1, int(share * self._traffic.of(self._sizes[blob], tokens)))
        busy_ps = int(share * self._alone_ps(blob, tokens))
        return Transfer(blob, size_bytes, True, max(1, size_bytes * PS_PER_S // max(1, busy_ps)))


class NearUnits:
    """The units beside one worker, and what they do in the running layer.

    units: by name, DIVIDED among them where several of one memory can share an expert; jobs: experts, or shares of
    them, that run there; experts: how many that are; kernels: a lane of the worker's own launches on its memory, which
    they share with a unit of that memory (None if there is none); regions: of that memory (None if all can read all).
    """

    def __init__(
        self,
        units: Mapping[str, NearUnit | DividedUnit],
        kernels: Lane | None,
        traffic: ExpertTraffic,
        regions: Regions | None = None,
    ) -> None:
        self.units = units
        self.experts = 0
        self._regions = regions
        self._traffic = traffic  # of the worker
        self.jobs: list[Transfer] = []
        self._kernels = kernels
        self._pending: list[Transfer] = []
        self._own = False  # a unit of the worker's memory is at work
        self._away: set[int] = set()

    def submit(
        self,
        parts: Mapping[str, Sequence[int]],
        tokens: Mapping[int, int],
        here: Collection[int],
        now_ps: int,
        shares: Mapping[int, Sequence[float]],
    ) -> None:
        """Start what a split gave to units; here: what the worker's memory holds; shares: of divided experts. Raises
        PolicyError for what cannot be."""
        for name, blobs in parts.items():
            unit = self.units.get(name)
            if unit is None:
                raise PolicyError(f"policy/execution names unit '{name}'; expected one of {', '.join(self.units)}.")
            if not blobs:
                continue
            if unit.shares_worker_memory and not set(blobs) <= set(here):
                raise PolicyError(
                    f"policy/execution runs {sorted(set(blobs).difference(here))} on '{name}', which computes from the"
                    " worker's memory; expected experts that are there."
                )
            if isinstance(unit, DividedUnit):
                jobs, last = unit.submit(blobs, tokens, now_ps, shares)
            else:
                jobs, last = unit.submit(blobs, tokens, now_ps)
            self.jobs += jobs
            self.experts += len(blobs)
            self._pending += last
            if unit.shares_worker_memory:
                self._own = True
                if self._regions is not None:
                    self._regions.unit_reads(blobs, [unit.runs_ps(blob, tokens[blob]) for blob in blobs], now_ps)
            else:
                self._away.update(blobs)

    def parts(
        self,
        units: Mapping[str, Sequence[int]],
        tokens: Mapping[int, int],
        sizes: Sequence[int],
        shares: Mapping[int, Sequence[float]],
    ) -> Iterator[tuple[str, int, int]]:
        """(unit, bytes of weights, tokens) of what a split gave to units; divided experts in parts."""
        for name, blobs in units.items():
            unit = self.units[name]
            if isinstance(unit, DividedUnit):
                served = unit.by_unit(blobs, tokens, shares)
                for member, weights in unit.by_unit(blobs, sizes, shares).items():
                    yield member, weights, served[member]
            else:
                yield name, sum([sizes[blob] for blob in blobs]), sum([tokens[blob] for blob in blobs])

    def elsewhere(self) -> set[int]:
        """Experts of this layer that run from another memory than the worker's."""
        return self._away

    def beside(
        self, worker: Worker, blobs: Sequence[int], tokens: Mapping[int, int] | None, begin_ps: int, end_ps: int
    ) -> Generator[Any, Any, int]:
        """The worker's launch of resident experts while a unit reads the same memory: returns when it ends.

        Its traffic is taken as spread evenly over the launch, and shares the memory max-min with the unit's.
        """
        lane, lasts_ps = self._kernels, end_ps - begin_ps
        if lane is None or not self._own or not lasts_ps:
            return end_ps
        sizes = worker.tier.sizes
        reads = [self._traffic.of(sizes[blob], tokens[blob] if tokens else 1) for blob in blobs]
        read = sum(reads)
        if self._regions is not None:
            self._regions.worker_reads(blobs, reads, lasts_ps)
        size_bytes = max(1, min(read, lane.bottleneck * lasts_ps // PS_PER_S))  # what caches gave is no traffic
        launch = Transfer(-1, size_bytes, True, -(-size_bytes * PS_PER_S // lasts_ps))
        if worker.must_sync(begin_ps):
            yield from worker.sync(begin_ps)
        worker.fabric.submit(lane, launch, begin_ps)
        landed_ps = yield from worker.landed(launch)
        if landed_ps > end_ps:
            worker.path.add(landed_ps, (0, landed_ps - end_ps, 0))
        return max(landed_ps, end_ps)

    def join(self, worker: Worker, now_ps: int) -> Generator[Any, Any, int]:
        """Wait for the results of all units; returns when the last is here."""
        for last in self._pending:
            landed_ps = yield from worker.landed(last)
            if landed_ps > now_ps:
                now_ps = landed_ps
                worker.path.waited_for(last)
        if self._regions is not None:
            apart_ps = self._regions.end_ps()
            if apart_ps > now_ps:
                worker.path.add(apart_ps, (0, apart_ps - now_ps, 0))
                now_ps = apart_ps
        self.jobs, self._pending, self._own, self._away, self.experts = [], [], False, set(), 0
        return now_ps


def near_units(
    platform: Platform,
    worker: str,
    model: ModelSpec,
    row_bytes: list[int],
    fabric: Fabric,
    medium: Callable[[str, float], Medium],
    lane: Callable[[str, str, str, str], Lane],
    wanted: Sequence[int] = (),
) -> NearUnits:
    """The units that a worker may use. medium(name, bytes per second): the one of a memory; lane(name, source,
    destination, category): one over the links between two memories. Lanes of a unit are the same for all workers.
    wanted: blobs in the order in which they get the fast tiers of a memory that has such.
    """
    sizes = [size for size in row_bytes for _ in range(model.experts)]
    own = platform.memory_of(worker).name
    units: dict[str, NearUnit | DividedUnit] = {}
    kernels = None
    for name in platform.units:
        device, memory = platform.device(name), platform.memory_of(name)
        if memory.name not in (own, platform.home):
            continue  # another worker's
        shared = medium(memory.name, memory_bytes_per_s(memory) * efficiency(memory, "copy").memory)
        costs, tier_of = tier_costs(model, row_bytes, device, memory, sizes, wanted)
        lanes = None
        if memory.name == own:
            kernels = kernels or _own_lane(fabric, f"{worker}{KERNELS}", shared, 0, "hbm")
        else:
            kind = platform.route(worker, memory.name)[-1].kind
            lanes = (
                lane(f"{worker}->{memory.name}{ACTIVATIONS}", worker, memory.name, kind),
                lane(f"{memory.name}->{worker}{ACTIVATIONS}", memory.name, worker, kind),
            )
        units[name] = NearUnit(
            fabric,
            _own_lane(fabric, f"{name}{EXPERTS}", shared, costs[0].launch_ps(), device.kind),
            costs,
            sizes,
            model.experts,
            ExpertTraffic(model, device.reuse_flop_per_byte),
            lanes,
            tier_of,
        )
    members = {name: unit for name, unit in units.items() if isinstance(unit, NearUnit)}
    alike = {platform.memory_of(name).name for name in members}
    if len(members) > 1 and len(alike) == 1:
        units[DIVIDED] = DividedUnit(members)
    count = platform.memory_of(worker).regions
    return NearUnits(units, kernels, ExpertTraffic(model), Regions(count, model.experts) if count else None)


def _own_lane(fabric: Fabric, name: str, medium: Medium, latency_ps: int, category: str) -> Lane:
    found = next((lane for lane in fabric.lanes if lane.name == name), None)
    return found or fabric.add_lane(Lane(name, [medium], latency_ps, category=category))
