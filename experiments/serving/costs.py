"""Kernels of a row's steps, kept for rows that share model, GPU, engine, layout, precision and lengths."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from experiments.explain import ConfigError
from experiments.serving.engines import KERNELS, SCHEDULE
from experiments.serving.models import find_model
from experiments.serving.rows import Row
from hwmodels.datasheet import datasheet_names
from simulator.serving import Layout, RequestCost, StepCost, precision_of


def request_cost(row: Row, devices: Mapping[str, str], prompt: bool = False) -> RequestCost:
    """Kernels of the row's steps; prompt: on the GPUs that prefill, if they are others."""
    layout = row.prompt_layout if prompt else row.layout
    sheet = devices.get(row.system) or _sheet(row.system)
    budget = SCHEDULE[row.backend]["budget"]
    return _request_cost(
        row.model, sheet, KERNELS[row.backend], layout, row.gemm, row.experts, row.isl, row.osl, budget
    )


def crowded(row: Row, devices: Mapping[str, str]) -> str:
    """What to know of a row whose weights leave no room in a GPU's memory; empty if they do."""
    for prompt in (False, True) if row.mode == "disagg" else (False,):
        cost = request_cost(row, devices, prompt)
        if cost.weight_bytes > cost.memory_bytes:
            need, there = (f"{size / 1e9:.0f} GB" for size in (cost.weight_bytes, cost.memory_bytes))
            return f"weights need {need} of each GPU, which has {there}: answered as if they fitted"
    return ""


def _sheet(system: str) -> str:
    names = datasheet_names()
    plain = system.lower().replace("-", "_")
    for name in (system, plain, f"{plain}_sxm", plain.removesuffix("_sxm")):
        if name in names:
            return name
    raise ConfigError(f"there is no datasheet of '{system}' (there are: {', '.join(names)}).")


@lru_cache(maxsize=4096)
def _request_cost(
    model: str, sheet: str, engine: str, layout: Layout, gemm: str, experts: str, isl: float, osl: float, budget: float
) -> RequestCost:
    return RequestCost(_step_cost(model, sheet, engine, layout, gemm, experts), isl, osl, budget)


@lru_cache(maxsize=512)
def _step_cost(model: str, sheet: str, engine: str, layout: Layout, gemm: str, experts: str) -> StepCost:
    spec = find_model(model)
    return StepCost(spec, sheet, engine, layout, precision_of(spec, gemm, experts))
