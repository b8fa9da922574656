"""Who is compared: the proposed machine and its rivals, each with the systems that it may run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from experiments.compose import CONF, choices, is_path, read_yaml
from experiments.explain import ConfigError, did_you_mean
from experiments.sweep.points import Composer, Point
from hwmodels import Platform

NEAR = {
    f"near_{rule}": (
        "system=on_demand_lru",
        "policy/placement=popular",
        f"policy/execution=near_{rule}",
    )
    for rule in ("makespan", "ratio", "all")
}
NEAR_WORDS = {
    "near_makespan": "popular experts on the GPU; of every layer, whatever split between GPU and units ends first",
    "near_ratio": "popular experts on the GPU; of every layer a share, by the bandwidths of link and unit, runs there,"
    " and the experts of fewer tokens on the units",
    "near_all": "popular experts on the GPU, but every expert that a unit can run runs there",
}
RIVAL = ("on_demand_lru", "pinned_popular", "cpu_in_place", "fiddler", "transition_prefetch")
UNITS = ("near_makespan", "near_ratio", "near_all", "pinned_popular")


@dataclass(frozen=True)
class Side:
    """A machine. label: its name in the report; choice: as in `platform=`; systems: of which the quickest counts."""

    label: str
    choice: str
    platform: Platform
    systems: tuple[str, ...]


def overrides_of(system: str) -> tuple[str, ...]:
    """The overrides that choose a system: one of `NEAR`, a preset, or a file of one's own."""
    return NEAR.get(system, (f"system={system}",))


def described(system: str) -> str:
    """A system in words, from its file."""
    if system in NEAR_WORDS:
        return NEAR_WORDS[system]
    path = Path(system) if is_path(system) else CONF / "system" / f"{system}.yaml"
    node = read_yaml(path).get("system") or {}
    return str(node.get("description") or "no description").rstrip(".")


def sides(box: str, rivals: Sequence[str], systems: Sequence[str], overrides: Sequence[str]) -> list[Side]:
    """The proposed machine first, then its rivals.

    systems: SYSTEM,... for all, or MACHINE=SYSTEM,... for one (`box` is the proposed one); default: UNITS where a unit
    computes near a memory, else RIVAL. Raises ConfigError, one sentence, for what cannot be read.
    """
    if not rivals:
        raise ConfigError("--against: expected at least one platform to compare with, such as rtx_4090.")
    own = {choice: _label(choice) for choice in (box, *rivals)}
    if len(set(own.values())) < 1 + len(rivals):  # the same one twice, too
        raise ConfigError(f"--against {' '.join(rivals)}: two machines have the same name; expected different ones.")
    chosen = _chosen(systems, [own[box], "box", *(own[rival] for rival in rivals)])
    made = []
    for choice, label in own.items():
        platform = _platform(choice, overrides)
        given = chosen.get("box") if choice == box and "box" in chosen else chosen.get(label, chosen.get(""))
        made.append(Side(label, choice, platform, given or (UNITS if _near(platform) else RIVAL)))
    return made


def _near(platform: Platform) -> bool:
    return any(platform.devices[unit].kind == "ndp" for unit in platform.units)


def _label(choice: str) -> str:
    return Path(choice).stem if is_path(choice) else choice


def _chosen(systems: Sequence[str], labels: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Label -> its systems; "" for those of all."""
    found: dict[str, tuple[str, ...]] = {}
    known = [*NEAR, *choices()["system"]]
    for item in systems:
        label, _, names = item.rpartition("=")
        if label and label not in labels:
            raise ConfigError(f"--system {item}: there is no machine '{label}'{did_you_mean(label, labels)}")
        for name in names.split(","):
            if not is_path(name) and name not in known:
                raise ConfigError(f"--system {item}: there is no system '{name}'{did_you_mean(name, known)}")
        found[label] = tuple(names.split(","))
    return found


def _platform(choice: str, overrides: Sequence[str]) -> Platform:
    """The machine as the overrides leave it; they may change values of all machines, such as model and cache."""
    return Platform.from_mapping(composed((*overrides, f"platform={choice}")).config["platform"], choice)


@cache
def composed(overrides: tuple[str, ...]) -> Point:
    """The point of these overrides, each with one value; of one key the last counts. Composed once."""
    return Composer({item.partition("=")[0]: [item] for item in overrides}).first
