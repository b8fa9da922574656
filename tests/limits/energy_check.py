"""Prices for the platforms of tests, and the work of a run by another way: step by step, kernel by kernel."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

from hwmodels import Platform
from simulator.result import Result

READ, WRITE = {"gpu": 3.0, "dram": 20.0, "ssd": 100.0}, {"gpu": 4.0, "dram": 21.0, "ssd": 400.0}
FLOP_PJ = {"gpu": {"bf16": 0.5, "fp32": 1.0}, "cpu": {"fp32": 8.0}}
LINK_PJ = {"pcie": 6.0, "nvlink": 1.5}
IDLE_W = {"gpu": 5.0, "cpu": 7.0, "dram": 2.0}
Amounts = Counter[tuple[str, str, str, str]]  # (where, by, part, phase) -> operations or bytes


_KEPT: dict[int, tuple[Platform, Platform]] = {}  # by id, so that tables of costs are made once


def priced(platform: Platform) -> Platform:
    """The platform with prices of its own for all it can do."""
    if id(platform) not in _KEPT:
        _KEPT[id(platform)] = platform, _priced(platform)
    return _KEPT[id(platform)][1]


def _priced(platform: Platform) -> Platform:
    devices = {
        name: replace(
            device,
            memory_read_pj_per_bit=READ.get(device.kind, 0.0),
            memory_write_pj_per_bit=WRITE.get(device.kind, 0.0),
            flop_pj=FLOP_PJ.get(device.kind, {}),
            idle_power_w=IDLE_W.get(device.kind, 0.0),
        )
        for name, device in platform.devices.items()
    }
    links = tuple(replace(link, pj_per_bit=LINK_PJ[link.kind]) for link in platform.links)
    return replace(platform, devices=devices, links=links)


def walked(result: Result) -> Amounts:
    """What the workers of a run in lock-step computed and read, if they ran every expert that the plan asks for."""
    run = result.run
    platform, model = run.scenario.platform, run.scenario.model
    workers = len(run.workers)
    found: Amounts = Counter()
    for step in run.plan:
        phase, block = ("prefill" if step.prefill else "decode"), step.block
        for rank, worker in enumerate(run.workers):
            memory = platform.memory_of(worker.name).name
            mine = [i for i, slot in enumerate(block.slots) if slot % workers == rank]
            new = [float(block.request_tokens[step.row][i]) for i in mine]
            contexts = [float(block.kv_tokens[step.row][i]) for i in mine]
            works = [("head", model.embedding_work(sum(new)))]
            works += [("head", work) for work in model.head_work(float(len(new)))]
            for layer in range(model.layers):
                products = model.layer_dense_work(layer, sum(new), sum(new))
                works += [("gemm", work) for work in products if work.kind != "attention"]
                for tokens, context in zip(new, contexts, strict=True):
                    kernels = model.layer_dense_work(layer, tokens, context)
                    works += [("attention", work) for work in kernels if work.kind == "attention"]
            groups = step.groups if workers == 1 else worker._exchange.own(rank, step)[0]
            for layer, (blobs, counts) in enumerate(groups):
                for tokens in counts or [1] * len(blobs):
                    work = model.expert_work(float(tokens))
                    works.append(("experts", work))
                    size = run.layer_expert_bytes[layer]
                    found[memory, "read", "experts", phase] += size - model.expert_bytes  # sizes of the trace
            for part, work in works:
                found[worker.name, "compute", part, phase] += float(work.flops)
                found[memory, "read", part, phase] += float(work.size_bytes)
    return +found
