"""Energy of the runs, and what machines draw and cost, as far as their files say."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from experiments.proposal.cases import Case
from experiments.proposal.runs import Outcome
from experiments.proposal.sides import Side
from experiments.proposal.study import Study
from hwmodels import Device
from hwmodels.energy import EnergyUnknown, flop_pj, link_pj_per_bit, memory_pj_per_bit

ACCOUNTS = ("J/token, bottom up", "J/token, by power")
COMPUTING = ("gpu", "cpu", "ndp")


def energies(study: Study, side: Side, case: Case, budget: str) -> tuple[str, str]:
    """Joules per token of both accounts, a dash where a constant is missing."""
    outcome = study.outcome(side, case, budget)
    if outcome is None:
        return "-", "-"
    return _joules(bottom_up_j(outcome)), _joules(by_power_j(outcome, side))


def _tokens(outcome: Outcome) -> float:
    return outcome.value("prefill_tokens") + outcome.value("decode_tokens")


def bottom_up_j(outcome: Outcome) -> float:
    """Joules per token, NaN if some price is missing."""
    return outcome.value("energy_bottom_up_j") / _tokens(outcome)


def by_power_j(outcome: Outcome, side: Side) -> float:
    """Joules per token, NaN if the power of something that computes is not stated."""
    return outcome.value("energy_by_power_j") / _tokens(outcome) if power_w(side) == power_w(side) else math.nan


def power_w(side: Side) -> float:
    """Full power of all that computes in watts; NaN unless each of them states its tdp_w."""
    return _sum(_computing(side), "tdp_w")


def per_watt(study: Study, rival: Side) -> float:
    """What a speed-up is multiplied by at equal power: power of the rival / that of the proposed machine, each with the
    other's host CPU if its file has none."""
    mine, theirs = (_sum(devices, "tdp_w") for devices in _both(study, rival, _computing))
    return theirs / mine


def per_dollar(study: Study, rival: Side) -> float:
    """The same at equal cost, of all devices but switches. An ndp that states none costs nothing beside its memory."""
    mine, theirs = (_sum(devices, "cost_usd") for devices in _both(study, rival, _bought))
    return theirs / mine


def unsaid(study: Study, rival: Side) -> list[str]:
    """Why power or cost could not be compared, or what was assumed for it: one sentence each."""
    found = []
    for what, key, pick in (("power", "tdp_w", _computing), ("cost", "cost_usd", _bought)):
        both = [(side, _missing(pick(side), key)) for side in (study.box, rival)]
        lacking = [f"{', '.join(names)} of {side.label}" for side, names in both if names]
        if lacking:
            found.append(
                f"Equal {what}: not compared with {rival.label}, as no `{key}` is stated for {'; '.join(lacking)}."
            )
    have = [side.label for side in (study.box, rival) if _hosts(side)]
    if len(have) == 1:
        other = next(side.label for side in (study.box, rival) if side.label not in have)
        found.append(f"The file of {other} has no host CPU: here it is taken to have that of {have[0]}.")
    return found


def unpriced(study: Study) -> list[str]:
    """Why an account of energy has dashes: one sentence for each machine and account."""
    found = []
    for side in study.sides:
        outcomes = [outcome for case in study.cases if (outcome := study.outcome(side, case))]
        if any(bottom_up_j(outcome) != bottom_up_j(outcome) for outcome in outcomes):
            found.append(f"Energy bottom up of {side.label} lacks prices: {'; '.join(_unknown(side))}.")
        if lacking := _missing(_computing(side), "tdp_w"):
            found.append(f"Energy by power of {side.label} lacks the `tdp_w` of {', '.join(lacking)}.")
    return found


def _unknown(side: Side) -> list[str]:
    """What energy.yaml and the file do not say of the devices and links of a machine."""
    devices, said = side.platform.devices.values(), []
    asked: list[Callable[[], object]] = []
    for device in devices:
        if device.kind not in ("cpu", "ndp", "switch"):
            asked += [partial(memory_pj_per_bit, device), partial(memory_pj_per_bit, device, True)]
        asked += [partial(flop_pj, device, "bf16")] if device.peak_flop_per_s else []
    asked += [partial(link_pj_per_bit, link) for link in side.platform.links]
    for price in asked:
        try:
            price()
        except EnergyUnknown as error:
            said.append(str(error))
    return said or ["`provenance.json` of a run says which"]


def _both(study: Study, rival: Side, pick: Callable[[Side], list[Device]]) -> tuple[list[Device], list[Device]]:
    """Devices of the proposed machine and of the rival; a file without a host CPU has the other's."""
    mine, theirs = _hosts(study.box), _hosts(rival)
    return [*pick(study.box), *([] if mine else theirs)], [*pick(rival), *([] if theirs else mine)]


def _hosts(side: Side) -> list[Device]:
    platform = side.platform
    return [item for name, item in platform.devices.items() if item.kind == "cpu" and name not in platform.workers]


def _computing(side: Side) -> list[Device]:
    return [device for device in side.platform.devices.values() if device.kind in COMPUTING]


def _bought(side: Side) -> list[Device]:
    return [device for device in side.platform.devices.values() if device.kind != "switch"]


def _sum(devices: list[Device], key: str) -> float:
    return math.nan if _missing(devices, key) else float(sum(getattr(device, key) for device in devices))


def _missing(devices: list[Device], key: str) -> list[str]:
    free = ("ndp",) if key == "cost_usd" else ()
    return [device.name for device in devices if not getattr(device, key) and device.kind not in free]


def _joules(value: float) -> str:
    return "-" if value != value else f"{value:.3g}"
