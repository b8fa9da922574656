"""What there is to choose from, read from conf/ and described by the things themselves."""

from __future__ import annotations

import inspect
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.compose import CONF, choices, is_path, read_yaml
from experiments.explain import ConfigError, did_you_mean
from experiments.policy import policy_class
from experiments.schema import roles
from hwmodels.datasheet import FOLDER, Datasheet, datasheet, datasheet_names

KIND_GROUPS = {
    "systems": "system",
    "models": "model",
    "platforms": "platform",
    "traces": "trace",
    "experiments": "experiment",
    "uncertainty": "uncertainty",
}
MOST_VALUES = 6  # of a list that stands in one line
DATASHEET = "datasheet"  # a group of its own: no choice of a run, but what platforms name


def listed(kind: str) -> list[dict[str, str]]:
    """name, description (and for policies role) of every choice of a kind, in alphabetical order."""
    if kind == "policies":
        return [
            {"role": group.removeprefix("policy/"), "name": name, "description": describe(group, load(group, name))}
            for group, names in choices().items()
            if group.startswith("policy/")
            for name in names
        ]
    if kind == "figures":
        from experiments.figures.definition import figure_file, figure_names, read_definition

        texts = {name: read_definition(figure_file(name)).description for name in figure_names()}
        return [{"name": name, "description": _first_sentence(text)} for name, text in texts.items()]
    if kind == "datasheets":
        return [{"name": name, "description": sheet_line(datasheet(name))} for name in datasheet_names()]
    group = KIND_GROUPS[kind]
    return [{"name": name, "description": describe(group, load(group, name))} for name in choices()[group]]


def load(group: str, name: str) -> DictConfig:
    """The YAML of a choice, or of a path."""
    if group == DATASHEET and not is_path(name):
        return read_yaml(FOLDER / f"{name}.yaml")
    return read_yaml(Path(name).expanduser() if is_path(name) else CONF / group / f"{name}.yaml")


def find(name: str) -> list[tuple[str, str]]:
    """The (group, choice) pairs that `name` may mean: a choice, or group/choice.

    A path is recognised by its contents. Raises ConfigError if there is none.
    """
    groups = {**choices(), DATASHEET: datasheet_names()}
    if is_path(name) and Path(name).expanduser().is_file():
        return [(_group_of(Path(name).expanduser()), name)]
    found = [(group, name) for group, names in groups.items() if name in names]
    group, _, choice = name.rpartition("/")
    for wanted in (group, f"policy/{group}"):
        if choice in groups.get(wanted, ()):
            found.append((wanted, choice))
    if not found:
        hint = did_you_mean(name, dict.fromkeys(choice for names in groups.values() for choice in names))
        raise ConfigError(f"{name}: there is nothing of that name{'; see moesim list.' if hint == '.' else hint}")
    return found


def _group_of(path: Path) -> str:
    if path.suffix not in (".yaml", ".yml"):
        return "trace"
    node = read_yaml(path)
    for key, group in (
        ("devices", "platform"),
        ("experts", "model"),
        ("path", "trace"),
        ("profile", "trace"),
        ("sms", DATASHEET),
    ):
        if key in node:
            return group
    if "_target_" in node:
        sys.path.append(str(path.parent.resolve()))
        for role in roles():
            with suppress(ConfigError):
                policy_class(node["_target_"], role)
                return f"policy/{role}"
    raise ConfigError(f"{path}: expected a model, platform, trace, policy or datasheet.")


def describe(group: str, node: DictConfig) -> str:
    """One line on what a choice is."""
    if group == "model":
        return model_line(node)
    if group == "trace":
        return trace_line(node)
    if group.startswith("policy/"):
        return policy_line(group, node)
    if group in ("system", "experiment"):
        return str(OmegaConf.select(node, f"{group}.description") or "")
    return str(node.get("description") or "")


def model_line(node: DictConfig) -> str:
    """Layers, experts, parameters and bytes."""
    from simulator.model import ModelSpec

    model = ModelSpec.from_mapping(node)
    routed = model.parts()["routed_experts"][1]
    if not model.experts:
        return f"dense; {model.total_params / 1e9:.1f} B parameters, {model.dense_bytes / 2**30:.1f} GiB"
    return (
        f"{len(model.moe_layers)} MoE layers of {model.experts} experts, top-{model.top_k};"
        f" {model.total_params / 1e9:.1f} B parameters, {model.active_params() / 1e9:.1f} B active;"
        f" experts {routed / 2**30:.1f} GiB, the rest {model.dense_bytes / 2**30:.1f} GiB"
    )


def trace_line(node: DictConfig) -> str:
    """Model, requests, tokens and what was recorded."""
    from experiments.run import trace_path, trace_recipe
    from traces import open_trace

    recipe = trace_recipe(node)
    if recipe is not None:
        profile, tokens = recipe.content(), recipe.requests * (recipe.prompt_tokens + recipe.decode_tokens)
        ahead = f", guesses {len(recipe.guesses['recall'])} layers ahead" if recipe.guesses else ""
        return f"{profile.model}: {recipe.requests} requests, {tokens} tokens, synthetic{ahead}; {profile.origin}"
    trace = open_trace(trace_path(node))
    meta = trace.meta
    parts = [f"{meta.model}: {len(trace)} requests, {sum(r.tokens for r in trace.requests)} routed tokens"]
    if not any(r.prefill_tokens for r in trace.requests):
        parts.append("generated tokens only")
    if meta.top_k != meta.native_top_k:
        parts.append(f"top-{meta.top_k} of {meta.native_top_k}")
    if meta.guess_distances:
        parts.append(f"guesses {meta.guess_distances} layers ahead")
    return ", ".join(parts)


def sheet_line(sheet: Datasheet) -> str:
    """Architecture, memory and peak."""
    peak = next(sheet.peak_flop_per_s[dtype] for dtype in ("bf16", "fp16") if dtype in sheet.peak_flop_per_s)
    memory = f"{capacity(sheet)} at {sheet.memory_read_bytes_per_s / 1e9:.0f} GB/s"
    return f"{sheet.architecture}: {sheet.sms} SMs, {memory}, {peak / 1e12:.0f} TFLOP/s in half precision"


def capacity(sheet: Datasheet) -> str:
    """Size of the memory in the unit that it is sold in."""
    whole = sheet.memory_capacity_bytes / 2**30
    return f"{whole:g} GiB" if whole == int(whole) else f"{sheet.memory_capacity_bytes / 1e9:g} GB"


def policy_line(group: str, node: DictConfig) -> str:
    """First sentence of the class's docstring, and parameters that tell it from its sisters."""
    kind = policy_class(node.get("_target_"), group.removeprefix("policy/"))
    first = (inspect.getdoc(kind) or "").split("\n\n")[0].replace("\n", " ")
    parameters = ", ".join(f"{key!s}={_plain(value)}" for key, value in node.items() if key != "_target_")
    return f"{first} [{parameters}]" if parameters else first


def _plain(value: Any) -> str:
    if isinstance(value, ListConfig) and len(value) > MOST_VALUES:
        return f"({len(value)} values)"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _first_sentence(text: str) -> str:
    return text.partition(". ")[0].removesuffix(".") + "."
