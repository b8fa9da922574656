"""The points of a sweep: each with its configuration, composed once by Hydra and merged per point.

Hydra takes a fifth of a second for a configuration, a run often a hundredth. What a choice of a plain group
(a cache policy, a platform) puts into the configuration does not depend on the choices in other plain
groups, so each choice is composed once and its part exchanged; values are set last, as Hydra does. Choices
that reach beyond their own part (systems, experiments, files with defaults or interpolations) are composed
in every combination, and overrides of other shapes point by point. A test holds this against Hydra.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import product
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments.compose import (
    CONF,
    FREE,
    axes,
    choices,
    chosen,
    compose_config,
    compose_unnamed,
    composed_and_chosen,
    is_path,
    known_keys,
    name_system,
)
from experiments.explain import ConfigError
from experiments.run import plain

WIDE_GROUPS = ("system", "experiment")  # their files set keys anywhere
SCALARS = (int, float, str, bool, type(None))
MOST = 1_000_000  # points of a sweep
_ODD = object()


@dataclass(frozen=True)
class Point:
    """One run of a sweep: its place in the order, its overrides, the choice made in each group.

    `config` is plain; its parts are shared among points and must not be changed.
    """

    number: int
    overrides: tuple[str, ...]
    config: dict[str, Any]
    choices: dict[str, str]


def points(overrides: Sequence[str]) -> list[Point]:
    """Every combination of the listed values, in Hydra's order: the last key varies fastest.

    Raises ConfigError, one sentence, for overrides that cannot be read or composed.
    """
    check_ranges(overrides)
    listed = axes(overrides)
    count = math.prod(len(items) for items in listed.values())
    if count > MOST:
        raise ConfigError(f"the listed values make {count:,} points; expected at most {MOST:,}.")
    composer = Composer(listed)
    return [composer.point(number, run) for number, run in enumerate(product(*listed.values()))]


def check_ranges(overrides: Sequence[str]) -> None:
    """Raise ConfigError for a range without values, or with more than anyone can run, before it is written out."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import RangeSweep
    from hydra.errors import HydraException

    for item in overrides:
        try:
            value: Any = OverridesParser.create().parse_override(item).value()
        except HydraException:
            continue  # `axes` will say what is wrong
        if isinstance(value, RangeSweep):
            span: Any = value
            count = (span.stop - span.start) / span.step if span.step else 0
            if not count > 0:
                raise ConfigError(f"{item}: this range holds no value.")
            if count > MOST:
                raise ConfigError(f"{item}: this range holds more than {MOST:,} values.")


class Composer:
    """Makes points out of one override for each key.

    listed: key -> overrides; those of narrow groups are composed beforehand, of others any value may follow.
    """

    def __init__(self, listed: dict[str, list[str]]) -> None:
        self._listed = listed
        self._keys = list(listed)
        varied = [key for key, items in listed.items() if len(items) > 1]
        groups = choices()
        self._wide = [key for key in varied if key in groups and not _all_narrow(key, listed[key])]
        self._narrow = {key: listed[key] for key in varied if key in groups and key not in self._wide}
        self._values = _Values(listed, [key for key in varied if key not in groups])
        self._bases: dict[tuple[str, ...], _Base] = {}
        self.first = self.point(0, [items[0] for items in listed.values()])

    def point(self, number: int, run: Sequence[str]) -> Point:
        """The point of these overrides, in the order of the keys. Raises ConfigError, one sentence."""
        run = tuple(run)
        made = dict(zip(self._keys, run, strict=True))
        values = self._values.of(made)
        if values is None:
            return Point(number, run, plain(compose_config(run)), chosen(run))
        combination = tuple(made[key] for key in self._wide)
        if combination not in self._bases:
            fixed = {key: [made[key]] for key in self._wide}
            self._bases[combination] = _Base({**self._listed, **fixed}, self._narrow)
        base = self._bases[combination]
        config = base.config(made, values)
        name_system(config, run)
        own = {key: made[key].partition("=")[2].strip("'\"") for key in self._narrow}
        return Point(number, run, config, {**base.choices, **own})


