import pytest

from hwmodels import PlatformError, parse_quantity
from hwmodels.units import convert_quantities


@pytest.mark.parametrize(
    ("text", "unit", "expected"),
    [
        ("900 GB/s", "bytes_per_s", 900e9),
        ("953.6 MiB/s", "bytes_per_s", 953.6 * 2**20),
        ("25 GiB", "bytes", 25 * 2**30),
        ("1 kB", "bytes", 1000.0),
        ("31.5 TFLOP/s", "flop_per_s", 31.5e12),
        ("102 TOP/s", "flop_per_s", 102e12),
        ("10us", "s", 10e-6),
        ("10 µs", "s", 10e-6),
        (" 1.5e-3 s ", "s", 1.5e-3),
        ("170 W", "w", 170.0),
        ("12", "s", 12.0),
        (3, "w", 3.0),
    ],
)
def test_a_quantity_becomes_its_si_number(text, unit, expected):
    assert parse_quantity(text, unit) == expected


@pytest.mark.parametrize(
    ("text", "unit"),
    [
        ("900 GB", "bytes_per_s"),
        ("900 Gb/s", "bytes_per_s"),  # bits, not bytes
        ("900 gb/s", "bytes_per_s"),
        ("10 m", "s"),
        ("fast", "s"),
        ("", "bytes"),
        ("nan", "s"),
        ("inf W", "w"),
        ("1e999", "s"),
        ("1e99999999999999999999", "s"),
        (True, "w"),
        (None, "w"),
        (float("nan"), "s"),
        ("1 s", "seconds"),
    ],
)
def test_what_is_no_quantity_of_the_unit_is_refused(text, unit):
    with pytest.raises(PlatformError):
        parse_quantity(text, unit)


def test_keys_state_the_unit_of_all_they_hold():
    converted = convert_quantities(
        {
            "peak_flop_per_s": {"bf16": "1 TFLOP/s"},
            "rates": [{"bytes_per_s": "2 kB/s"}],
            "latency_s": "3 ms",
            "memory_capacity_bytes": "1.5 KiB",
            "name": "4 GB",
        }
    )
    assert converted == {
        "peak_flop_per_s": {"bf16": 1e12},
        "rates": [{"bytes_per_s": 2000.0}],
        "latency_s": 0.003,
        "memory_capacity_bytes": 1536,  # whole bytes are int
        "name": "4 GB",  # states no unit
    }
    assert isinstance(converted["memory_capacity_bytes"], int)


def test_the_message_names_the_field():
    with pytest.raises(PlatformError, match=r"field 'links\[0\]\.latency_s': '3 GB' has the wrong unit"):
        convert_quantities({"links": [{"latency_s": "3 GB"}]})
