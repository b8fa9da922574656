"""Carbon: a number, or an intensity by time of day."""

from __future__ import annotations

import pytest

from simulator.energy.carbon import carbon_g, mean_intensity, read_intensity
from simulator.scenario import ScenarioError


def test_a_kilowatt_hour_at_a_constant_intensity():
    assert carbon_g(3.6e6, 10.0, "400") == 400.0
    assert carbon_g(1.8e6, 0.0, "50.5") == 25.25


def test_an_intensity_by_time_of_day_is_averaged_over_the_run(tmp_path):
    path = tmp_path / "grid.csv"
    path.write_text("time_of_day_s,g_per_kwh\n0,100\n3600,400\n43200,0\n")
    profile = read_intensity(str(path))
    assert mean_intensity(profile, 1800.0) == 100.0
    assert mean_intensity(profile, 7200.0) == 250.0  # an hour of each
    day = (3600 * 100 + 39600 * 400) / 86400
    assert mean_intensity(profile, 86400.0) == pytest.approx(day)
    assert mean_intensity(profile, 2 * 86400 + 3600.0) == pytest.approx((2 * 86400 * day + 360000) / 176400)
    assert carbon_g(3.6e6, 7200.0, str(path)) == 250.0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, "expected a number in g/kWh, or the path of a CSV that can be read"),
        ("", "expected a CSV with the columns time_of_day_s, g_per_kwh"),
        ("hour,g\n0,1\n", "expected a CSV with the columns"),
        ("time_of_day_s,g_per_kwh\n", "has no rows"),
        ("time_of_day_s,g_per_kwh\n0,much\n", "line 2: expected two numbers"),
        ("time_of_day_s,g_per_kwh\n60,1\n", "line 2: expected times that begin at 0"),
        ("time_of_day_s,g_per_kwh\n0,1\n60,2\n60,3\n", "line 4: expected times"),
        ("time_of_day_s,g_per_kwh\n0,-1\n", "intensities of at least 0"),
    ],
)
def test_a_file_that_is_none_is_refused(text, words, tmp_path):
    path = tmp_path / "grid.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ScenarioError) as error:
        read_intensity(str(path))
    assert words in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("given", ["-1", "nan", "inf"])
def test_a_number_that_is_no_intensity_is_refused(given):
    with pytest.raises(ScenarioError, match=r"settings.carbon_g_per_kwh is .*; expected a number of at least 0"):
        read_intensity(given)
