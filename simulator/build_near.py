"""Assembling the units near memory beside a worker (hwmodels/near_memory.py), if a role asks for them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from hwmodels import Device, Platform
from simulator.engine import Fabric, Lane, Medium
from simulator.model import ModelSpec
from simulator.policies.attention.base import AttentionPolicy
from simulator.policies.execution.base import ExecutionPolicy
from simulator.policies.pipeline.base import PipelinePolicy
from simulator.policies.pipeline.plain import PlainPipeline
from simulator.runtime.near import NearUnits, near_units
from simulator.runtime.near_divided import DIVIDED
from simulator.runtime.ranks import Ranks
from simulator.scenario import Scenario, ScenarioError


def check_units(
    scenario: Scenario, ranks: Ranks, pipeline: PipelinePolicy, attention: AttentionPolicy, execution: ExecutionPolicy
) -> None:
    """Raises ScenarioError, one sentence, for what does not go together with units near memory."""
    platform = scenario.platform
    decodes = any(decode_unit(attention, platform, worker) is not None for worker in platform.workers)
    if not decodes and not execution.uses_units:
        return
    asks = f"policy/attention {type(attention).__name__}" if decodes else f"policy/execution {type(execution).__name__}"
    if type(pipeline) is not PlainPipeline:
        raise ScenarioError(
            f"{asks} uses units near memory, and policy/pipeline {type(pipeline).__name__} has none; expected plain."
        )
    if decodes and scenario.tenants.count > 1:
        raise ScenarioError(
            f"{asks} computes the attention of one model near memory; expected policy/attention=worker for the"
            f" {scenario.tenants.count} instances."
        )
    away = [unit for unit in platform.units if platform.memory_of(unit).name == platform.home]
    if ranks.layout is not None and away:
        raise ScenarioError(
            f"{asks} uses units near memory under a layout, whose GPUs hold slices of experts; expected units over the"
            f" workers' own memories alone, but '{away[0]}' computes from '{platform.home}'."
        )


def decode_unit(attention: AttentionPolicy, platform: Platform, worker: str) -> Device | None:
    """The unit that computes the attention of decoding requests in place of a worker, if one does.

    Raises ScenarioError if that is no unit over the worker's memory.
    """
    own = [unit for unit in platform.units if platform.memory_of(unit).name == platform.memory_of(worker).name]
    unit = attention.decode_on(own)
    if unit is None:
        return None
    if unit == DIVIDED and own:
        return together([platform.device(name) for name in own])
    if unit not in own:
        raise ScenarioError(
            f"policy/attention runs decoding requests on a unit '{unit}'; expected a device of kind ndp over the"
            f" memory of '{worker}', of which platform {platform.name} has {', '.join(own) or 'none'}."
        )
    return platform.device(unit)


def together(units: Sequence[Device]) -> Device:
    """Units of one memory as one with the sum of their rates; its name, and what it costs, are those of the first."""
    peaks = {dtype: sum(unit.peak_flop_per_s[dtype] for unit in units) for dtype in units[0].peak_flop_per_s}
    read = sum(unit.memory_read_bytes_per_s for unit in units)
    return replace(units[0], peak_flop_per_s=peaks, memory_read_bytes_per_s=read)


def make_units(
    scenario: Scenario,
    worker: str,
    execution: ExecutionPolicy,
    model: ModelSpec,
    row_bytes: list[int],
    fabric: Fabric,
    media: dict[str, Medium],
    lane: Callable[[str, str, str, str], Lane],
    wanted: Sequence[int] = (),
) -> NearUnits | None:
    """The units that `execution` may use beside a worker; None if it uses none. `media` are those of the run by name,
    completed here; `wanted` are blobs in the order in which they get fast tiers. Raises ScenarioError if the platform
    has no unit for the worker."""
    if not execution.uses_units:
        return None

    def medium(name: str, bytes_per_s: float) -> Medium:
        if name not in media:
            media[name] = fabric.add_medium(Medium(name, bytes_per_s))
        return media[name]

    platform = scenario.platform
    found = near_units(platform, worker, model, row_bytes, fabric, medium, lane, wanted)
    if not found.units:
        raise ScenarioError(
            f"policy/execution {type(execution).__name__} runs experts on units near memory; platform {platform.name}"
            f" has none for '{worker}' (devices of kind ndp, field `units`)."
        )
    return found
