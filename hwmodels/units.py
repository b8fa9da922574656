"""The one place where a quantity with a unit becomes an SI number.

Units are told by names: a key which ends in `_bytes`, `_bytes_per_s`, `_s`, `_flop_per_s`, `_hz` or `_w` holds that
quantity, as a plain SI number or as text such as "900 GB/s". Bits (`Gb/s`) are refused: they are too easily
taken for bytes. Decimal (kB, MB) and binary (KiB, MiB) prefixes follow IEC 80000-13.
"""

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from hwmodels.errors import PlatformError

_SI = {prefix: Decimal(10) ** (3 * power) for power, prefix in enumerate(("", "k", "M", "G", "T", "P"))}
_BINARY = {f"{prefix}i": Decimal(2) ** (10 * power) for power, prefix in enumerate("KMGTP", start=1)}
_BYTES = {f"{prefix}B": factor for prefix, factor in {**_SI, **_BINARY}.items()}

UNITS: dict[str, dict[str, Decimal]] = {
    "bytes_per_s": {f"{name}/s": factor for name, factor in _BYTES.items()},
    "flop_per_s": {
        f"{prefix}{name}": factor for prefix, factor in _SI.items() for name in ("FLOP/s", "FLOPS", "OP/s", "OPS")
    },
    "bytes": _BYTES,
    "s": {
        name: Decimal(10) ** power
        for name, power in (("s", 0), ("ms", -3), ("us", -6), ("µs", -6), ("ns", -9), ("ps", -12))
    },
    "hz": {f"{prefix}Hz": factor for prefix, factor in _SI.items()},
    "w": {"W": Decimal(1), "mW": Decimal("0.001"), "kW": Decimal(1000)},
}
"""Unit (as written at the end of a key) -> spelling -> factor to the SI unit; longest names first.
Decimal numbers, so that "10 us" is exactly the float 1e-05."""

_EXAMPLES = {
    "bytes_per_s": "900 GB/s",
    "flop_per_s": "31.5 TFLOP/s",
    "bytes": "25 GiB",
    "s": "10 us",
    "hz": "1980 MHz",
    "w": "170 W",
}
_UNREAD = ("origin", "search")
_SHOWN = {"flop_per_s": "FLOP/s"}  # of several spellings, the one to write
_QUANTITY = re.compile(r"\s*([-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d{1,3})?)\s*(\S*)\s*")


def parse_quantity(text: str | int | float, unit: str) -> float:
    """The number of SI units in `text`; `unit` is one of `UNITS`, e.g. "bytes_per_s" for bytes per second.

    A number, or text which is only a number, is taken as SI already.

    >>> parse_quantity("900 GB/s", "bytes_per_s")
    900000000000.0
    >>> parse_quantity("2 KiB", "bytes")
    2048.0

    Raises PlatformError for text that is no finite quantity of this unit.
    """
    if unit not in UNITS:
        raise PlatformError(f"'{unit}' is no unit known here; expected one of {', '.join(UNITS)}.")
    wanted = f"expected a quantity such as '{_EXAMPLES[unit]}'"
    if isinstance(text, bool) or not isinstance(text, str | int | float):
        raise PlatformError(f"{text!r} is no quantity; {wanted}.")
    match = _QUANTITY.fullmatch(str(text))
    if match is None:
        raise PlatformError(f"{text!r} is no finite number with a unit; {wanted}.")
    number, spelling = match.groups()
    if spelling and spelling not in UNITS[unit]:
        raise PlatformError(f"{text!r} has the wrong unit; {wanted}.")
    value = float(Decimal(number) * (UNITS[unit][spelling] if spelling else 1))
    if not math.isfinite(value):
        raise PlatformError(f"{text!r} is no finite number with a unit; {wanted}.")
    return value


def format_quantity(value: float, unit: str) -> str:
    """`value` in SI units as text with a fitting prefix and at most four digits; `unit` is one of `UNITS`.

    Bytes get the prefix, binary or decimal, that needs fewer digits.

    >>> format_quantity(31.5e9, "bytes_per_s"), format_quantity(12 * 2**30, "bytes"), format_quantity(4e-6, "s")
    ('31.5 GB/s', '12 GiB', '4 us')
    """
    exact = Decimal(str(value))
    texts = []
    for binary in (True, False):
        known = {
            name: factor
            for name, factor in UNITS[unit].items()
            if name.endswith(_SHOWN.get(unit, "")) and ("i" in name) == binary and (not binary or unit == "bytes")
        }
        fitting = [name for name in known if known[name] <= abs(exact)] or [name for name in known if known[name] == 1]
        if fitting:
            name = max(fitting, key=lambda name: known[name])
            texts.append(f"{float(exact / known[name]):.4g} {name}")
    return min(texts, key=len)


def unit_of_key(key: str) -> str | None:
    """The unit which the name of a key states, or None.

    >>> unit_of_key("memory_read_bytes_per_s")
    'bytes_per_s'
    """
    return next((unit for unit in UNITS if key == unit or key.endswith(f"_{unit}")), None)


def convert_quantities(node: Any, field: str = "", unit: str | None = None) -> Any:
    """A copy of nested mappings and lists in which every text quantity is an SI number.

    A mapping under a key with a unit passes the unit on to its values; one under `origin` or `search` has the names of
    quantities as keys, and other things as values. Whole numbers of bytes become int. Raises PlatformError naming the
    field.
    """
    if isinstance(node, Mapping):
        if field.rpartition(".")[2] in _UNREAD:
            return dict(node)
        return {
            key: convert_quantities(value, f"{field}.{key}".lstrip("."), unit_of_key(str(key)) or unit)
            for key, value in node.items()
        }
    if isinstance(node, list | tuple):
        return [convert_quantities(value, f"{field}[{i}]", unit) for i, value in enumerate(node)]
    if unit is None or not isinstance(node, str | float):
        return node
    try:
        value = parse_quantity(node, unit)
    except PlatformError as error:
        raise PlatformError(f"field '{field}': {error}") from None
    return round(value) if unit == "bytes" else value
