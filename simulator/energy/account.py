"""The account: what a run moved, computed and waited, each at its price. A pure function of a finished run.

Amounts are priced entry by entry and rounded to whole picojoules, so that any parts that make up the whole sum to it
exactly.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hwmodels import Device
from hwmodels.energy import (
    BITS,
    EnergyUnknown,
    Picojoules,
    background_w,
    flop_pj,
    link_pj_per_bit,
    memory_pj_per_bit,
)
from hwmodels.operators import ACTIVATION_BYTES
from simulator.energy import PHASES
from simulator.energy.mirrored import twin, ways
from simulator.energy.work import HOST, Done, dense_work, expert_work
from simulator.engine import PS_PER_S
from simulator.policies.pipeline.base import Op
from simulator.runtime.collectives import CATEGORY, MESSAGES
from simulator.runtime.near import ACTIVATIONS, EXPERTS

if TYPE_CHECKING:
    from simulator.build import Run

PJ_PER_J = 10**12


@dataclass(frozen=True)
class Entry:
    """One line: where (device or link), by what (read, write, compute, link, background), for which part and phase;
    how much (bytes, operations, or seconds) at which price (pJ per bit or operation; watts), in whole pJ."""

    where: str
    by: str
    part: str
    phase: str
    amount: float
    unit: str
    price: float
    origin: str
    energy_pj: int


@dataclass(frozen=True)
class Measured:
    """What the account takes from a run's records, by phase: ps, tokens, and bytes of experts asked for (decode,
    prefill)."""

    duration_ps: int
    phase_ps: tuple[int, int]
    tokens: tuple[int, int]
    asked_bytes: tuple[int, int]


def account(run: Run, measured: Measured) -> list[Entry]:
    """All entries, warm-up included. Raises EnergyUnknown if a constant is missing that the run needs, or where work is
    not counted."""
    if not run.bounded or run.scenario.pools is not None or run.scenario.portion is not None:
        where = "in pools of several runs" if run.bounded else "where layers stream"
        raise EnergyUnknown(f"work is not counted bottom up {where}")
    entries = [*_computed(run), *_copied(run, measured), *_summed(run), *_background(run, measured)]
    return [entry for entry in entries if entry.amount]


def _bits(device: Device, part: str, phase: int, size_bytes: float, write: bool = False) -> Entry:
    price = memory_pj_per_bit(device, write) if size_bytes else None
    return _entry(device.name, "write" if write else "read", part, phase, size_bytes, "bytes", price, BITS)


def _entry(
    where: str, by: str, part: str, phase: int, amount: float, unit: str, price: Picojoules | None, times: int
) -> Entry:
    if price is None:
        return Entry(where, by, part, PHASES[phase], 0.0, unit, 0.0, "", 0)
    return Entry(
        where, by, part, PHASES[phase], amount, unit, price.value, price.origin, round(amount * times * price.value)
    )


def _computed(run: Run) -> Iterator[Entry]:
    """Attention, products, experts, head; on each GPU for which a worker stands."""
    platform = run.scenario.platform
    for worker, place in zip(run.workers, run.ranks.places, strict=True):
        for done in (*dense_work(worker), *expert_work(worker)):
            if done.where == HOST:
                yield from _priced(run, done, str(platform.cpu))
            else:
                for number, gpu in enumerate(place.gpus):
                    yield from _priced(run, done, twin(run, done.where, number) if done.where else gpu)


def _priced(run: Run, done: Done, name: str) -> Iterator[Entry]:
    device = run.scenario.platform.device(name)
    price = flop_pj(device, done.dtype) if done.flops else None
    yield _entry(name, "compute", done.part, done.phase, done.flops, "operations", price, 1)
    yield _bits(_memory(run, device), done.part, done.phase, done.size_bytes)


def _memory(run: Run, device: Device) -> Device:
    """Whose prices of bits a processor pays: its memory's, or its own where a unit near memory has a way of its own."""
    own = device.kind == "ndp" and (device.memory_technology or device.memory_read_pj_per_bit)
    return device if own else run.scenario.platform.memory_of(device.name)


