"""What a worker moved and computed over a whole run, by part of the model, phase and where it ran."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from simulator.energy.processed import Sums
from simulator.runtime.costs import DenseCosts, HostedDense

if TYPE_CHECKING:
    from hwmodels import Work
    from simulator.build import Run
    from simulator.model import ModelSpec
    from simulator.runtime.worker import Worker

ONE_AND_TWO = np.array([1.0, 2.0])


class Done(NamedTuple):
    """Operations in `dtype` arithmetic and bytes from and to memory; on_host: by the host CPU instead of the worker."""

    part: str
    phase: int
    dtype: str
    flops: float
    size_bytes: float
    on_host: bool = False


def dense_work(worker: Worker, model: ModelSpec) -> Iterator[Done]:
    """All but routed experts: attention, other products (gemm), and head (with embedding and final norm)."""
    dense, processed = worker.dense, worker.processed
    costs, on_host = (dense.worker, dense.on_host) if isinstance(dense, HostedDense) else (dense, ())
    assert isinstance(costs, DenseCosts)
    layers: Counter[tuple[int, bool]] = Counter()
    for index, (_, _, kinds) in enumerate(costs.stretches):
        layers.update((kind, bool(on_host and on_host[index])) for kind in kinds)
    first_on_host = bool(on_host and on_host[0])
    for phase in (0, 1):
        steps, tokens = processed.steps[phase], processed.tokens[phase]
        if not steps:
            continue
        sums: dict[tuple[str, bool], Sums] = {}
        for (layer, hosted), times in layers.items():
            works = model.layer_dense_work(layer, ONE_AND_TWO, ONE_AND_TWO)
            products = _affine((work for work in works if work.kind != "attention"), steps, tokens)
            _add(sums.setdefault(("attention", hosted), {}), processed.attention(phase, layer), times)
            _add(sums.setdefault(("gemm", hosted), {}), products, times)
        embedding = _affine([model.embedding_work(ONE_AND_TWO)], steps, tokens)
        _add(sums.setdefault(("head", first_on_host), {}), embedding)
        head = _affine(model.head_work(ONE_AND_TWO), processed.headed[phase], processed.sampled[phase])
        _add(sums.setdefault(("head", False), {}), head)
        for (part, hosted), by_dtype in sums.items():
            for dtype, (flops, size_bytes) in by_dtype.items():
                yield Done(part, phase, dtype, flops, size_bytes, hosted)


def expert_work(run: Run, worker: Worker) -> Iterator[Done]:
    """Routed experts; those on the host CPU without their weights, which its lane has counted."""
    model, processed, cpu = run.scenario.model, worker.processed, worker.cpu
    one = model.expert_work(np.array([1.0]))
    flops, activation_bytes = float(one.flops[0]), float(one.size_bytes[0]) - model.expert_bytes
    for phase in (0, 1):
        counts = [sum(row) for row in worker.layer_counts[phase]]
        weights = sum(n * size for n, size in zip(counts, run.layer_expert_bytes, strict=True))
        if len(worker.tier.partitions) > worker.tier.layers:  # several precisions
            weights = processed.expert_bytes[phase]
        tokens = sum(counts) + processed.shared_tokens[phase]
        here = tokens - processed.host_tokens[phase]
        moved = weights - processed.host_bytes[phase] + here * activation_bytes
        yield Done("experts", phase, one.dtype, here * flops, moved)
        if cpu is not None:
            there = processed.host_tokens[phase]
            if phase == 0:  # what was begun in vain, for tokens that decode
                there += cpu.tokens - sum(processed.host_tokens)
            yield Done("experts", phase, one.dtype, there * flops, there * activation_bytes, True)


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
