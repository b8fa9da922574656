"""A memory whose parts are unlike fast, and which expert lies in which."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from hwmodels import Device
from simulator.model import ModelSpec
from simulator.runtime.costs import ExpertCosts


def tier_costs(
    model: ModelSpec,
    row_bytes: list[int],
    device: Device,
    memory: Device,
    sizes: Sequence[int],
    wanted: Sequence[int] = (),
) -> tuple[list[ExpertCosts], list[int] | None]:
    """Costs of experts on a unit for each tier of its memory, and the tier of each blob (None without tiers).

    Tiers have equal parts of the memory's capacity and are filled in the order of the device's list, first with
    `wanted`, most wanted first, then with all others by number. What else the memory holds is taken to lie in the
    slowest ones, and in a memory that is too small the last tier takes the rest.
    """
    rates = device.tier_bytes_per_s
    if not rates:
        return [ExpertCosts(model, row_bytes, device)], None
    room_bytes = max(1, memory.memory_capacity_bytes // len(rates))
    order = dict.fromkeys([*wanted, *range(len(sizes))])
    tier_of, used_bytes = [0] * len(sizes), 0
    for blob in order:
        tier_of[blob] = min(used_bytes // room_bytes, len(rates) - 1)
        used_bytes += sizes[blob]
    costs = [ExpertCosts(model, row_bytes, replace(device, memory_read_bytes_per_s=rate)) for rate in rates]
    return costs, tier_of