def _copied(run: Run, measured: Measured) -> Iterator[Entry]:
    """Copies read one memory, cross links and write another; experts on the host CPU or on units near memory read their
    weights in place, and activations go there and back."""
    platform, each = run.scenario.platform, run.ranks.each
    for lane in run.fabric.lanes:
        moved = lane.moved_bytes(measured.duration_ps)
        if lane.name in run.lane_ends:
            experts = lane.category not in (MESSAGES, CATEGORY) and not lane.name.endswith(ACTIVATIONS)
            shares = measured.asked_bytes if experts and any(measured.asked_bytes) else measured.tokens
            for phase, size_bytes in enumerate(split(moved, shares)):
                for src, dst in ways(run, lane):
                    yield from _copy(run, src, dst, phase, size_bytes)
        elif lane.category == "cpu":
            for phase, size_bytes in enumerate(split(moved * each, _host_bytes(run))):
                yield _bits(platform.memory_of(str(platform.cpu)), "experts", phase, size_bytes)
        elif lane.category == "ndp":
            unit = lane.name.removesuffix(EXPERTS)
            for phase, size_bytes in enumerate(split(moved, _near_bytes(run, unit))):
                for number in range(each):
                    device = platform.device(twin(run, unit, number))
                    yield _bits(_memory(run, device), "experts", phase, size_bytes)
    for worker in run.workers:
        for phase, tokens in enumerate(worker.processed.host_tokens):
            size_bytes = tokens * run.scenario.model.hidden * ACTIVATION_BYTES
            if size_bytes:
                for src, dst in ((worker.name, str(platform.cpu)), (str(platform.cpu), worker.name)):
                    yield from _copy(run, src, dst, phase, size_bytes)


def _summed(run: Run) -> Iterator[Entry]:
    """Sums over GPUs whose durations are of fitted models, as the ring that they would be on the links.

    Raises EnergyUnknown for messages to experts with such durations."""
    for rank, worker in enumerate(run.workers):
        collectives = worker.collectives
        if collectives is None or not collectives.calibrated:
            continue
        if any(op is Op.DISPATCH and op in collectives.ops for op, _ in worker.processed.tasks):
            raise EnergyUnknown("messages to experts are not counted under settings.collectives=calibrated")
        for phase in (0, 1):
            tokens, sampled = worker.processed.tokens[phase], worker.processed.sampled[phase]
            parts = [collectives.sent(*task, tokens, sampled) for task in worker.processed.tasks]
            size_bytes = sum(part[0] for part in parts if part is not None)
            for src, dst, _ in run.ranks.ring(rank):
                yield from _copy(run, src, dst, phase, size_bytes)


def _copy(run: Run, src: str, dst: str, phase: int, size_bytes: int) -> Iterator[Entry]:
    platform = run.scenario.platform
    yield _bits(platform.memory_of(src), "transfers", phase, size_bytes)
    for link in platform.route(src, dst):
        price = link_pj_per_bit(link) if size_bytes else None
        yield _entry(link.name, "link", "transfers", phase, size_bytes, "bytes", price, BITS)
    yield _bits(platform.memory_of(dst), "transfers", phase, size_bytes, write=True)


def _host_bytes(run: Run) -> tuple[int, int]:
    decode, prefill = (sum(worker.processed.host_bytes[phase] for worker in run.workers) for phase in (0, 1))
    return decode, prefill


def _near_bytes(run: Run, unit: str) -> tuple[int, int]:
    there = [worker.processed.near[unit][0] for worker in run.workers if unit in worker.processed.near]
    return sum(sizes[0] for sizes in there), sum(sizes[1] for sizes in there)


def split(amount: int, shares: tuple[int, int]) -> tuple[int, int]:
    """A whole amount over decode and prefill, in proportion; the parts sum to it."""
    prefill = amount * shares[1] // sum(shares) if sum(shares) else 0
    return amount - prefill, prefill


def _background(run: Run, measured: Measured) -> Iterator[Entry]:
    idle_ps = measured.duration_ps - sum(measured.phase_ps)
    for device in run.scenario.platform.devices.values():
        power_w = background_w(device)
        for phase, ps in zip(PHASES, (*measured.phase_ps, idle_ps), strict=True):
            origin = device.origin.get("idle_power_w", device.origin.get("others", "assumed"))
            seconds = ps / PS_PER_S
            energy_pj = round(power_w * ps)  # a watt is a picojoule per picosecond
            if power_w:
                yield Entry(
                    device.name, "background", "background", phase, seconds, "seconds", power_w, origin, energy_pj
                )


def total_pj(entries: list[Entry]) -> int:
    """Of all entries."""
    return sum(entry.energy_pj for entry in entries)


def by(entries: list[Entry], key: str) -> dict[str, int]:
    """pJ by a field of the entries, in the order in which values appear; they sum to `total_pj`."""
    sums: dict[str, int] = {}
    for entry in entries:
        sums[getattr(entry, key)] = sums.get(getattr(entry, key), 0) + entry.energy_pj
    return sums
