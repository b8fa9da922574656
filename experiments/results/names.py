"""From the configurations of run folders to the columns of a sweep: choices by name, changed keys dotted."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

from omegaconf import OmegaConf

from experiments.catalogue import load
from experiments.compose import choices
from experiments.schema import roles

_WORDS = ("description", "source")  # keys that say something and change nothing


def configuration_columns(configs: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The configuration columns of each resolved configuration, in one order.

    A model, platform or policy goes by the name of the shipped choice that it is, or departs from least;
    else by its own name or `_target_`. The keys in which any configuration departs are columns too, such as
    `policy.prediction.width`, with the value that each configuration has there.
    """
    groups = ["model", "platform", *(f"policy.{role}" for role in roles())]
    first_seen: dict[tuple[str, str], dict[str, Any]] = {}
    named: list[dict[str, str]] = []
    changed: dict[str, None] = {}
    for config in configs:
        names = {}
        for group in groups:
            leaves = dict(_leaves(_at(config, group) or {}))
            names[group], base = _choice(group, leaves)
            if base is None:
                base = first_seen.setdefault((group, names[group]), leaves)
            for key in dict.fromkeys([*base, *leaves]):
                if base.get(key) != leaves.get(key) and key.rpartition(".")[2] not in (*_WORDS, "_target_"):
                    changed[f"{group}.{key}"] = None
        named.append(names)
    rows = []
    for config, names in zip(configs, named, strict=True):
        policies = {group: name for group, name in names.items() if group.startswith("policy.")}
        row: dict[str, Any] = {"model": names["model"], "platform": names["platform"]}
        row |= {"trace": _at(config, "trace.name"), **policies}
        row |= {key: config.get(key) for key in ("cache_gib", "host_cache_gib", "seed")}
        for section in ("workload", "settings", "tenants"):
            row |= {f"{section}.{key}": value for key, value in _leaves(config.get(section) or {})}
        row |= {key: _at(config, key) for key in sorted(changed)}
        rows.append(row)
    return rows


def _choice(group: str, leaves: dict[str, Any]) -> tuple[str, dict[str, Any] | None]:
    """The name that contents go by, and the contents of the shipped choice of that name if there is one."""
    identity = "_target_" if group.startswith("policy.") else "name"
    same = {name: body for name, body in _shipped(group).items() if body.get(identity) == leaves.get(identity)}
    if not same:
        return str(leaves.get(identity, "")), None
    nearest = min(same, key=lambda name: sum(same[name].get(k) != leaves.get(k) for k in {*same[name], *leaves}))
    return nearest, same[nearest]


@cache
def _shipped(group: str) -> dict[str, dict[str, Any]]:
    """Choice -> its contents by dotted key."""
    folder = group.replace(".", "/")
    return {name: dict(_leaves(OmegaConf.to_container(load(folder, name)))) for name in choices()[folder]}


def _leaves(node: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, plain value) of everything below a mapping; items of a list go by their number."""
    items = node.items() if isinstance(node, Mapping) else enumerate(node)
    for key, value in items:
        if isinstance(value, (Mapping, list)):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _at(node: Any, key: str) -> Any:
    """The value at a dotted key, None where there is none."""
    for part in key.split("."):
        if isinstance(node, list) and part.isdigit() and int(part) < len(node):
            node = node[int(part)]
        else:
            node = node.get(part) if isinstance(node, Mapping) else None
    return node
