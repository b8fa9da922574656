"""From a policy's configuration, `_target_` and parameters, to what makes it."""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.util
import inspect
from collections.abc import Callable, Mapping
from dataclasses import field, fields, make_dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from omegaconf import DictConfig, OmegaConf

from experiments.explain import OURS, ConfigError, one_sentence
from experiments.schema import roles
from hwmodels.strict import strict
from simulator.policies import Policy


def make_policy(node: Mapping[Any, Any], role: str, where: str = "") -> Callable[[], Any]:
    """The factory of a policy from its `_target_` and parameters; `where` names the place in messages.

    Raises ConfigError if the class cannot be found, plays another role, or does not take the parameters.
    """
    where = where or f"policy.{role}"
    plain = OmegaConf.to_container(node, resolve=True) if isinstance(node, DictConfig) else node
    assert isinstance(plain, Mapping)
    values = {str(key): value for key, value in plain.items()}
    target = values.pop("_target_", None)
    kind = policy_class(target, role, where)
    signature = inspect.signature(kind)
    hints = get_type_hints(kind.__init__) if signature.parameters else {}
    if values and not signature.parameters:
        raise ConfigError(f"{where}: unknown field '{next(iter(values))}'; {kind.__name__} takes none.")
    members: list[Any] = []
    for name, parameter in signature.parameters.items():
        default = parameter.default
        hint = hints.get(name, Any)
        members.append((name, hint) if default is parameter.empty else (name, hint, field(default=default)))
    parameters: Any = strict(make_dataclass(kind.__name__, members), values, where, ConfigError)
    chosen = {f.name: getattr(parameters, f.name) for f in fields(parameters)}
    make = functools.partial(kind, **chosen)
    make()  # a value it refuses is refused here
    return make


def policy_class(target: Any, role: str, where: str = "") -> type[Policy]:
    """The class that `_target_` names. Raises ConfigError if there is none, or it plays another role."""
    where = f"{where or f'policy.{role}'}: field '_target_'"
    if not isinstance(target, str):
        raise ConfigError(f"{where} must name the class of the policy, such as simulator.policies.cache.lru.Lru.")
    module, _, name = target.rpartition(".")
    try:
        kind = getattr(_module(module), name)
    except Exception as error:  # importing somebody's module may raise anything
        raise ConfigError(f"{where} names '{target}', which cannot be loaded: {one_sentence(error)}") from None
    if not (inspect.isclass(kind) and issubclass(kind, roles()[role])):
        raise ConfigError(f"{where} names '{target}', which is no {roles()[role].__name__}.")
    return kind


_read: dict[str, str] = {}  # module of somebody's own -> digest of the file as it was read


def _module(name: str) -> ModuleType:
    """A module; one of somebody's own is read again if its file has changed, as in a notebook."""
    module = importlib.import_module(name)
    digest = source_digest(f"{name}.")
    if _read.setdefault(name, digest) != digest:
        module = importlib.reload(module)
        _read[name] = digest
    return module


def check_module(target: Any, beside: Path) -> None:
    """Raise ConfigError if a class's module is in the folder `beside`, but another file of that name comes first."""
    module = str(target).partition(".")[0]
    own = beside / f"{module}.py"
    if own.is_file() and source_digest(f"{module}.") != hashlib.sha256(own.read_bytes()).hexdigest():
        found = importlib.util.find_spec(module)
        first = found.origin if found else "another module"
        raise ConfigError(f"{target}: its class is in {own}, but {first} comes before it; rename one of them.")


def source_digest(target: str) -> str:
    """SHA-256, hexadecimal, of the file of a class of somebody's own; empty for ours, or where there is no file."""
    name = target.rpartition(".")[0]
    if name.partition(".")[0] in OURS:
        return ""
    try:
        found = importlib.util.find_spec(name)
        return hashlib.sha256(Path(found.origin).read_bytes()).hexdigest() if found and found.origin else ""
    except (ImportError, OSError, ValueError):
        return ""
