"""A ModelSpec from a Hugging Face config.json: `import_config`."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simulator.model import ModelError, ModelSpec
from simulator.model_import import families, others
from simulator.model_import.config import HfConfig
from simulator.model_import.quantization import quantized

FAMILIES: dict[str, Callable[[HfConfig], dict[str, Any]]] = {
    "arctic": families.arctic,
    "dbrx": families.dbrx,
    "deepseek": families.deepseek,
    "deepseek_v2": families.deepseek_v2,
    "deepseek_v3": families.deepseek_v3,
    "deepseek_v32": families.deepseek_v3,
    "dots1": families.dots1,
    "ernie4_5_moe": families.ernie4_5_moe,
    "flex_olmo": families.olmoe,
    "gemma": others.gemma,
    "gemma2": others.gemma2,
    "gemma3": others.gemma3,
    "gemma4": families.gemma4,
    "glm4": others.glm4,
    "glm4_moe": families.glm4_moe,
    "glm4_moe_lite": families.deepseek_v3,
    "glm4v_moe": families.glm4_moe,
    "glm_moe_dsa": families.deepseek_v3,
    "gpt_oss": families.gpt_oss,
    "granite": others.llama,
    "granitemoe": families.granitemoe,
    "granitemoehybrid": families.granitemoehybrid,
    "granitemoeshared": families.granitemoe,
    "hunyuan": families.hunyuan_moe,
    "hunyuan_v1_dense": others.hunyuan_dense,
    "hunyuan_v1_moe": families.hunyuan_moe,
    "jamba": families.jamba,
    "jetmoe": families.jetmoe,
    "kimi_k2": families.deepseek_v3,
    "lfm2_moe": families.lfm2_moe,
    "llama": others.llama,
    "llama4": families.llama4,
    "mimo_v2_flash": families.mimo_v2_flash,
    "minimax": families.minimax,
    "minimax_m2": families.minimax_m2,
    "minimax_text_01": families.minimax,
    "mistral": others.mistral,
    "mixtral": families.mixtral,
    "nllb-moe": others.nllb_moe,
    "olmo2": others.olmo2,
    "olmo3": others.olmo3,
    "olmoe": families.olmoe,
    "phi3": others.mistral,
    "phimoe": families.phimoe,
    "qwen2": others.qwen2,
    "qwen2_moe": families.qwen2_moe,
    "qwen3": others.qwen3,
    "qwen3_5": others.qwen3_5,
    "qwen3_5_moe": families.qwen3_next,
    "qwen3_moe": families.qwen3_moe,
    "qwen3_next": families.qwen3_next,
    "qwen3_vl": others.qwen3,
    "qwen3_vl_moe": families.qwen3_moe,
    "seed_oss": others.seed_oss,
    "smollm3": others.llama,
    "switch_transformers": others.switch_transformers,
}
"""model_type (without a trailing _text) -> what reads the family's fields."""
DTYPES = {"bfloat16": ("bf16", 16), "float16": ("fp16", 16), "float32": ("fp32", 32)}
PREDICTORS = ("num_nextn_predict_layers", "mtp_num_hidden_layers", "num_mtp_modules", "num_mtp_layers")
"""How files call layers for multi-token prediction."""


@dataclass(frozen=True)
class Imported:
    """A model, the fields it was read from (as a file of experiments/conf/model has them), and what it lacks."""

    spec: ModelSpec
    fields: dict[str, Any]
    remarks: list[str]


def import_config(path: str | Path, name: str = "") -> Imported:
    """Read a config.json, or the one in a folder. `name` of the model (default: as the file says, or the file's own).

    Raises ModelError, one sentence that names the file and the field, if the family is not known, a field is missing,
    or the model is of a shape that is not modelled; OSError if there is no such file.
    """
    path = Path(path).expanduser()
    path = path / "config.json" if path.is_dir() else path
    top = HfConfig(_read(path), str(path))
    config = top
    if isinstance(top.fields.get("text_config"), Mapping):
        shared = {key: top.fields[key] for key in ("quantization_config", "tie_word_embeddings") if top.has(key)}
        config = HfConfig({**shared, **top.part("text_config").fields}, f"{path} (text_config)", top.remarks)
    family = _family(config, top)
    if config.has("per_layer_config") and family is not families.gemma4:
        raise ModelError(f"{config.where}: field 'per_layer_config' is not read for this family; expected none.")
    fields = family(config)
    dtype, bits = _dtype(config, top)
    fields |= {key: value for key, value in (("dtype", dtype), ("default_bits", bits)) if value not in ("bf16", 16)}
    fields |= _stored(config, fields)
    for tower in ("vision", "audio"):
        if isinstance(top.fields.get(f"{tower}_config"), Mapping):
            config.remarks.append(f"the {tower} tower is not counted")
    if any(config.fields.get(key) for key in PREDICTORS):
        config.remarks.append("layers for multi-token prediction are not counted")
    title = name or _title(top, path)
    kept = "".join(f"; {remark}" for remark in config.remarks)
    mapping = {"name": title, "source": f"{path.name} of {title}{kept}", **fields}
    return Imported(ModelSpec.from_mapping(mapping, str(path)), mapping, config.remarks)


def _read(path: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # of bytes, of JSON, of a number with thousands of digits
        raise ModelError(f"{path}: expected JSON; {str(error).splitlines()[0]}.") from None
    if not isinstance(content, Mapping):
        raise ModelError(f"{path}: expected a mapping of fields, got a {type(content).__name__}.")
    return content


def _family(config: HfConfig, top: HfConfig) -> Callable[[HfConfig], dict[str, Any]]:
    """What reads the fields, by the model_type of the language model or of the whole."""
    types = [str(part.fields["model_type"]) for part in (config, top) if part.has("model_type")]
    for kind in types:
        if kind.removesuffix("_text") in FAMILIES:
            return FAMILIES[kind.removesuffix("_text")]
    if not types:
        raise ModelError(f"{top.where}: field 'model_type' is missing; known are {', '.join(FAMILIES)}.")
    raise ModelError(
        f"{config.where}: field 'model_type' is '{types[0]}', a family that is not known; known are"
        f" {', '.join(FAMILIES)}."
    )


def _dtype(config: HfConfig, top: HfConfig) -> tuple[str, int]:
    """Arithmetic, and bits of what is not quantized."""
    for part in (config, top):
        for key in ("torch_dtype", "dtype"):
            if str(part.fields.get(key)) in DTYPES:
                return DTYPES[str(part.fields[key])]
    said = next((part.fields[key] for part in (config, top) for key in ("torch_dtype", "dtype") if part.has(key)), None)
    what = "names no dtype" if said is None else f"has the dtype {said}, which is not known here"
    config.remarks.append(f"the file {what}: bf16 is assumed")
    return DTYPES["bfloat16"]


def _stored(config: HfConfig, fields: Mapping[str, Any]) -> dict[str, Any]:
    """Bits of the quantized parts that the model has."""
    there = {
        "experts_bits": fields["experts"],
        "shared_bits": fields.get("shared_intermediate"),
        "dense_bits": fields.get("dense_intermediate"),
    }
    found = quantized(config, fields["layers"])
    return {key: value for key, value in found.items() if there.get(key, True)}


def _title(top: HfConfig, path: Path) -> str:
    """The model's name: what the file says, else that of the file or its folder."""
    said = str(top.fields.get("_name_or_path") or "").rstrip("/")
    stem = path.stem if path.stem != "config" else path.resolve().parent.name
    return said.split("/")[-1] or stem.split("__")[-1] or "model"
