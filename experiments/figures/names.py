"""What figures call the shipped choices, and values that have a unit; a definition's `names` go before these.

A model goes by the `name` of its file, any other choice by NAMES or else by its words (`title`). A test fails for a
platform with a word that is neither in WORDS nor has a digit, and for two choices of a group with the same name.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np

from experiments.catalogue import load
from experiments.compose import choices
from experiments.figures.style import shown
from experiments.figures.table import quantity

WORDS = {  # parts of the names of choices; one with a digit is written in capitals unless it is here
    **{word: word for word in ("calibrated", "cores", "dual", "host", "mobile", "i3", "i5", "i7", "i9")},
    **{word: word.upper() for word in ("agx", "fifo", "hdd", "lfu", "lru", "pro", "rtx", "ssd")},
    **{word: word.title() for word in ("ada", "azure", "belady", "colab", "jetson", "nano", "orin", "pi", "quadro")},
    **{word: word.title() for word in ("raspberry", "super", "xeon")},
    "oneplus": "OnePlus",
    "pcie3": "PCIe 3",
    "s3fifo": "S3-FIFO",
}
NAMES: dict[str, dict[str, str]] = {  # column -> choice -> its name, where its words alone would not say it
    "policy.attention": {"worker": "attention on the worker"},
    "policy.cache": {"lfu_history": "LFU with history"},
    "policy.gating": {"routed": "experts as routed"},
    "policy.pipeline": {"plain": "layer by layer"},
    "policy.precision": {"stored": "precision as stored"},
    "policy.slots": {"global": "global slots", "uniform": "slots by layer"},
    "policy.placement": {"cold": "cold start", "popular": "popular at start"},
    "policy.prediction": {
        "lookahead": "look-ahead",
        "none": "no prediction",
        "oracle_8": "oracle, 8 layers",
        "popularity": "predicted by popularity",
        "transition": "transitions",
    },
    "policy.prefetch": {"ahead": "prefetch", "none": "no prefetch"},
    "policy.execution": {"cpu_in_place": "missing on CPU", "fetch": "missing fetched"},
    "system": {
        "adapmoe": "AdapMoE",
        "clairvoyant": "clairvoyant",
        "cpu_in_place": "popular pinned, CPU",
        "daop": "DAOP",
        "deepspeed_zero": "DeepSpeed ZeRO",
        "dynn_offload": "DyNN-Offload",
        "duplex": "Duplex+PE",
        "duplex_naive": "Duplex",
        "edgemoe": "EdgeMoE",
        "eio_moe": "EIO-MoE",
        "emoe": "eMoE",
        "expertflow": "ExpertFlow",
        "finemoe": "FineMoE",
        "freetoken": "FreeToken",
        "gpu_pm": "GPU+PM",
        "hobbit": "HOBBIT",
        "hybrimoe": "HybriMoE",
        "ktransformers": "KTransformers",
        "llama_cpp_expert_lru": "llama.cpp, expert LRU",
        "llama_cpp_n_cpu_moe": "llama.cpp --n-cpu-moe",
        "llama_cpp_ngl": "llama.cpp -ngl",
        "lookahead_prefetch": "LRU + look-ahead",
        "mixtral_offloading": "mixtral-offloading",
        "moe_infinity": "MoE-Infinity",
        "moe_lightning": "MoE-Lightning",
        "moesaic": "MoEsaic",
        "monde": "MoNDE (MD+LB)",
        "monde_am": "MoNDE (MD+AM)",
        "on_demand_lfu": "LFU",
        "on_demand_lru": "LRU",
        "pinned_popular": "popular pinned",
        "pregated_moe": "Pre-gated MoE",
        "promoe": "ProMoE",
        "readme": "Read-ME",
        "seqmoe": "SeqMoE",
        "sida_moe": "SiDA-MoE",
        "swapmoe": "SwapMoE",
        "transition_prefetch": "LRU + transitions",
    },
    "model": {"tiny_moe": "TinyMoE"},
    "platform": {
        "a100_host": "A100",
        "duplex": "Duplex device",
        "duplex_8": "Duplex devices",
        "duplex_bank_group_pim": "BankGroup-PIM device",
        "duplex_bank_pim": "Bank-PIM devices",
        "monde": "MoNDE device",
        "t4_host": "T4",
        "dgx_v100": "8 × V100 32 GB",  # noqa: RUF001
        "dgx_a100_40": "8 × A100 40 GB",  # noqa: RUF001
        "a100_40_x4": "4 × A100 40 GB",  # noqa: RUF001
        "alveo_u280": "Alveo U280",
        "cxl_ndp": "H100 + CXL-NDP",
        "dgx_b200": "8 × B200",  # noqa: RUF001
        "edge_gpu_ndp": "edge GPU + NDP",
        "flame_fpga": "FLAME",
        "gddr6_aim": "GDDR6-AiM",
        "h100_x32_ssd": "32 × H100, SSD",  # noqa: RUF001
        "h100_x4_ssd": "4 × H100, SSD",  # noqa: RUF001
        "a3d_moe": "A3D-MoE",
        "elmoe_3d": "ELMoE-3D",
        "fse_dp": "FSE-DP, 4 chiplets",
        "fse_dp_16": "FSE-DP, 16 chiplets",
        "flash_conv": "conventional flash",
        "flash_conv_plus": "conventional flash+",
        "hbf": "HBF",
        "hbf_plus": "HBF+",
        "hbm4": "HBM4",
        "hd_moe": "HD-MoE mesh",
        "hbm_pim": "HBM-PIM",
        "lpddr5x_pim": "LPDDR5X-PIM",
        "nasic": "NASiC",
        "pimoe": "PIMoE",
        "sieve": "Sieve",
        "sieve_4": "4 × Sieve",  # noqa: RUF001
        "stratum_l": "Stratum-L",
        "stratum_s": "Stratum-S",
        "trimoe": "TriMoE",
        "zcu102": "ZCU102",
        "dgx_h100": "8 × H100",  # noqa: RUF001
        "two_dgx_h100": "2 nodes of 8 × H100",  # noqa: RUF001
        "two_rtx_3090": "2 × RTX 3090",  # noqa: RUF001
    },
}


@cache
def title(choice: str, column: str) -> str:
    """What figures call a choice of a column; what is no shipped choice of it goes by its own name."""
    group = column.replace(".", "/")
    if choice not in choices().get(group, ()):
        return choice
    if choice in NAMES.get(column, {}):
        return NAMES[column][choice]
    if column == "model":
        return str(load(group, choice).name)
    if column == "policy.host_cache":
        return f"{title(choice, 'policy.cache')} (host)"
    words = [WORDS.get(word, word.upper() if re.search(r"\d", word) else word) for word in choice.split("_")]
    if column == "system":  # a published one, if it is not in NAMES
        words = [word[0].upper() + word[1:] for word in words]
    return re.sub(r"\b(i[3579]) ", r"\1-", " ".join(words))


def display(value: Any, column: str) -> Any:
    """What figures call a value of a column: choices by name, numbers with their unit, `seed` as seed 3."""
    if value is None or value != value:
        return f"{quantity(column).words.partition(' (')[0]}: default"
    if isinstance(value, bool | np.bool_):
        return f"{quantity(column).words}: {str(value).lower()}"
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return title(value, column) if isinstance(value, str) else value
    if column.endswith("_bytes"):
        return size(float(value))
    unit = quantity(column, [value])
    number = shown(float(value) * unit.factor)
    return f"{number} {unit.unit}" if unit.unit else f"{unit.words.partition(' (')[0]} {number}"


def size(size_bytes: float) -> str:
    """A size in the unit it was probably chosen in: 64 KiB, 16 MiB."""
    power, unit = next((row for row in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if size_bytes >= 2 ** row[0]), (0, "B"))
    return f"{size_bytes / 2**power:.4g} {unit}"
