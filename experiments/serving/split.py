"""Which measured rows may be fitted to: a third of the configurations, told by a hash."""

from __future__ import annotations

from hashlib import sha256

from experiments.serving.rows import Row

THIRDS = 3
SAME = {"DeepSeek-R1": "DeepSeek-V3"}
"""Models of one architecture, whose measurements are partly the same rows under two names."""


def configuration(row: Row) -> str:
    """Model, system, engine, precision and parallel layout: rows that share these are on one side."""
    name = row.model.split("/")[-1]
    layouts = [row.layout] if row.mode == "agg" else [row.prompt_layout, row.layout]
    sizes = [size for x in layouts for size in (x.tp, x.attention_dp, x.moe_tp, x.moe_ep)]
    parts = [SAME.get(name, name), row.system, row.backend, row.gemm or "nan", row.experts or "nan", *sizes]
    return "|".join(str(part) for part in parts)


def is_training(row: Row) -> bool:
    """Whether the SHA-256 of the configuration's name is a multiple of three."""
    return int(sha256(configuration(row).encode()).hexdigest(), 16) % THIRDS == 0
