"""Which constants a run's answer rests on: each is changed a little, and the run repeated."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from experiments.explain import ConfigError
from experiments.run import scenario_from_config

if TYPE_CHECKING:
    import pandas as pd

STEP = 1 / 1.1  # constants are lowered by it, as an efficiency may not rise above 1
METRICS = ("tpot_mean_s", "ttft_mean_s", "tokens_per_s")


def dependence(cfg: Mapping[str, Any], metric: str = "tpot_mean_s", requests: int | None = 4) -> pd.DataFrame:
    """One row per constant of the platform, those that move the metric most first.

    requests: run at most so many of the workload's (None: all). Columns: constant, value, origin, spread (standard
    deviation of its logarithm), elasticity (per cent by which the metric rises where the constant rises by one), effect
    (|elasticity| · spread: what the constant's uncertainty does to the metric, as a fraction), source.
    Raises ConfigError if the run does not define the metric, and what building the run raises.
    """
    import pandas as pd

    from hwmodels.constants import constants, scaled
    from simulator.result import simulate

    if metric not in METRICS:
        raise ConfigError(f"metric {metric}: expected one of {', '.join(METRICS)}.")
    scenario = scenario_from_config(cfg)
    asked = scenario.workload.requests
    few = asked if requests is None else min(requests, asked or requests)
    settings = replace(scenario.settings, reference=False, timeline=False)
    scenario = replace(scenario, settings=settings, workload=replace(scenario.workload, requests=few))
    begin = simulate(scenario).summary[metric]
    if begin is None:
        raise ConfigError(f"metric {metric}: this run does not define it (the trace has no such phase).")
    rows = []
    for constant in constants(scenario.platform):
        platform = scaled(scenario.platform, {constant.name: STEP})
        value = simulate(replace(scenario, platform=platform)).summary[metric]
        elasticity = math.log(value / begin) / math.log(STEP)
        rows.append(
            {
                "constant": constant.name,
                "value": constant.value,
                "origin": constant.origin,
                "spread": constant.spread,
                "elasticity": elasticity,
                "effect": abs(elasticity) * constant.spread,
                "source": constant.source,
            }
        )
    frame = pd.DataFrame(rows)
    order = frame["elasticity"].abs().sort_values(ascending=False, kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def by_origin(rows: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Origin -> share of all elasticities, and the joint effect of its constants (root of the sum of squares)."""
    total = rows["elasticity"].abs().sum()
    return {
        str(origin): {
            "share": float(group["elasticity"].abs().sum() / total) if total else 0.0,
            "effect": float((group["effect"] ** 2).sum() ** 0.5),
        }
        for origin, group in rows.groupby("origin")
    }
