"""Grams of CO2 equivalent from energy and the grid's intensity, which may depend on the time of day."""

from __future__ import annotations

import csv
import math
from pathlib import Path

from simulator.scenario import ScenarioError

J_PER_KWH = 3.6e6
DAY_S = 86400.0
COLUMNS = ["time_of_day_s", "g_per_kwh"]
Profile = list[tuple[float, float]]  # (seconds after midnight, g/kWh from then on), the first at 0


def carbon_g(energy_j: float, duration_s: float, given: str) -> float:
    """Of a run that begins at midnight and draws its energy evenly; `given` as `read_intensity`.

    >>> carbon_g(3.6e6, 60.0, "400")
    400.0
    """
    return energy_j / J_PER_KWH * mean_intensity(read_intensity(given), duration_s)


def read_intensity(given: str) -> Profile:
    """A number in g/kWh, or the path of a CSV with columns time_of_day_s and g_per_kwh, in order from 0 on.

    Raises ScenarioError, one sentence, for anything else.
    """
    where = "settings.carbon_g_per_kwh"
    try:
        value = float(given)
    except ValueError:
        return _read_file(Path(given).expanduser(), f"{where}={given}")
    if not math.isfinite(value) or value < 0:
        raise ScenarioError(f"{where} is {given}; expected a number of at least 0, or the path of a CSV.")
    return [(0.0, value)]


def mean_intensity(profile: Profile, duration_s: float) -> float:
    """g/kWh over so many seconds from midnight on, day after day; of an instant, that at midnight.

    >>> mean_intensity([(0.0, 100.0), (43200.0, 300.0)], 86400.0)
    200.0
    """
    if duration_s <= 0:
        return profile[0][1]
    days, rest_s = divmod(duration_s, DAY_S)
    return (days * _integral(profile, DAY_S) + _integral(profile, rest_s)) / duration_s


def _integral(profile: Profile, until_s: float) -> float:
    ends = [start for start, _ in profile[1:]] + [DAY_S]
    return sum(value * max(0.0, min(end, until_s) - start) for (start, value), end in zip(profile, ends, strict=True))


def _read_file(path: Path, where: str) -> Profile:
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
    except (OSError, UnicodeDecodeError):
        raise ScenarioError(f"{where}: expected a number in g/kWh, or the path of a CSV that can be read.") from None
    if not rows or rows[0] != COLUMNS:
        raise ScenarioError(f"{where}: expected a CSV with the columns {', '.join(COLUMNS)}.")
    profile: Profile = []
    for number, row in enumerate((row for row in rows[1:] if row), 2):
        try:
            start_s, value = map(float, row)
        except ValueError:
            raise ScenarioError(f"{where}, line {number}: expected two numbers.") from None
        later = start_s == 0 if not profile else profile[-1][0] < start_s < DAY_S
        if not later or not (math.isfinite(value) and value >= 0):
            raise ScenarioError(
                f"{where}, line {number}: expected times that begin at 0 and rise below {DAY_S:.0f} s, and intensities"
                " of at least 0."
            )
        profile.append((start_s, value))
    if not profile:
        raise ScenarioError(f"{where}: the file has no rows; expected at least one.")
    return profile
