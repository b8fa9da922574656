"""What a worker moved and computed over a whole run, by part of the model, phase and where it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hwmodels.energy import EnergyUnknown
from simulator.policies.pipeline.base import Op
from simulator.runtime.costs import DenseCosts, DenseTable, HostedDense
from simulator.runtime.near_attention import NearAttention
from simulator.runtime.processed import Sums

if TYPE_CHECKING:
    from hwmodels import Work
    from simulator.model import ModelSpec
    from simulator.runtime.worker import Worker

ONE_AND_TWO = np.array([1.0, 2.0])
HOST = "host"  # in place of a device's name: the host CPU


class Done(NamedTuple):
    """Operations in `dtype` arithmetic and bytes from and to memory; where: the host CPU (HOST) or a unit near memory
    (its name) in place of the worker (empty)."""

    part: str
    phase: int
    dtype: str
    flops: float
    size_bytes: float
    where: str = ""


def dense_work(worker: Worker) -> Iterator[Done]:
    """All but routed experts, of one GPU: attention, other products (gemm), head (with embedding and final norm)."""
    processed = worker.processed
    model = processed.model
    costs, on_host, unit = _unwrapped(worker.dense)
    layers: Counter[tuple[int, str]] = Counter()
    embedded = ""
    ends = [False, False]
    for op, index in processed.tasks:
        if op is Op.DENSE or op is Op.TAIL:
            first, last, kinds = costs.stretches[index]
            where = HOST if on_host and on_host[index] else ""
            layers.update((kind, where) for kind in kinds)
            embedded = where if first else embedded
            ends = [ends[0] or first, ends[1] or last]
    for phase in (0, 1):
        steps, tokens = processed.steps[phase], processed.tokens[phase]
        if not steps:
            continue
        sums: dict[tuple[str, str], Sums] = {}
        for (layer, where), times in layers.items():
            works = model.layer_dense_work(layer, ONE_AND_TWO, ONE_AND_TWO)
            products = _affine((work for work in works if work.kind != "attention"), steps, tokens)
            for single in (True, False):
                near = unit if single and not where else where
                _add(sums.setdefault(("attention", near), {}), processed.attention(phase, layer, single), times)
            _add(sums.setdefault(("gemm", where), {}), products, times)
        if ends[0]:
            embedding = _affine([model.embedding_work(ONE_AND_TWO)], steps, tokens)
            _add(sums.setdefault(("head", embedded), {}), embedding)
        if ends[1]:
            head = _affine(model.head_work(ONE_AND_TWO), processed.headed[phase], processed.sampled[phase])
            _add(sums.setdefault(("head", ""), {}), head)
        for (part, where), by_dtype in sums.items():
            for dtype, (flops, size_bytes) in by_dtype.items():
                yield Done(part, phase, dtype, flops, size_bytes, where)


def expert_work(worker: Worker) -> Iterator[Done]:
    """Routed experts: of one GPU; of the host CPU for all GPUs for which the worker stands, without their weights; of
    units near memory, without any bytes. What is left out their lanes have counted."""
    processed, cpu, tier, slices = worker.processed, worker.cpu, worker.tier, worker.slices
    if slices is not None:
        for phase in (0, 1):
            yield Done("experts", phase, slices.dtype, slices.flops[phase], slices.size_bytes[phase])
        return
    dtype, flops, activation_bytes = _expert(processed.model)
    experts = len(tier.sizes) // len(tier.partitions)
    layer_bytes = tier.sizes[: tier.layers * experts : experts]
    for phase in (0, 1):
        counts = [sum(row) for row in worker.layer_counts[phase]]
        weights = sum(n * size for n, size in zip(counts, layer_bytes, strict=True))
        if len(tier.partitions) > tier.layers:  # several precisions
            weights = processed.expert_bytes[phase]
        if worker.loop_order is not None:
            weights += sum(n * size for n, size in zip(worker.loop_order.again[phase], layer_bytes, strict=True))
        weights -= processed.host_bytes[phase] + sum(sizes[phase] for sizes, _ in processed.near.values())
        here = sum(counts) + processed.shared_tokens[phase] - processed.host_tokens[phase]
        here -= sum(served[phase] for _, served in processed.near.values())
        yield Done("experts", phase, dtype, here * flops, weights + here * activation_bytes)
        for unit, (_, served) in processed.near.items():
            yield Done("experts", phase, dtype, served[phase] * flops, 0.0, unit)
        if cpu is not None:
            there = processed.host_tokens[phase]
            if phase == 0:  # what was begun in vain, for tokens that decode
                there += cpu.tokens - sum(processed.host_tokens)
            _, flops_there, bytes_there = _expert(processed.on_cpu)
            yield Done("experts", phase, dtype, there * flops_there, there * bytes_there, HOST)


def _expert(model: ModelSpec) -> tuple[str, float, float]:
    """Of an expert, for one token: dtype, operations, bytes of activations."""
    one = model.expert_work(np.array([1.0]))
    return one.dtype, float(one.flops[0]), float(one.size_bytes[0]) - model.expert_bytes


def _unwrapped(dense: DenseTable) -> tuple[DenseCosts, tuple[bool, ...], str]:
    """Costs of the worker itself; which stretches of layers are the host's; the unit near memory at which requests with
    one new token attend, or empty. Raises EnergyUnknown."""
    on_host: tuple[bool, ...] = ()
    if isinstance(dense, HostedDense):
        on_host, dense = dense.on_host, dense.worker
    if not isinstance(dense, DenseCosts):
        raise EnergyUnknown(
            "kernels that move rows to experts and back, and those of several instances, are not counted."
        )
    return dense, on_host, dense.unit.name if isinstance(dense, NearAttention) else ""


def _add(sums: Sums, more: Sums, times: int = 1) -> None:
    for dtype, amounts in more.items():
        total = sums.setdefault(dtype, [0.0, 0.0])
        for place, amount in enumerate(amounts):
            total[place] += times * amount


def _affine(works: Iterable[Work], times: int, tokens: int) -> Sums:
    """Work that costs something once and something per token, from that of one token and of two: so often, for so many
    tokens in all, by dtype."""
    sums: Sums = {}
    for work in works:
        total = sums.setdefault(work.dtype, [0.0, 0.0])
        for place, (one, two) in enumerate((work.flops, work.size_bytes)):
            total[place] += float((2 * one - two) * times + (two - one) * tokens)
    return sums
