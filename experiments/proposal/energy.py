"""Energy of the runs, and what machines draw and cost, as far as their files say."""

from __future__ import annotations

import math

from experiments.proposal.cases import Case
from experiments.proposal.runs import Outcome
from experiments.proposal.sides import Side
from experiments.proposal.study import Study

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
    """Full power of all that computes in watts; NaN unless each of them states it."""
    values = [device.tdp_w for device in side.platform.devices.values() if device.kind in COMPUTING]
    return sum(values) if all(values) else math.nan


def cost_usd(side: Side) -> float:
    """Of all devices but switches, in US dollars; NaN unless each states it. An ndp that states none costs nothing
    beside its memory."""
    costs = [device.cost_usd for device in side.platform.devices.values() if device.kind not in ("switch", "ndp")]
    extra = sum(device.cost_usd for device in side.platform.devices.values() if device.kind == "ndp")
    return sum(costs) + extra if costs and all(costs) else math.nan


def per_watt(study: Study, rival: Side) -> float:
    """What a speed-up is multiplied by at equal power: power of the rival / that of the proposed machine."""
    return power_w(rival) / power_w(study.box)


def per_dollar(study: Study, rival: Side) -> float:
    """The same at equal cost."""
    return cost_usd(rival) / cost_usd(study.box)


def _joules(value: float) -> str:
    return "-" if value != value else f"{value:.3g}"