class _Base:
    """Configurations that agree in all wide groups."""

    def __init__(self, listed: dict[str, list[str]], narrow: dict[str, list[str]]) -> None:
        self._parts: dict[str, Any] = {}  # override of a narrow group -> its part of the configuration
        rounds = max((len(items) for items in narrow.values()), default=1)
        for number in range(rounds):  # the n-th choices of all narrow groups at once
            picked = {key: items[min(number, len(items) - 1)] for key, items in narrow.items()}
            overrides = [picked.get(key, items[0]) for key, items in listed.items()]
            composed, made = composed_and_chosen(overrides)
            config = plain(composed)
            for key, override in picked.items():
                self._parts[override] = _get(config, key.split("/"))
            if number == 0:
                self._first = config
                self.choices = made

    def config(self, made: dict[str, str], values: dict[str, Any]) -> dict[str, Any]:
        """The configuration of a point. made: key -> override; values: key -> value."""
        config = {**self._first, "system": dict(self._first["system"]), "experiment": dict(self._first["experiment"])}
        for key, override in made.items():
            if override in self._parts:
                _set(config, key.split("/"), self._parts[override])
        for key in made:
            if key in values:
                _set(config, key.lstrip("+").split("."), values[key])
        return config


class _Values:
    """The values of overrides that can be set one by one, as the schema converts them."""

    def __init__(self, listed: dict[str, list[str]], varied: Sequence[str]) -> None:
        self._varied, self._listed = varied, listed
        self._known: dict[str, Any] = {}  # override -> value, or _ODD
        self._typed = compose_unnamed([items[0] for items in listed.values()]) if varied else OmegaConf.create()
        self._plain = all(self._can_be_set(key) for key in varied)
        self._plain = self._plain and not any("${" in item for items in listed.values() for item in items)

    def of(self, made: dict[str, str]) -> dict[str, Any] | None:
        """Key -> value of the varied keys; None if some override has to be left to Hydra."""
        values = {key: self._value(key, made[key]) for key in self._varied} if self._plain else {}
        return values if self._plain and not any(value is _ODD for value in values.values()) else None

    def _can_be_set(self, key: str) -> bool:
        name = key.lstrip("+")
        if "@" in key or key.startswith("~") or not (FREE.match(name) or name in _keys()):
            return False
        node: Any = self._typed
        for part in name.split(".")[:-1]:  # where nothing is on the way, it is left to Hydra
            if isinstance(node, ListConfig):  # every choice of a group has a list of its own length
                alike = len(self._listed.get(name.split(".")[0], ())) < 2
                node = node[int(part)] if alike and part.isdecimal() and int(part) < len(node) else None
            else:
                node = node.get(part) if isinstance(node, DictConfig) else None
        return isinstance(node, DictConfig)

    def _value(self, key: str, override: str) -> Any:
        if override not in self._known:
            self._known[override] = self._read(key.lstrip("+"), override)
        return self._known[override]

    def _read(self, name: str, override: str) -> Any:
        from hydra.core.override_parser.overrides_parser import OverridesParser

        value = OverridesParser.create().parse_override(override).value()
        if not isinstance(value, SCALARS):
            return _ODD
        if FREE.match(name):
            return value
        try:
            OmegaConf.update(self._typed, name, value)
        except OmegaConfBaseException:
            return _ODD  # composing it will say what is wrong
        return OmegaConf.select(self._typed, name)


def _all_narrow(group: str, items: Sequence[str]) -> bool:
    return group not in WIDE_GROUPS and all(_is_narrow(group, item.partition("=")[2]) for item in items)


@cache
def _is_narrow(group: str, choice: str) -> bool:
    """Whether a file fills only the part of the configuration that is its group's."""
    choice = choice.strip("'\"")
    path = Path(choice).expanduser() if is_path(choice) else CONF / group / f"{choice}.yaml"
    if path.suffix not in (".yaml", ".yml"):
        return True  # a trace file
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False  # composing it will say what is wrong
    return not any(word in text for word in ("defaults:", "@package", "${"))


@cache
def _keys() -> frozenset[str]:
    return frozenset(known_keys())


def _get(config: dict[str, Any], path: Sequence[str]) -> Any:
    for key in path:
        config = config[key]
    return config


def _set(config: dict[str, Any], path: Sequence[str], value: Any) -> None:
    """Set a value in nested mappings and lists, copying those on the way, as points share them."""
    *way, last = path
    node: Any = config
    for part in way:
        key: Any = int(part) if isinstance(node, list) else part
        found = node[key] if isinstance(node, list) else node.get(key)
        node[key] = list(found) if isinstance(found, list) else dict(found or {})
        node = node[key]
    node[last] = value
