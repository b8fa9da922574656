"""The model that a row names: one of the zoo, by its name on the Hugging Face hub, or the path of a config.json."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from omegaconf import OmegaConf

from experiments.catalogue import load
from experiments.compose import choices
from experiments.explain import ConfigError, did_you_mean
from simulator.model import ModelSpec
from simulator.model_import import import_config

VARIANTS = re.compile(
    r"(instruct|base|chat|it|thinking|hf|exp|preview|fp8|fp4|nvfp4|mxfp4|bf16|awq|gptq|int4|int8|w4a16|dynamic|block"
    r"|v\d+|0|\d{4}|\d+b|\d+e|a\d+b|1)"
)
"""Parts of a name that say nothing of the architecture: training, format, date, sizes that the zoo leaves out."""


@cache
def find_model(name: str) -> ModelSpec:
    """The model. Raises ConfigError or ModelError, one sentence, if there is none or its file cannot be read."""
    path = Path(name).expanduser()
    if path.suffix == ".json" or (path.is_dir() and (path / "config.json").is_file()):
        if not path.exists():
            raise ConfigError(f"{name}: there is no such file.")
        return import_config(path).spec
    return read_preset(name if path.suffix in (".yaml", ".yml") else find_preset(name))


@cache
def find_preset(name: str) -> str:
    """The name in the zoo of a model on the hub. Raises ConfigError if there is none."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.split("/")[-1].lower()).strip("_").removeprefix("meta_")
    zoo = choices()["model"]
    fitting = [known for known in zoo if plain == known or _is_variant(plain, known)]
    if not fitting:
        hint = did_you_mean(plain, zoo)
        raise ConfigError(f"there is no model '{name}'{hint}")
    return max(fitting, key=len)


def _is_variant(plain: str, known: str) -> bool:
    """Whether a name is that of a zoo's model and parts that do not matter."""
    if not plain.startswith(f"{known}_"):
        return False
    rest = plain.removeprefix(f"{known}_").split("_")
    first = rest[0] not in ("0", "1") or not known[-1].isdigit()  # deepseek_v3 is not deepseek_v3_1
    return first and all(VARIANTS.fullmatch(part) for part in rest)


@cache
def read_preset(name: str) -> ModelSpec:
    """A model of the zoo, or of a YAML."""
    return ModelSpec.from_mapping(OmegaConf.to_container(load("model", name), resolve=True), name)
