"""The section `search` of a proposal's file: which of its values may change, what that costs, and the budget."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from experiments.explain import ConfigError, did_you_mean
from experiments.proposal.parameters import Parameter
from hwmodels import Device, Link, Platform
from hwmodels.errors import PlatformError
from hwmodels.strict import strict
from hwmodels.units import parse_quantity, unit_of_key

MEASURES = {"area_mm2": "mm²", "tdp_w": "W", "cost_usd": "US$"}
MOST_TRIALS = 10_000
WORKLOADS = ("single", "batch", "prompts")  # in the order of experiments.proposal.cases
BOUGHT = ("gpu", "cpu")  # kinds of devices that no budget counts
DIGITS = 3  # of numbers that are drawn


@dataclass(frozen=True)
class _Section:
    """The keys of `search`; see `Section`."""

    budget: dict[str, Any]
    parameters: dict[str, Any]
    workload: str = WORKLOADS[1]
    trials: int = 40


@dataclass(frozen=True)
class _Entry:
    """The keys of one of its parameters; see `Range`."""

    low: Any = None
    high: Any = None
    values: list[Any] = field(default_factory=list)
    per: Any = None
    area_mm2: float = 0.0
    tdp_w: float = 0.0
    cost_usd: float = 0.0
    also: list[str] = field(default_factory=list)
    source: str = ""


@dataclass(frozen=True)
class Range:
    """A value of the file that may change: from `low` to `high`, on a logarithmic scale, or one of `values`.

    parameter: it, first, and what grows with it in proportion (`also`); per, prices: what so much more of it adds to
    area in mm2, power in W and cost in US dollars, of each of `count` devices; power: the key and watts of the tdp_w
    that grows with it, if the device computes.
    """

    key: str
    parameter: Parameter
    low: float
    high: float
    values: tuple[float, ...]
    per: float
    prices: Mapping[str, float]
    count: int
    power: tuple[str, float] | None

    @property
    def before(self) -> float:
        """What the file says."""
        return next(iter(self.parameter.values.values()))

    def adds(self, value: float) -> dict[str, float]:
        """What a value adds to each measure, against the file's."""
        more = self.count * (value - self.before) / self.per if self.per else 0.0
        return {name: more * price for name, price in self.prices.items()}


@dataclass(frozen=True)
class Section:
    """What is searched. budget: measure -> most of it, of all devices but GPUs and CPUs; base: what these state.

    workload: which case is run, of WORKLOADS; trials: designs that are run.
    """

    ranges: tuple[Range, ...]
    budget: Mapping[str, float]
    base: Mapping[str, float]
    workload: str
    trials: int

    def measures(self, values: Mapping[str, float]) -> dict[str, float]:
        """Area, power and cost, as far as known, of a design (key -> value): the file's, and what its changes add."""
        added = [span.adds(values[span.key]) for span in self.ranges]
        return {name: base + sum(item.get(name, 0.0) for item in added) for name, base in self.base.items()}

    def excess(self, values: Mapping[str, float]) -> float:
        """By which share of its limit a design exceeds a budget, of the most exceeded one; at most 0 if none."""
        measures = self.measures(values)
        return max((measures[name] / most - 1 for name, most in self.budget.items()), default=0.0)


def section(platform: Platform, node: Mapping[str, Any], where: str) -> Section | None:
    """The section of a platform's mapping, None if it has none. Raises ConfigError, one sentence naming the field."""
    given = node.get("search")
    if given is None or given == {}:
        return None
    read = strict(_Section, given, where, ConfigError, "search")
    if not read.parameters:
        raise ConfigError(f"{where}: field 'search.parameters' must name at least one value of the file.")
    if not 1 <= read.trials <= MOST_TRIALS:
        raise ConfigError(f"{where}: field 'search.trials' must be from 1 to {MOST_TRIALS}, got {read.trials}.")
    if read.workload not in WORKLOADS:
        known = ", ".join(WORKLOADS)
        raise ConfigError(f"{where}: field 'search.workload' must be one of {known}, got '{read.workload}'.")
    ranges = tuple(_range(platform, node, key, entry, where) for key, entry in read.parameters.items())
    paths = [path for span in ranges for path in span.parameter.values]
    for path in paths:
        if paths.count(path) > 1:
            name = path.removeprefix("platform.")
            raise ConfigError(
                f"{where}: field 'search.parameters' sets {name} twice; expected each value once, `also` too."
            )
    base = _base(platform)
    budget = {}
    for name, value in read.budget.items():
        at = f"{where}: field 'search.budget.{name}'"
        if name not in MEASURES:
            raise ConfigError(f"{at} must be one of {', '.join(MEASURES)}{did_you_mean(name, list(MEASURES))}")
        budget[name] = _number(value, name, at)
        if name not in base:
            kinds = "device that is no GPU or CPU" if name != "area_mm2" else "ndp"
            raise ConfigError(f"{at} needs a {kinds} that states its {name}.")
        if not any(span.prices.get(name) for span in ranges):
            raise ConfigError(f"{at} limits nothing: no parameter of the search has a price in {name}.")
        least = base[name] + sum(min(span.adds(end).get(name, 0.0) for end in (span.low, span.high)) for span in ranges)
        if least > budget[name]:
            said = f"{budget[name]:g} {MEASURES[name]}, but no design has less than {least:.4g}"
            raise ConfigError(f"{at} is {said}.")
    return Section(ranges, budget, base, read.workload, read.trials)


