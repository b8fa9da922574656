"""What figures call the shipped choices, and values that have a unit; a definition's `names` go before these."""

from __future__ import annotations

from typing import Any

import numpy as np

from experiments.figures.style import shown
from experiments.figures.table import quantity

_CACHES = {
    "belady": "Belady",
    "fifo": "FIFO",
    "lfu": "LFU",
    "lfu_history": "LFU with history",
    "lru": "LRU",
    "popularity": "popularity",
    "random": "random",
    "s3fifo": "S3-FIFO",
}
CHOICES: dict[str, dict[str, str]] = {  # column -> choice -> its name; choices not listed go by their own
    "policy.cache": _CACHES,
    "policy.host_cache": {choice: f"{name} (host)" for choice, name in _CACHES.items() if choice != "belady"},
    "policy.slots": {"global": "global slots", "uniform": "slots by layer"},
    "policy.placement": {"cold": "cold start", "popular": "popular at start"},
    "policy.prediction": {
        "lookahead": "look-ahead",
        "none": "no prediction",
        "oracle": "oracle",
        "oracle_8": "oracle, 8 layers",
        "popularity": "predicted by popularity",
        "recall": "recall",
        "transition": "transitions",
    },
    "policy.prefetch": {"ahead": "prefetch", "none": "no prefetch"},
    "policy.execution": {"cpu_in_place": "missing on CPU", "fetch": "missing fetched"},
    "system": {
        "clairvoyant": "clairvoyant",
        "cpu_in_place": "popular pinned, CPU",
        "lookahead_prefetch": "LRU + look-ahead",
        "on_demand_lfu": "LFU",
        "on_demand_lru": "LRU",
        "pinned_popular": "popular pinned",
        "transition_prefetch": "LRU + transitions",
    },
    "model": {
        "deepseek_v2_lite": "DeepSeek-V2-Lite",
        "deepseek_v3": "DeepSeek-V3",
        "gemma_4_26b_a4b": "gemma-4-26B-A4B",
        "gpt_oss_120b": "gpt-oss-120b",
        "gpt_oss_20b": "gpt-oss-20b",
        "mixtral_8x7b": "Mixtral-8x7B",
        "olmoe_1b_7b": "OLMoE-1B-7B",
        "qwen3_30b_a3b": "Qwen3-30B-A3B",
        "switch_base_8": "Switch-base-8",
    },
    "platform": {
        "a100_host": "A100",
        "oneplus_15r": "OnePlus 15R",
        "rtx_3060": "RTX 3060",
        "rtx_3090": "RTX 3090",
        "rtx_4090": "RTX 4090",
        "t4_host": "T4",
        "two_rtx_3090": "2 × RTX 3090",  # noqa: RUF001
    },
}


def display(value: Any, column: str) -> Any:
    """What figures call a value of a column: choices by name, numbers with their unit, `seed` as seed 3."""
    if value is None or value != value:
        return f"{quantity(column).words.partition(' (')[0]}: default"
    if isinstance(value, bool | np.bool_):
        return f"{quantity(column).words}: {str(value).lower()}"
    if isinstance(value, str) or not hasattr(value, "__float__"):
        return CHOICES.get(column, {}).get(value, value)
    if column.endswith("_bytes"):
        return size(float(value))
    unit = quantity(column, [value])
    number = shown(float(value) * unit.factor)
    return f"{number} {unit.unit}" if unit.unit else f"{unit.words.partition(' (')[0]} {number}"


def size(size_bytes: float) -> str:
    """A size in the unit it was probably chosen in: 64 KiB, 16 MiB."""
    power, unit = next((row for row in ((30, "GiB"), (20, "MiB"), (10, "KiB")) if size_bytes >= 2 ** row[0]), (0, "B"))
    return f"{size_bytes / 2**power:.4g} {unit}"
