"""From command-line overrides to a checked configuration: Hydra, plus files of one's own by path.

`model=/path/my.yaml`, and likewise for every group, is served from a temporary folder on Hydra's
search path: the file is copied there under a name which no shipped choice has, and the override rewritten.
"""

from __future__ import annotations

import functools
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from experiments import schema
from experiments.explain import ConfigError, explain, one_sentence

CONF = Path(__file__).parent / "conf"
OWN = "own_"  # prefix of the names given to files of one's own
_ITEM = re.compile(r"'[^']*'|\"[^\"]*\"|[^,]+")
# keys whose own readers refuse unknown names
FREE = re.compile(r"(model|platform|policy\.\w+|pools\.\w+\.scheduling)\.")


def choices() -> dict[str, list[str]]:
    """Group -> names of its choices, both in alphabetical order."""
    groups: dict[str, list[str]] = {}
    for path in sorted(CONF.rglob("*.yaml")):
        if path.parent != CONF:
            groups.setdefault(path.parent.relative_to(CONF).as_posix(), []).append(path.stem)
    return groups


def compose_config(overrides: Sequence[str] = ()) -> DictConfig:
    """The configuration of one run: everything resolved, every key known and of its type.

    Raises ConfigError, one sentence, for whatever is wrong with an override or a file it names.
    """
    cfg = compose_unnamed(overrides)
    name_system(cfg, overrides)
    return cfg


def compose_unnamed(overrides: Sequence[str]) -> DictConfig:
    """As `compose_config`, before `name_system`."""
    with search_path(overrides) as (rewritten, sources):
        return _compose(rewritten, list(overrides), sources)


def chosen(overrides: Sequence[str] = ()) -> dict[str, str]:
    """Group -> the choice made in it, for the groups of `choices`. Raises ConfigError as `compose_config`."""
    with search_path(overrides) as (rewritten, sources):
        return _made(_compose(rewritten, list(overrides), sources, with_hydra=True), sources)


def composed_and_chosen(overrides: Sequence[str]) -> tuple[DictConfig, dict[str, str]]:
    """`compose_unnamed` and `chosen` in one go, for the price of one."""
    with search_path(overrides) as (rewritten, sources):
        whole = _compose(rewritten, list(overrides), sources, with_hydra=True)
        names = _made(whole, sources)
        OmegaConf.set_struct(whole, False)
        del whole["hydra"]
        try:
            return checked(whole), names
        except (OmegaConfBaseException, TypeError, AttributeError, ValueError) as error:
            raise ConfigError(explain(error, list(overrides), known_keys(), choices(), sources)) from None


def _made(whole: DictConfig, sources: dict[str, str]) -> dict[str, str]:
    """The choices of a configuration that was composed with Hydra's own part, as they were given."""
    made = whole.hydra.runtime.choices
    return {group: sources.get(made[group], made[group]) for group in choices() if made.get(group) is not None}


def axes(overrides: Sequence[str]) -> dict[str, list[str]]:
    """Key -> the overrides that set it, one for each of its values, in order.

    `hydra.sweeper.params` of the experiment count too. Raises ConfigError, one sentence, if they cannot be read.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    with search_path(overrides) as (rewritten, sources):
        try:
            found: dict[str, list[str]] = {}
            for override in OverridesParser.create().parse_overrides(rewritten):
                key = override.get_key_element()
                if override.is_sweep_override():
                    if "shuffle(" in (override.input_line or ""):
                        raise ConfigError(f"{override.input_line}: the order of a sweep is fixed; leave out shuffle.")
                    if not override.is_discrete_sweep():
                        raise ConfigError(
                            f"{override.input_line}: expected a list or a range; only a search takes intervals."
                        )
                    found[key] = [f"{key}={item}" for item in override.sweep_string_iterator()]
                else:
                    found[key] = [override.input_line or ""]
            firsts = [items[0] for items in found.values()]
            params = _compose(firsts, list(overrides), sources, with_hydra=True).hydra.sweeper.params or {}
            named = {key.lstrip("+~") for key in found}
            extra = [f"{key}={value}" for key, value in params.items() if key not in named]
            for override in OverridesParser.create().parse_overrides(extra):
                key = override.get_key_element()
                sweep = override.is_sweep_override()
                items = override.sweep_string_iterator() if sweep else [override.get_value_string()]
                found[key] = [f"{key}={item}" for item in items]
        except HydraException as error:
            raise ConfigError(explain(error, list(overrides), known_keys(), choices(), sources)) from None
    return {
        key: [restore(item, sources) for item in items] for key, items in found.items() if not key.startswith("hydra.")
    }


def restore(override: str, sources: dict[str, str]) -> str:
    """An override of `search_path` as it was given."""
    key, _, value = override.partition("=")
    return f"{key}='{sources[value]}'" if value in sources else override


def _compose(
    overrides: Sequence[str], given: list[str], sources: dict[str, str], with_hydra: bool = False
) -> DictConfig:
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException

    schema.register()
    try:
        with initialize_config_dir(str(CONF), version_base="1.3"):
            cfg = compose("config", [force(item) for item in overrides], return_hydra_config=with_hydra)
        return cfg if with_hydra else checked(cfg)
    except (HydraException, OmegaConfBaseException, TypeError, AttributeError, ValueError) as error:
        # Hydra meets some odd overrides (a list for a group) with a bare TypeError or ValueError
        raise ConfigError(explain(error, given, known_keys(), choices(), sources)) from None
    finally:
        GlobalHydra.instance().clear()


def checked(cfg: DictConfig) -> DictConfig:
    """A composed configuration, resolved, with every key known and of its type. Raises OmegaConf's errors."""
    merged = OmegaConf.merge(schema.structured(), OmegaConf.to_container(cfg, resolve=True))
    assert isinstance(merged, DictConfig)
    OmegaConf.to_container(merged, throw_on_missing=True)
    return merged


