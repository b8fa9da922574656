"""Names, types and defaults of every key of a run's configuration, for Hydra to check.

The keys of a workload and of the settings are those of the simulator's own dataclasses, and the roles of
`policy` those of `simulator.scenario.System`; nothing is listed twice.
"""

from __future__ import annotations

import dataclasses
import functools
from dataclasses import dataclass, field
from typing import Any, get_args, get_type_hints

from omegaconf import MISSING, DictConfig, OmegaConf

from simulator.layout_choice import LayoutChoice
from simulator.plan import Workload
from simulator.policies import Policy
from simulator.scenario import Settings, System
from simulator.tenants.spec import Tenants

# settings that stand at the top of the configuration, some in another unit
_TOP_LEVEL = ("cache_bytes", "host_cache_bytes", "seed", "timeline", "reference")


def roles() -> dict[str, type[Policy]]:
    """Role -> base class of its policies, in the order of `System`."""
    hints = get_type_hints(System)
    return {role: get_args(hint)[-1] for role, hint in hints.items() if get_args(hint)}


def _fields(source: type, leave_out: tuple[str, ...] = ()) -> type:
    """A dataclass of the same fields which, unlike a frozen one, OmegaConf lets one fill."""
    hints = get_type_hints(source)
    kept = [f for f in dataclasses.fields(source) if f.name not in leave_out]
    return dataclasses.make_dataclass(
        source.__name__, [(f.name, hints[f.name], field(default=f.default)) for f in kept]
    )


WorkloadFields = _fields(Workload)
LayoutFields = _fields(LayoutChoice)
SettingsFields = _fields(Settings, _TOP_LEVEL)
TenantsFields = _fields(Tenants)


@dataclass
class PoolFields:
    """As `simulator.pools.spec.Pool`; scheduling: parameters of policy/scheduling that differ in this pool."""

    replicas: int = 1
    layout: LayoutFields = field(default_factory=LayoutFields)  # type: ignore[valid-type]
    scheduling: dict[str, Any] = field(default_factory=dict)


@dataclass
class PoolsFields:
    """As `simulator.pools.spec.Pools`; there are none unless something of them is set."""

    prefill: PoolFields = field(default_factory=PoolFields)
    decode: PoolFields = field(default_factory=PoolFields)
    aggregated: PoolFields = field(default_factory=PoolFields)
    dealing: str = "in_turn"


PolicyFields = dataclasses.make_dataclass(
    "Policies", [(role, dict[str, Any], field(default_factory=dict)) for role in roles()]
)


@dataclass
class TraceFields:
    """Which trace: a name to show, and a shipped file's name or a path, or how to make it.

    A trace with `profile` instead of `path` is drawn when it is first used: the other keys are those of
    `traces.synthesis.recipe.Recipe`, which reads and checks them; null stands for its defaults.
    steps: transforms that make the trace to be used of this one, such as `top_k 1` (null: none).
    """

    name: str = MISSING
    path: str | None = None
    profile: str | None = None
    requests: int | None = None
    prompt_tokens: int | None = None
    decode_tokens: int | None = None
    seed: int | None = None
    probabilities: bool | None = None
    guesses: Any = None
    steps: list[str] | None = None


@dataclass
class UncertaintyFields:
    """Repeating a run on machines whose constants are drawn.

    draws: how many (0: none); seed: of these draws; description: one line for people.
    """

    draws: int = 0
    seed: int = 0
    description: str = ""


@dataclass
class Label:
    """What a system or an experiment calls itself."""

    name: str = ""
    description: str = ""


@dataclass
class Config:
    """A run.

    name         of the run, and of its folder below runs/
    out          run folder (null: runs/<name>)
    seed         of every random draw
    cache_gib    expert budget of each worker, GiB (null: what its memory leaves)
    host_cache_gib  expert budget of host memory in GiB if the experts' home is an SSD (null: three quarters)
    timeline     write a Chrome trace of every segment
    reference    compute the clairvoyant reference too
    model, platform, policy.<role>  contents of the chosen files; read and checked by their own classes
    """

    name: str = "run"
    out: str | None = None
    seed: int = 0
    cache_gib: float | None = None
    host_cache_gib: float | None = None
    timeline: bool = False
    reference: bool = True
    system: Label = field(default_factory=Label)
    experiment: Label = field(default_factory=Label)
    model: dict[str, Any] = field(default_factory=dict)
    platform: dict[str, Any] = field(default_factory=dict)
    trace: TraceFields = field(default_factory=TraceFields)
    workload: WorkloadFields = field(default_factory=WorkloadFields)  # type: ignore[valid-type]
    policy: PolicyFields = field(default_factory=PolicyFields)  # type: ignore[valid-type]
    layout: LayoutFields = field(default_factory=LayoutFields)  # type: ignore[valid-type]
    uncertainty: UncertaintyFields = field(default_factory=UncertaintyFields)
    settings: SettingsFields = field(default_factory=SettingsFields)  # type: ignore[valid-type]
    tenants: TenantsFields = field(default_factory=TenantsFields)  # type: ignore[valid-type]
    pools: PoolsFields = field(default_factory=PoolsFields)


@functools.cache
def structured() -> DictConfig:
    """The schema as a configuration of defaults. One for all: merge onto it, do not change it."""
    return OmegaConf.structured(Config)


@functools.cache
def register() -> None:
    """Make the schema known to Hydra as `schema`."""
    from hydra.core.config_store import ConfigStore

    ConfigStore.instance().store(name="schema", node=Config)
