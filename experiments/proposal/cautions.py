"""What to know before believing a proposal: plain warnings about the machine's file and about what was run."""

from __future__ import annotations

import math
from collections.abc import Iterator

from experiments.proposal.sides import Side
from experiments.proposal.study import WHOLE, Study
from hwmodels import Device, Platform
from hwmodels.constants import constants
from hwmodels.datasheet import datasheet
from hwmodels.efficiency import efficiency
from hwmodels.near_memory import exceeds_pins, memory_bytes_per_s, pin_bytes_per_s
from hwmodels.predict import fitted
from hwmodels.units import format_quantity


def cautions(study: Study) -> list[str]:
    """One sentence or two each, the gravest kind first."""
    platform = study.box.platform
    found = [*pins(platform), *beyond(platform), *_few(study), *_fits(study), *_failed(study)]
    return [*found, *_assumed(platform), *_unlimited(platform), *_other(study)]


def pins(platform: Platform) -> Iterator[str]:
    """Memories that give more inside than their pins and rate allow, and those that do not say."""
    units = {platform.devices[unit].memory for unit in platform.units}
    for name, device in platform.devices.items():
        if device.data_pins:
            if exceeds_pins(device):
                yield (
                    f"**{name} gives {_rate(memory_bytes_per_s(device))} inside, but its {device.data_pins} pins at"
                    f" {format_quantity(device.pin_rate_hz, 'hz')} allow {_rate(pin_bytes_per_s(device))}** (a bit per"
                    " pin and transfer)."
                )
        elif name in units and device.kind == "dram":
            yield (
                f"{name} does not say over how many wires it gives {_rate(memory_bytes_per_s(device))} inside"
                " (`data_pins`, `pin_rate_hz`), so this could not be checked."
            )


def beyond(platform: Platform) -> Iterator[str]:
    """Units whose roofline goes beyond every GPU whose kernels were measured."""
    measured = {name for group in fitted("moe").groups.values() for name in group["devices"]}
    sheets = {name: datasheet(name) for name in sorted(measured)}
    rates = {name: sheet.memory_read_bytes_per_s for name, sheet in sheets.items()}
    peaks = {name: _peak(sheet.peak_flop_per_s) for name, sheet in sheets.items()}
    ridges = {name: peaks[name] / rates[name] for name in sheets if peaks[name]}
    for name in platform.units:
        unit = platform.devices[name]
        if unit.kind != "ndp":
            continue
        rate, peak = unit.memory_read_bytes_per_s, _peak(unit.peak_flop_per_s)
        for what, value, known, shown in (
            ("reads", rate, rates, _rate),
            ("computes", peak, peaks, lambda number: format_quantity(number, "flop_per_s")),
        ):
            best = max(known, key=lambda sheet: known[sheet])
            if value > known[best]:
                yield (
                    f"**{name} {what} {shown(value)}, beyond any device that was measured here** ({best}:"
                    f" {shown(known[best])}): no kernel was ever measured at such a rate."
                )
        most = max(ridges, key=lambda key: ridges[key])
        if peak / rate > ridges[most]:
            yield (
                f"**{name} has {peak / rate:.3g} FLOP for each byte that it can read, more than any GPU that was"
                f" measured** ({most}: {ridges[most]:.3g}): nothing says how much of its peak it reaches."
            )


def _fits(study: Study) -> Iterator[str]:
    """Machines whose workers hold every expert: nothing is missing there, so there is nothing to win."""
    case = study.cases[0]
    for side in study.sides:
        outcome = study.outcome(side, case, WHOLE)
        if outcome is not None and outcome.value("hit_rate") == 1.0 and outcome.value("load_bytes") == 0:
            yield (
                f"With all its memory {side.label} held every expert that was asked for ({case.words}). Against that a"
                " machine can win by computing beside the GPU, but not by holding more: for that, take a larger model."
            )