def name_system(cfg: Any, given: Sequence[str]) -> None:
    """Name the system after its file if it has no name, and say what was changed of it."""
    for group in ("system", "experiment"):
        chosen = [item.partition("=")[2].strip("'\"") for item in given if item.lstrip("+").startswith(f"{group}=")]
        if not cfg[group]["name"] and chosen and chosen[-1] not in ("null", ""):
            cfg[group]["name"] = Path(chosen[-1]).stem
    chosen = [item.partition("=")[2].strip("'\"") for item in given if item.startswith("system=")]
    own = _system_choices(chosen[-1] if chosen else str(cfg["system"]["name"]))
    changed = [item for item in given if item.lstrip("+").startswith("policy")]
    changed = [item for item in changed if tuple(item.partition("=")[::2]) not in own]
    if changed:
        cfg["system"]["name"] = " ".join([cfg["system"]["name"] or "custom", "with", *changed])


@functools.cache
def _system_choices(system: str) -> frozenset[tuple[str, str]]:
    """(group, choice) of the policies that a system has without further overrides."""
    defaults = [entry for entry in read_yaml(CONF / "config.yaml").defaults if not isinstance(entry, str)]
    path = Path(system).expanduser() if is_path(system) else CONF / "system" / f"{system}.yaml"
    if path.is_file():
        defaults += [entry for entry in read_yaml(path).get("defaults") or [] if not isinstance(entry, str)]
    found = {str(key).removeprefix("override /"): str(value) for entry in defaults for key, value in entry.items()}
    return frozenset(item for item in found.items() if item[0].startswith("policy/"))


def force(override: str) -> str:
    """Let an override add a key where those who read the part, not the schema, refuse unknown ones."""
    return f"++{override}" if FREE.match(override) and "=" in override else override


def known_keys() -> list[str]:
    """Every key that the schema knows, dotted."""

    def walk(node: Any, prefix: str) -> Iterator[str]:
        for key in node:
            value = node._get_node(key)
            yield f"{prefix}{key}"
            if isinstance(value, DictConfig) and not value._is_none():
                yield from walk(value, f"{prefix}{key}.")

    return list(walk(schema.structured(), ""))


# ---- files of one's own


@contextmanager
def search_path(overrides: Sequence[str]) -> Iterator[tuple[list[str], dict[str, str]]]:
    """Overrides with paths replaced by names, and name -> path as given; the folder lasts as long as this."""
    folder = Path(tempfile.mkdtemp(prefix="moesim-"))
    try:
        sources: dict[str, str] = {}
        groups = choices()
        for item in overrides:
            if item.lstrip("+~").startswith("hydra"):
                raise ConfigError(f"{item}: of Hydra's own settings only the launcher's are taken, and only with -m.")
        rewritten = [_rewrite(item, groups, folder, sources) for item in overrides]
        if sources:
            rewritten.append(f"hydra.searchpath=['file://{folder.as_posix()}']")
        yield rewritten, sources
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _rewrite(override: str, groups: dict[str, list[str]], folder: Path, sources: dict[str, str]) -> str:
    key, equals, value = override.partition("=")
    group = key.lstrip("+")
    if not equals or group not in groups:
        return override
    if value.startswith("["):
        raise ConfigError(f"{override}: expected a choice, or several with commas and no brackets.")
    if value.startswith("glob("):
        value = ",".join(_globbed(value, groups[group]))
    items = []
    for item in _ITEM.findall(value):
        text = item.strip().strip("'\"")
        if not is_path(text):
            items.append(item)
            continue
        name = f"{OWN}{len(sources)}_{re.sub(r'[^A-Za-z0-9_]', '_', Path(text).stem)}"
        place = folder / group / f"{name}.yaml"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(_contents(group, text), encoding="utf-8")
        sources[name] = text
        items.append(name)
    return f"{key}={','.join(items)}"


