"""The search for micro-batches: which N, micro-batch and resident share a roofline of GPU, CPU and link favours.

After the hierarchical roofline model of MoE-Lightning (arXiv 2411.11217, sections 3 and 4.2): in a layer the links, the
host's memory, its CPU and the GPU work side by side, so that it takes as long as the slowest of them. What each takes
is that of the cost models which the simulation uses, experts being asked for equally. The grid is small enough to try
all of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from hwmodels import Platform
from simulator.policies.pipeline.micro_batches import MicroBatches
from simulator.scenario import Settings
from simulator.streaming.costs import MicroBatchCosts
from simulator.streaming.memory import activation_bytes, resident_share

MICRO_BATCHES, MOST_PARTS = (*range(1, 64), *range(64, 257, 4)), 256
ALIKE = 0.01  # of plans within this share of the best the one with the fewest requests is chosen


class Plan(NamedTuple):
    """A choice and what the roofline says of it; `resident` below 0: it does not fit the GPU."""

    requests: int
    micro_batch: int
    resident: float
    tokens_per_s: float = 0.0
    activation_bytes: int = 0
    kv_bytes: int = 0
    buffer_bytes: int = 0


@dataclass(frozen=True)
class Machine:
    """Model and platform as the search sees them. Sizes in bytes; rates in bytes/s."""

    costs: MicroBatchCosts
    dense: tuple[int, ...]
    experts: tuple[int, ...]
    fixed: int
    room_bytes: int
    experts_room_bytes: int | None
    host_bytes: int
    link_bytes_per_s: float
    kv_bytes_per_s: float
    dram_bytes_per_s: float

    @classmethod
    def of(
        cls, costs: MicroBatchCosts, platform: Platform, worker: str, settings: Settings, expert_bytes: list[int]
    ) -> Machine:
        """That of a worker whose weights lie at `platform.home`."""
        model, host = costs.model, platform.device(platform.home)
        dense = tuple(model.layer_dense_bytes(layer) for layer in range(model.layers))
        media = dict(platform.media(host.name, worker, settings.pinned))
        route = platform.route(host.name, worker)
        return cls(
            costs=costs,
            dense=dense,
            experts=tuple(size * model.experts for size in expert_bytes),
            fixed=model.dense_bytes - sum(dense),
            room_bytes=platform.device(worker).memory_capacity_bytes - settings.workspace_bytes,
            experts_room_bytes=settings.cache_bytes,
            host_bytes=host.memory_capacity_bytes,
            link_bytes_per_s=min(media.values()),
            kv_bytes_per_s=min(link.pageable_bytes_per_s for link in route),
            dram_bytes_per_s=media[host.name],
        )

    def resident(self, pipeline: MicroBatches, micro_batch: int, prompt: int, context: int) -> Plan:
        """The share of every layer that can stay on the GPU beside micro-batches of so many requests."""
        costs = self.costs
        tokens = micro_batch * max(1, prompt)
        activations = activation_bytes(costs.model, tokens, costs.qkv_values, costs.output_values)
        per_layer = int(costs.cached_bytes(context).max())
        kv = 0 if pipeline.on_cpu else 2 * micro_batch * per_layer  # of the running and of the next micro-batch
        layers = [dense + experts for dense, experts in zip(self.dense, self.experts, strict=True)]
        share = resident_share(self.room_bytes - self.fixed - activations - kv, layers)
        if self.experts_room_bytes is not None and share >= 0:
            share = min(share, resident_share(self.experts_room_bytes, list(self.experts)))
        return Plan(0, micro_batch, share, 0.0, activations, kv, min(2, len(layers)) * max(layers))


def search(
    machine: Machine,
    pipeline: MicroBatches,
    prompt_tokens: int,
    output_tokens: int,
    *,
    requests: int | None = None,
    context: int | None = None,
) -> Plan:
    """The plan of the highest throughput for requests of one length: generated tokens over the time of prompts and
    decoding; of those that are alike, the one of the fewest requests. `requests`: that many are given (None: any that
    host memory holds); `context`: that of the last token, if it is not that of the lengths.

    Raises ValueError if no micro-batch fits.
    """
    plans = list(_plans(machine, pipeline, prompt_tokens, output_tokens, requests, context))
    if not plans:
        raise ValueError(
            "policy.pipeline.micro_batch: not even micro-batches of one request fit the GPU beside two layers; expected"
            " more GPU memory or shorter prompts."
        )
    best = max(plan.tokens_per_s for plan in plans)
    alike = [plan for plan in plans if plan.tokens_per_s >= (1 - ALIKE) * best]
    return min(alike, key=lambda plan: (plan.requests, -plan.tokens_per_s, plan.micro_batch))


def _plans(
    machine: Machine, pipeline: MicroBatches, prompt: int, output: int, requests: int | None, context: int | None
) -> Iterator[Plan]:
    end = context if context is not None else prompt + output
    middle = max(1, end - output // 2)
    weights = machine.fixed + sum(machine.dense) + sum(machine.experts)
    most = int((machine.host_bytes - weights) // max(1, machine.costs.model.kv_bytes(end)))
    for micro_batch in MICRO_BATCHES:
        if micro_batch > (requests or micro_batch):
            break
        fit = machine.resident(pipeline, micro_batch, prompt, end)
        if fit.resident < 0:
            break  # a larger one needs more
        share = fit.resident if pipeline.resident_weights is None else pipeline.resident_weights
        if share > fit.resident:
            break
        if requests is not None:
            count = np.array([-(-requests // micro_batch)])
            total = np.array([requests])
        else:
            count = np.arange(1, min(MOST_PARTS, most // micro_batch) + 1)
            total = count * micro_batch
        if not len(count):
            continue
        decode_s = _layer_s(machine, pipeline, micro_batch, 1, middle, share, count, total)
        prompt_s = (
            _layer_s(machine, pipeline, micro_batch, prompt, prompt, share, count, total) if prompt else np.zeros(1)
        )
        layers = len(machine.dense)
        rates = total * output / (layers * (prompt_s + output * decode_s))
        for requests_, rate in zip(total.tolist(), rates.tolist(), strict=True):
            yield fit._replace(requests=requests_, resident=share, tokens_per_s=rate)


def _layer_s(
    machine: Machine,
    pipeline: MicroBatches,
    micro_batch: int,
    new: int,
    length: int,
    resident: float,
    count: np.ndarray,
    total: np.ndarray,
) -> Any:
    """Seconds of a layer for `count` micro-batches of `total` requests, [plans]: the slowest of all that works."""
    model = machine.costs.model
    pairs = micro_batch * new * model.top_k
    active = min(model.experts, pairs)
    served = np.zeros((1, 1, model.experts), dtype=np.int64)  # the same in every layer
    served[..., :active] = pairs // active
    served[..., : pairs % active] += 1
    costs = machine.costs.costs(np.full((1, micro_batch), new), np.full((1, micro_batch), length), served)
    on_cpu = pipeline.on_cpu and new == 1
    gpu_ps = costs.front.sum() + costs.back.sum() + (0 if on_cpu else costs.attention.sum())
    gpu_s = gpu_ps / 1e12 / model.layers * count
    host_s = costs.host_ps.sum() / 1e12 / model.layers * count if on_cpu else np.zeros(len(count))
    layers = len(machine.dense)
    weights = (sum(machine.dense) + sum(machine.experts)) * (1 - resident) / layers
    kv = float(costs.cache_bytes.mean()) / micro_batch * total
    hidden = float(costs.hidden_bytes[0]) / micro_batch * total
    to_gpu_s: Any = weights / machine.link_bytes_per_s
    if on_cpu:
        to_gpu_s = to_gpu_s + hidden / machine.link_bytes_per_s
    elif new == 1:
        rate = machine.kv_bytes_per_s if pipeline.pageable_kv else machine.link_bytes_per_s
        to_gpu_s = to_gpu_s + kv / rate
    dram_s = (weights * (3 if pipeline.staged else 1) + (kv if new == 1 else 0)) / machine.dram_bytes_per_s
    return np.maximum.reduce(np.broadcast_arrays(gpu_s, host_s, to_gpu_s, dram_s))
