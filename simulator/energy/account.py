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
from simulator.energy import PHASES
from simulator.energy.work import Done, dense_work, expert_work
from simulator.engine import PS_PER_S

if TYPE_CHECKING:
    from simulator.build import Run

PJ_PER_J = 10**12
ACTIVATION_BYTES = 2


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
    """All entries, warm-up included. Raises EnergyUnknown if a constant is missing that the run needs."""
    if run.ranks.layout is not None or run.scenario.tenants.count > 1 or not run.bounded:
        what = "layouts of several GPUs, several instances and streamed layers"
        raise EnergyUnknown(f"work is not counted bottom up for {what}.")
    entries = [*_computed(run), *_copied(run, measured), *_background(run, measured)]
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
    """Attention, products, experts, head."""
    platform, model = run.scenario.platform, run.scenario.model
    for worker in run.workers:
        for done in (*dense_work(worker, model), *expert_work(run, worker)):
            processor = platform.device(worker.name)
            if done.on_host:
                assert platform.cpu is not None
                processor = platform.device(platform.cpu)
            yield from _priced(done, processor, platform.memory_of(processor.name))


def _priced(done: Done, processor: Device, memory: Device) -> Iterator[Entry]:
    price = flop_pj(processor, done.dtype) if done.flops else None
    yield _entry(processor.name, "compute", done.part, done.phase, done.flops, "operations", price, 1)
    yield _bits(memory, done.part, done.phase, done.size_bytes)


def _copied(run: Run, measured: Measured) -> Iterator[Entry]:
    """Copies read one memory, cross links and write another; experts on the host CPU read their weights in place, and
    activations go there and back."""
    platform = run.scenario.platform
    for lane in run.fabric.lanes:
        moved = lane.moved_bytes(measured.duration_ps)
        if lane.name in run.lane_ends:
            src, dst = run.lane_ends[lane.name]
            by_need = lane.category != "all_to_all" and any(measured.asked_bytes)
            shares = measured.asked_bytes if by_need else measured.tokens
            for phase, size_bytes in enumerate(_split(moved, shares)):
                yield from _copy(run, src, dst, phase, size_bytes)
        elif platform.cpu is not None:
            asked = _host_bytes(run)
            for phase, size_bytes in enumerate(_split(moved, asked)):
                yield _bits(platform.memory_of(platform.cpu), "experts", phase, size_bytes)
    for worker in run.workers:
        for phase, tokens in enumerate(worker.processed.host_tokens):
            assert platform.cpu is not None or not tokens
            size_bytes = tokens * run.scenario.model.hidden * ACTIVATION_BYTES
            if size_bytes:
                for src, dst in ((worker.name, str(platform.cpu)), (str(platform.cpu), worker.name)):
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


def _split(amount: int, shares: tuple[int, int]) -> tuple[int, int]:
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
