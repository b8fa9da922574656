"""Bits per weight from the quantization_config of a Hugging Face config.json, scales included."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Mapping, Sequence
from typing import Any

from simulator.model import ModelError
from simulator.model_import.config import HfConfig

KNOWN = ("auto-round", "awq", "bitsandbytes", "compressed-tensors", "fbgemm_fp8", "fp8", "gptq", "modelopt", "mxfp4")
MXFP4_BITS = 4 + 8 / 32
"""4 bits, and an 8-bit scale per 32 weights (OCP Microscaling Formats, version 1.0)."""
NVFP4_BITS = 4 + 8 / 16
"""4 bits, and an 8-bit scale per 16 weights."""
MODULES = {
    "experts": "model.layers.{last}.mlp.experts.0.gate_proj",
    "attention": "model.layers.{last}.self_attn.q_proj",
    "shared": "model.layers.{last}.mlp.shared_experts.gate_proj",
    "dense": "model.layers.0.mlp.gate_proj",
}
"""A module that stands for each part of a model in the lists of what is not quantized."""
LISTS = ("modules_to_not_convert", "ignored_layers", "ignore", "llm_int8_skip_modules", "exclude_modules")


def quantized(config: HfConfig, layers: int) -> dict[str, Any]:
    """The fields `<part>_bits` of every part that is quantized, and linear_dtype where activations are too.

    Embedding and head are taken not to be. Raises ModelError for a method that is not known.
    """
    if not config.has("quantization_config"):
        return {}
    settings = config.part("quantization_config")
    method = str(settings.fields.get("quant_method", "")).replace("_tensors", "-tensors")
    if method not in KNOWN:
        raise ModelError(
            f"{settings.where}: field 'quant_method' must be one of {', '.join(KNOWN)} (or leave out"
            f" quantization_config), got '{method}'."
        )
    if method == "mxfp4":
        return {"experts_bits": MXFP4_BITS}
    bits, dtype = _bits(settings, method)
    skipped = [str(item) for key in LISTS for item in settings.entries(key)]
    names = {part: module.format(last=layers - 1) for part, module in MODULES.items()}
    parts = {f"{part}_bits": bits for part, name in names.items() if not _matches(skipped, name)}
    return {**parts, **({"linear_dtype": dtype} if dtype and parts else {})}


def _bits(settings: HfConfig, method: str) -> tuple[float, str]:
    """Bits per weight, and the dtype of the products ('' if that of the model)."""
    if method == "compressed-tensors":
        return _compressed(settings)
    if method in ("fp8", "fbgemm_fp8"):
        block = settings.entries("weight_block_size")
        if block and not (len(block) == 2 and all(isinstance(side, int) and side > 0 for side in block)):
            raise ModelError(f"{settings.where}: field 'weight_block_size' must be two widths, got {block!r}.")
        return 8 + (32 / (block[0] * block[1]) if block else 0), "fp8"  # an fp32 scale per block
    if method == "modelopt":
        algorithm = str(settings.fields.get("quant_algo"))
        if algorithm not in ("FP8", "NVFP4"):
            raise ModelError(f"{settings.where}: field 'quant_algo' must be FP8 or NVFP4, got '{algorithm}'.")
        return (8.0, "fp8") if algorithm == "FP8" else (NVFP4_BITS, "")
    if method == "bitsandbytes":
        if not settings.flag("load_in_4bit"):
            return 8.0, "int8"
        # blocks of 64 weights with an fp32 scale, which double quantization stores in 8 bits and an fp32 per 256
        return 4 + ((8 + 32 / 256) / 64 if settings.flag("bnb_4bit_use_double_quant") else 32 / 64), ""
    bits, group = settings.whole("bits"), settings.whole("group_size", default=-1, least=-1)
    return bits + ((16 + bits) / group if group > 0 else 0), ""  # an fp16 scale and a zero point per group


def _compressed(settings: HfConfig) -> tuple[float, str]:
    """The first group of a compressed-tensors configuration; a scale takes 16 bits, with 4-bit floats 8."""
    groups = settings.part("config_groups")
    first = groups.part(next(iter(groups.fields), "group_0"))
    weights = first.part("weights")
    bits, is_float = weights.whole("num_bits"), weights.fields.get("type") == "float"
    group = weights.whole("group_size", default=0)
    scale = 8 if is_float and bits == 4 else 16
    zero = 0 if weights.flag("symmetric", True) else bits
    inputs = first.fields.get("input_activations")
    eight = isinstance(inputs, Mapping) and inputs.get("num_bits") == 8
    return bits + ((scale + zero) / group if group > 0 else 0), ("fp8" if is_float else "int8") if eight else ""


def _matches(patterns: Sequence[str], module: str) -> bool:
    """Whether a list of modules means this one: by regular expression (re:...), wildcard, or as part of its path."""
    for pattern in patterns:
        if pattern.startswith("re:"):
            try:
                if re.match(pattern[3:], module):
                    return True
            except re.error:
                continue
        elif any(fnmatch.fnmatchcase(module, text) for text in (pattern, f"{pattern}.*", f"*.{pattern}.*")):
            return True
    return False
