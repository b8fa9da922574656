"""How long work takes and how bytes travel: pure functions of numbers. Knows no clock and no MoE model."""

from hwmodels.device import Device, Link
from hwmodels.errors import PlatformError
from hwmodels.operators import Work
from hwmodels.roofline import floor_s, is_memory_bound, split_s, time_s
from hwmodels.spec import Platform
from hwmodels.units import parse_quantity

__all__ = [
    "Device",
    "Link",
    "Platform",
    "PlatformError",
    "Work",
    "floor_s",
    "is_memory_bound",
    "parse_quantity",
    "split_s",
    "time_s",
]
