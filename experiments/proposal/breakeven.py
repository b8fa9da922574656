"""Where a parameter makes the proposed machine as quick as a rival: interpolated over its sweep."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class BreakEven:
    """factors: those of the parameter at which the speed-up is 1, ascending; wins_below, wins_above: whether the
    proposed machine is quicker at the least and at the greatest factor that ran; least, most: these factors."""

    factors: tuple[float, ...]
    least: float
    most: float
    wins_below: bool
    wins_above: bool


def break_even(speed_ups: Mapping[float, float]) -> BreakEven | None:
    """Factor of the parameter -> speed-up over a rival, NaN where a run failed.

    Between neighbours the logarithm of the speed-up is taken as linear in that of the factor. None with fewer than two
    points that ran.

    >>> break_even({0.5: 0.5, 1.0: 2.0, 2.0: 2.0}).factors  # halfway on both scales
    (0.7071067811865476,)
    """
    known = sorted((factor, math.log(value)) for factor, value in speed_ups.items() if value == value)
    if len(known) < 2:
        return None
    found = []
    for (left, low), (right, high) in itertools.pairwise(known):
        if (low > 0) != (high > 0):
            share = low / (low - high)
            found.append(left * (right / left) ** share)
    (least, first), (most, last) = known[0], known[-1]
    return BreakEven(tuple(found), least, most, first > 0, last > 0)
