"""Entries of a platform file that stand for several: devices with `count`, links with `ends`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwmodels.errors import PlatformError


def repeated_devices(devices: Any, where: str) -> Any:
    """Devices with those of a `count` numbered from 0: `gpu` with count 2 becomes gpu0 and gpu1. A `memory` that ends
    in * gets the same number: one die for each GPU.

    Raises PlatformError naming `where` and the field for a count that is none, or a name that is taken.
    """
    if not isinstance(devices, Mapping):
        return devices
    found: dict[str, Any] = {}
    for key, fields in devices.items():
        names, memory = [key], None
        if isinstance(fields, Mapping) and "count" in fields:
            count = fields["count"]
            if not isinstance(count, int) or isinstance(count, bool) or count < 1:
                raise PlatformError(
                    f"{where}: field 'devices.{key}.count' must be a whole number of at least 1, got {count!r}."
                )
            fields = {name: value for name, value in fields.items() if name != "count"}
            names = [f"{key}{number}" for number in range(count)]
            memory = fields.get("memory")
        for number, name in enumerate(names):
            if name in found:
                raise PlatformError(f"{where}: field 'devices.{key}' gives '{name}', which is there already.")
            if isinstance(memory, str) and memory.endswith("*"):
                found[name] = {**fields, "memory": f"{memory[:-1]}{number}"}
            else:
                found[name] = fields
    return found


def repeated_links(links: list[Any], where: str) -> list[tuple[str, Any]]:
    """(place in the file, link) for each link; one with `ends`, a list of pairs, becomes one for each pair, its name
    numbered from 0. Raises PlatformError naming `where` and the field for what is no pair."""
    found: list[tuple[str, Any]] = []
    for index, link in enumerate(links):
        if not isinstance(link, Mapping) or "ends" not in link:
            found.append((f"links[{index}]", link))
            continue
        ends = link["ends"]
        if not isinstance(ends, list | tuple) or not ends:
            raise PlatformError(f"{where}: field 'links[{index}].ends' must be a list of pairs of devices.")
        rest = {name: value for name, value in link.items() if name != "ends"}
        for number, pair in enumerate(ends):
            at = f"links[{index}].ends[{number}]"
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise PlatformError(f"{where}: field '{at}' must be a pair of devices, got {pair!r}.")
            if {"a", "b"} & set(rest):
                raise PlatformError(f"{where}: field 'links[{index}]' has ends; expected it without a and b.")
            found.append((at, {**rest, "name": f"{rest.get('name', '')}{number}", "a": pair[0], "b": pair[1]}))
    return found
