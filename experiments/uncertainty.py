"""A run repeated on machines whose constants are drawn: how much of its answer the calibration leaves open."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.result import Result

METRICS = ("tpot_mean_s", "ttft_mean_s", "tokens_per_s")


def calibration_draws(result: Result, draws: int, seed: int) -> list[dict[str, Any]]:
    """One row per draw: its number and METRICS of the same scenario on the drawn platform (hwmodels.constants.drawn).

    The same number and seed draw the same machine whatever the policy, so that differences between policies can be
    taken draw by draw. A metric that the run does not define is None.
    """
    from hwmodels.constants import constants, drawn
    from simulator.result import simulate

    scenario = result.run.scenario
    settings = replace(scenario.settings, reference=False, timeline=False)
    found = constants(scenario.platform)  # the run has asked its kernels, so they are known now
    rows = []
    for number in range(draws):
        platform = drawn(scenario.platform, found, number, seed)
        summary = simulate(replace(scenario, platform=platform, settings=settings)).summary
        rows.append({"draw": number, **{metric: summary[metric] for metric in METRICS}})
    return rows
