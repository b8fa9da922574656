"""Microbenchmarks of units near memory, for `metric: {python: ...}`: no run, the roofline of a platform's devices."""

from __future__ import annotations

from dataclasses import replace

from experiments.catalogue import load
from hwmodels import Platform, operators, time_s
from simulator.model import ModelSpec


def gemv_speed_up(
    platform: str, unit: str, rows: int, columns: int, batch: int = 1, weight_bits: float = 16.0, dtype: str = "fp16"
) -> float:
    """Time of a product on the worker over that on a unit of its memory.

    The matrix of rows x columns weights of `weight_bits` lies in the memory; `batch` vectors are multiplied at once.
    The worker reads through the memory's outside (memory_read_bytes_per_s), the unit inside.
    """
    machine = Platform.from_mapping(load("platform", platform), platform)
    work = operators.gemm(batch, rows, columns, weight_bits, dtype)
    worker_s, unit_s = (float(time_s(work, machine.device(name))) for name in (machine.workers[0], unit))
    return worker_s / unit_s


def most_useful_batch(platform: str, unit: str, rows: int, columns: int, most: int = 64) -> int:
    """The largest batch, up to `most`, of which the product is quicker on the unit than on the worker; 0 if none is."""
    batches = range(1, most + 1)
    return max((batch for batch in batches if gemv_speed_up(platform, unit, rows, columns, batch) > 1), default=0)


def decode_speed_up(platform: str, unit: str, model: str, bits: float, dtype: str, context: int) -> float:
    """Time of one decoded token on the worker over that with all its products on a unit of its memory.

    A dense model of `bits` per weight, arithmetic of its products in `dtype`; norms and attention to `context` tokens
    stay on the worker, and nothing overlaps.
    """
    machine = Platform.from_mapping(load("platform", platform), platform)
    spec = replace(ModelSpec.from_mapping(load("model", model), model), default_bits=bits, linear_dtype=dtype)
    layers = (spec.layer_dense_work(layer, 1, context, "decode") for layer in range(spec.layers))
    works = [*(work for layer in layers for work in layer), *spec.head_work(1)]
    worker, near = machine.device(machine.workers[0]), machine.device(unit)
    alone_s = sum(float(time_s(work, worker)) for work in works)
    return alone_s / sum(float(time_s(work, near if work.kind == "gemm" else worker)) for work in works)
