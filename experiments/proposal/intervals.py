"""How sure a speed-up is: over drawn constants, and over the choice of requests."""

from __future__ import annotations

import math
import warnings
from typing import NamedTuple

import pandas as pd

from experiments.proposal.cases import Case
from experiments.proposal.sides import Side
from experiments.proposal.study import Study
from experiments.results import NoiseWarning, compare, compare_calibrated


class Intervals(NamedTuple):
    """Of the speed-up, NaN where unknown: 90 % of drawn machines, 95 % of resampled requests, and out of how many."""

    calibration: tuple[float, float]
    draws: int
    sampling: tuple[float, float]
    units: int


NONE = (math.nan, math.nan)
LEAST = 5  # draws of which an interval is told


def intervals(study: Study, rival: Side, case: Case) -> Intervals:
    """Of rival / box in a case, at the main budget: paired by draw, and by request."""
    calibration, draws = _calibration(study, rival, case)
    sampling, units = _sampling(study, rival, case)
    return Intervals(calibration, draws, sampling, units)


def _points(study: Study, rival: Side, case: Case, metric: str) -> pd.DataFrame:
    """One row each for the proposed machine (0) and the rival (1), as `experiments.results` wants them."""
    outcomes = [study.outcome(side, case) for side in (study.box, rival)]
    values = [math.nan if outcome is None else outcome.value(metric) for outcome in outcomes]
    return pd.DataFrame({"point": [0, 1], "platform": ["box", "rival"], metric: values})


def _calibration(study: Study, rival: Side, case: Case) -> tuple[tuple[float, float], int]:
    found = [study.drawn.get((side.label, case.name)) for side in (study.box, rival)]
    tables = [outcome.draws for outcome in found if outcome is not None and outcome.draws is not None]
    if len(tables) < 2 or study.scope.draws < LEAST:
        return NONE, 0
    drawn = pd.concat([table.assign(point=number) for number, table in enumerate(tables)])
    points = _points(study, rival, case, case.metric)
    row = compare_calibrated((points, drawn), "platform", "box", case.metric).set_index("platform").loc["rival"]
    return (float(row["ratio_low"]), float(row["ratio_high"])), int(row["draws"])


def _sampling(study: Study, rival: Side, case: Case) -> tuple[tuple[float, float], int]:
    outcomes = [study.outcome(side, case) for side in (study.box, rival)]
    tables = [outcome.requests for outcome in outcomes if outcome is not None and outcome.requests is not None]
    if len(tables) < 2:
        return NONE, 0
    requests = pd.concat([table.assign(point=number) for number, table in enumerate(tables)])
    points = _points(study, rival, case, case.metric)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NoiseWarning)  # the report shows the interval itself
        table = compare((points, requests), "platform", "box", case.per_request)
    row = table.set_index("platform").loc["rival"]
    return (float(row["ratio_low"]), float(row["ratio_high"])), int(row["batches"])