def _globbed(pattern: str, names: list[str]) -> list[str]:
    """The choices that Hydra's `glob(...)` stands for."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        value: Any = OverridesParser.create().parse_override(f"x={pattern}").value()
        found: list[str] = value.filter(names)
    except (HydraException, AttributeError):
        raise ConfigError(f"{pattern}: cannot be read; expected glob(*) or glob(a*, exclude=b*).") from None
    if not found:
        raise ConfigError(f"{pattern}: there is no such choice (there are: {', '.join(names)}).")
    return found


def is_path(text: str) -> bool:
    """Whether a choice is a file of one's own: it has a folder or a suffix."""
    return "/" in text or "\\" in text or text.endswith((".yaml", ".yml", ".parquet"))


def own_file(path: Path) -> str:
    """The path of a file of one's own, absolute where `data_path` would take it for a shipped trace of that name."""
    from traces import DATA_FOLDER

    return str(path.resolve() if (DATA_FOLDER / path).is_file() else path)


def _contents(group: str, text: str) -> str:
    path = Path(text).expanduser()
    if not path.is_file():
        raise ConfigError(f"{group}={text}: there is no such file.")
    if group == "trace" and path.suffix not in (".yaml", ".yml"):
        return OmegaConf.to_yaml({"name": path.stem, "path": own_file(path)})
    node = read_yaml(path)
    if group in ("trace", "system", "experiment"):
        _check_keys(node, path, schema.TraceFields if group == "trace" else schema.Config)
    if group.startswith("policy/") or group in ("system", "experiment"):
        beside = str(path.parent.resolve())
        if beside not in sys.path:
            sys.path.append(beside)  # where its own policy classes may live
        if group.startswith("policy/"):
            from experiments.policy import check_module

            check_module(node.get("_target_"), path.parent)
    content = path.read_text(encoding="utf-8")
    if "defaults" not in node and "${" not in content:  # else it is whole only once composed
        _check_alone(group, node, path)
    for key in ("path", "profile") if group == "trace" else ():
        if isinstance(node.get(key), str) and (path.parent / node[key]).is_file():
            node[key] = own_file(path.parent / node[key])  # a trace, or its profile, beside its YAML
            return OmegaConf.to_yaml(node)
    if group in ("system", "experiment") and "@package" not in content:
        content = f"# @package _global_\n{content}"
    return content


def _check_alone(group: str, node: DictConfig, path: Path) -> None:
    """Let those who will read a model, platform or policy read it now, so that errors name the file."""
    if group == "model":
        from simulator.model import ModelSpec

        ModelSpec.from_mapping(node, str(path))
    elif group == "platform":
        from hwmodels import Platform

        Platform.from_mapping(node, str(path))
    elif group.startswith("policy/"):
        from experiments.policy import make_policy

        make_policy(node, group.removeprefix("policy/"), str(path))


def _check_keys(node: DictConfig, path: Path, structure: type) -> None:
    """Raise ConfigError naming the file if it has keys, or values of types, that the schema does not know."""
    kept = OmegaConf.masked_copy(node, [key for key in node if key not in ("defaults", "hydra")])  # type: ignore[misc]
    try:
        OmegaConf.merge(OmegaConf.structured(structure), kept)
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {explain(error, [], known_keys(), choices(), {})}") from None


def read_yaml(path: Path) -> DictConfig:
    """A YAML file's mapping. Raises ConfigError naming the file and, for bad syntax, the place."""
    import yaml

    try:
        node = OmegaConf.load(path)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        problem = getattr(error, "problem", None) or one_sentence(error)
        raise ConfigError(f"{path}{place}: this is not YAML: {problem.rstrip('.')}.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: this is not YAML: it is not UTF-8 text.") from None
    except (OSError, OmegaConfBaseException, ValueError, RecursionError) as error:
        if isinstance(error, OSError) and error.errno:
            raise ConfigError(f"{path}: {error.strerror or 'cannot be read'}.") from None
        raise ConfigError(f"{path}: expected a mapping of keys to values.") from None
    if not isinstance(node, DictConfig):
        raise ConfigError(f"{path}: expected a mapping of keys to values.")
    return node