def _base(platform: Platform) -> dict[str, float]:
    """Measure -> what the devices that are no GPUs or CPUs state of it together, if any does."""
    devices = [device for device in platform.devices.values() if device.kind not in BOUGHT]
    sums = {name: sum(getattr(device, name) for device in devices) for name in MEASURES}
    return {name: value for name, value in sums.items() if value}


def _range(platform: Platform, node: Mapping[str, Any], key: str, given: Any, where: str) -> Range:
    at = f"{where}: field 'search.parameters.{key}"
    entry = strict(_Entry, given, where, ConfigError, f"search.parameters.{key}")
    path, before = _place(platform, node, key, at)
    unit = unit_of_key(key.rpartition(".")[2]) or ""
    values = {path: before, **dict(_place(platform, node, other, f"{at}.also") for other in entry.also)}
    prices = {name: float(getattr(entry, name)) for name in MEASURES if getattr(entry, name)}
    if bool(prices) != (entry.per is not None):
        raise ConfigError(f"{at}' needs `per` with its prices ({', '.join(MEASURES)}): what so much more of it costs.")
    listed = tuple(_number(value, key, f"{at}.values'") for value in entry.values)
    if bool(listed) == (entry.low is not None or entry.high is not None):
        raise ConfigError(f"{at}' needs either low and high, or values.")
    if not listed and (entry.low is None or entry.high is None):
        raise ConfigError(f"{at}' needs both low and high.")
    low, high = (min(listed), max(listed)) if listed else (_number(v, key, f"{at}'") for v in (entry.low, entry.high))
    if not listed and low >= high:
        raise ConfigError(f"{at}' spans {low:g} to {high:g}; expected the lower end first.")
    owner = key.split(".")[1]
    count = int(node["devices"].get(owner, {}).get("count", 1)) if key.startswith("devices.") else 1
    power = None
    if key.startswith("devices.") and "tdp_w" in prices:
        device = platform.devices.get(owner) or platform.devices[f"{owner}0"]
        if device.kind == "ndp" and device.tdp_w:
            power = f"platform.devices.{owner}.tdp_w", device.tdp_w
    per = 0.0 if entry.per is None else _number(entry.per, key, f"{at}.per'")
    return Range(key, Parameter(key, values, unit), low, high, listed, per, prices, count, power)


def _place(platform: Platform, node: Mapping[str, Any], key: str, at: str) -> tuple[str, float]:
    """The dotted key of the configuration for `devices.NAME.FIELD` or `links.NAME.FIELD`, and the value there."""
    parts = key.split(".")
    if len(parts) != 3 or parts[0] not in ("devices", "links"):
        raise ConfigError(f"{at}' must be devices.NAME.FIELD or links.NAME.FIELD.")
    group, name, wanted = parts
    kind: type[Device] | type[Link] = Device if group == "devices" else Link
    links = [str(entry.get("name")) for entry in node.get("links") or []]
    owners = list(node["devices"]) if group == "devices" else links
    if name not in owners:
        raise ConfigError(f"{at}' names no part of the file: {name}{did_you_mean(name, owners)}")
    known = [item.name for item in fields(kind) if item.type in (int, float, "int", "float")]
    if wanted.split(".")[0] == "peak_flop_per_s":
        raise ConfigError(f"{at}' is a set of peaks; state the unit's macs and clock_hz, and search those.")
    if wanted in MEASURES:
        raise ConfigError(f"{at}' is what a budget limits; expected a value of the design, with its price in {wanted}.")
    if wanted not in known:
        raise ConfigError(f"{at}' names no number of a {group[:-1]}: {wanted}{did_you_mean(wanted, known)}")
    place = name if group == "devices" else str(links.index(name))
    things: Sequence[Device | Link] = [*platform.devices.values()] if group == "devices" else platform.links
    named = {item.name: item for item in things}
    thing = named.get(name) or named[f"{name}0"]
    value = float(getattr(thing, wanted))
    if value <= 0:
        raise ConfigError(f"{at}' is not stated in the file; expected a value to start from.")
    return f"platform.{group}.{place}.{wanted}", value


def _number(value: Any, key: str, at: str) -> float:
    """A number above zero, or a quantity of the unit that the end of the key says."""
    unit = unit_of_key(key.rpartition(".")[2])
    try:
        found = parse_quantity(value, unit) if unit else float(value)
    except (PlatformError, ValueError, TypeError):
        kind = "quantity" if unit else "number"
        raise ConfigError(f"{at} must be a {kind} above zero, got {value!r}.") from None
    if not (math.isfinite(found) and found > 0):
        raise ConfigError(f"{at} must be above zero, got {value!r}.")
    return found


def rounded(value: float) -> float:
    """To three digits, as designs are drawn."""
    return float(f"{value:.{DIGITS}g}")