def _few(study: Study) -> Iterator[str]:
    """Workloads that the trace has not the requests for."""
    for case in study.cases:
        outcome, asked = study.outcome(study.box, case), case.changes["workload.requests"]
        ran = math.nan if outcome is None else outcome.value("requests")
        if ran < asked:
            yield (
                f"**{case.words} ran with {ran:.0f} of {asked} requests**: the trace has no more, so larger"
                " batches, those of section 4 too, are batches of as many."
            )


def _failed(study: Study) -> Iterator[str]:
    """Machines on which a case does not run at all, such as for want of capacity."""
    for side in study.sides:
        for case in study.cases:
            if study.outcome(side, case) is None:
                errors = [
                    study.systems[side.label, system, case.name, study.main].error
                    for system in side.systems
                    if (side.label, system, case.name, study.main) in study.systems
                ]
                yield f"**{case.words} does not run on {side.label}**: {errors[0] if errors else 'no system is named.'}"


def _assumed(platform: Platform) -> Iterator[str]:
    """Efficiencies of units that nobody measured, and how many constants are assumed."""
    for name in platform.units:
        unit = platform.devices[name]
        if unit.kind == "ndp" and "grouped_gemm" not in unit.memory_efficiency:
            found = efficiency(unit, "grouped_gemm")
            yield (
                f"{name} is taken to reach {found.memory:.0%} of its bandwidth and {found.compute:.0%} of its peak in"
                " experts. These are assumptions (`hwmodels/efficiency.py`); state `memory_efficiency` and"
                " `compute_efficiency` if you know better."
            )
    known = constants(platform)
    assumed = [constant for constant in known if constant.origin == "assumed"]
    if assumed:
        yield (
            f"{len(assumed)} of the {len(known)} constants of the machine are assumed, or their `origin` is not stated;"
            " the intervals of section 5 draw each of these with a standard deviation of 20 %."
        )


def _unlimited(platform: Platform) -> Iterator[str]:
    for name in platform.units:
        unit = platform.devices[name]
        if unit.kind == "ndp" and not unit.reuse_flop_per_byte:
            yield (
                f"{name} states no `reuse_flop_per_byte`: its buffers are taken to keep every weight until all tokens"
                " have used it."
            )


def _other(study: Study) -> Iterator[str]:
    """Differences between machines that have nothing to do with the proposal, and remarks of platforms."""
    mine = _gpus(study.box)
    for rival in study.rivals:
        theirs = _gpus(rival)
        if mine != theirs:
            yield (
                f"{study.box.label} computes on {mine}, {rival.label} on {theirs}: part of the difference is theirs."
            )
        fitted_there = [_fitted(side) for side in (study.box, rival)]
        if fitted_there[0] != fitted_there[1]:
            one, other = (study.box, rival) if fitted_there[0] else (rival, study.box)
            yield (
                f"Kernels of {one.label} are timed by models fitted to measurements, with launches, those of"
                f" {other.label} at fixed shares of its datasheet: part of the difference is in the timing."
            )
    hosts = {side.label: any(device.kind == "cpu" for device in side.platform.devices.values()) for side in study.sides}
    if any(hosts.values()) and not all(hosts.values()):
        without = ", ".join(label for label, there in hosts.items() if not there)
        yield f"The file of {without} has no host CPU: its energy in section 1 lacks what one draws."
    for remark in study.remarks:
        yield f"The trace: {remark}."
    for side in study.sides:
        if side.platform.remark:
            yield f"{side.label}: {side.platform.remark}."


def _fitted(side: Side) -> bool:
    return all(side.platform.devices[name].engine for name in side.platform.workers)


def _gpus(side: Side) -> str:
    devices: list[Device] = [side.platform.devices[name] for name in side.platform.workers]
    names = [device.datasheet or device.kind for device in devices]
    return ", ".join(f"{names.count(name)} {name}" for name in dict.fromkeys(names))


def _peak(peaks: dict[str, float]) -> float:
    return max((peaks.get(dtype, 0.0) for dtype in ("bf16", "fp16")), default=0.0)


def _rate(value: float) -> str:
    return format_quantity(value, "bytes_per_s")
