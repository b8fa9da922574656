"""Experts whose micro-slices stream from the workers' memories and circulate over all of them (FSE-DP).

arXiv 2603.27624; rounds are our reading of it. In one, each of n workers brings a slice of s bytes of the same expert
from its own memory, the n slices then pass every worker along a ring, half of the others in either direction, and each
worker computes each slice for its own tokens. With the times

    load     s / rate of the memory; of an expert's first round also the vectors of the busiest worker's tokens
    move     (n - 1) / 2 · (s / rate of a link in one direction + its latency)
    compute  n s / size of the expert · operations of the worker with most tokens / its peak

round r is loaded when round r - 1 is and its room on chip is free, and moves and computes behind round r - 1:

    loaded(r) = max(loaded(r - 1), done(r - ahead)) + load(r)
    done(r)   = max(loaded(r), done(r - 1)) + max(move(r), compute(r))

`ahead`: rounds for which there is room on chip. All workers keep step, and nothing else is on memories and links.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hwmodels import Device
from hwmodels.efficiency import efficiency
from hwmodels.roofline import peak_flop_per_s
from simulator.engine import PS_PER_S
from simulator.plan import Group, Step
from simulator.policies.pipeline.expert_streaming import ExpertStreaming
from simulator.runtime.costs import Parts
from simulator.runtime.exchange import Exchange
from simulator.runtime.slices import Slices

Round = tuple[int, int, int]  # ps of load, move, compute


class CirculatingExchange(Exchange):
    """Activations stay where they are; all workers take all experts that any token of the step chose.

    pace: tokens of each expert in the running step on the worker that has most, [layers, experts].
    """

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self.pace = np.zeros(self._owners.shape, dtype=np.int64)
        self._step: Step | None = None
        self._counts = np.zeros((0, *self._owners.shape), dtype=np.int64)  # by worker

    def own(self, rank: int, step: Step) -> tuple[list[Group], list[list[int]] | None]:
        """All groups of a step with the tokens of worker `rank`, of which some experts have none."""
        if self._step is not step:
            self._step, self._counts = step, self._counted(step)
            self.pace = self._counts.max(axis=0)
        mine = self._counts[rank].ravel()
        return [(blobs, [int(mine[blob]) for blob in blobs]) for blobs, _ in step.groups], step.guesses

    def _counted(self, step: Step) -> np.ndarray:
        layers, experts = self._owners.shape
        counts = np.zeros((self._workers, layers * experts), dtype=np.int64)
        offsets = np.arange(layers)[None, :, None] * experts
        for slot, rows in zip(step.block.slots, step.rows, strict=True):
            chosen = (rows + offsets)[rows >= 0]
            counts[slot % self._workers] += np.bincount(chosen, minlength=layers * experts)
        return counts.reshape(self._workers, layers, experts)

    def message_bytes(self, number: int, step: Step) -> list[list[list[int]]]:
        """As `Exchange.message_bytes`: none."""
        return [[[0] * self._workers] * self._workers] * len(self._owners)


class CirculatingCosts:
    """The experts of a layer on one worker; `flops`, `size_bytes` by phase: what it computed for its own tokens, and
    read from its memory. `link`: bytes per second and latency to the next worker."""

    def __init__(
        self,
        slices: Slices,
        device: Device,
        policy: ExpertStreaming,
        exchange: CirculatingExchange,
        link: tuple[float, float],
    ) -> None:
        self._model, self._policy, self._exchange, self._link = slices.model, policy, exchange, link
        self._workers = slices.widths.shape[2]
        self._sizes, self._experts = slices.sizes(0), slices.widths.shape[1]
        one = self._model.expert_work(np.array([1.0]))
        self.dtype, self._flops = one.dtype, float(one.flops[0])
        self._vector_bytes = float(self._model.expert_work(np.array([2.0])).size_bytes[0] - one.size_bytes[0])
        self._memory_bytes_per_s = device.memory_read_bytes_per_s * efficiency(device, one.kind).memory
        self._flop_per_s = peak_flop_per_s(device, one.dtype) * efficiency(device, one.kind).compute
        self.flops, self.size_bytes = [0.0, 0.0], [0.0, 0.0]

    def launch(self, prefill: bool, blobs: Sequence[int], tokens: Sequence[int]) -> Parts:
        """All experts of a layer; what is not hidden behind computing counts as memory."""
        self.flops[prefill] += self._flops * sum(tokens)
        self.size_bytes[prefill] += sum([self._sizes[blob] for blob in blobs]) + self._vector_bytes * sum(tokens)
        pace = self._exchange.pace.ravel()
        served = [int(pace[blob]) for blob in blobs]
        order = list(range(len(blobs)))
        if self._policy.paired:
            order.sort(key=lambda place: -served[place])
            order = [order[place // 2 if place % 2 == 0 else -1 - place // 2] for place in range(len(order))]
        rounds = [each for place in order for each in self.rounds(self._sizes[blobs[place]], served[place])]
        end_ps = circulate(rounds, self._policy.ahead)
        compute_ps = sum(compute for _, _, compute in rounds)
        return end_ps, (0, end_ps - compute_ps, compute_ps)

    def rounds(self, part_bytes: int, tokens: int) -> list[Round]:
        """Those of an expert of which each worker has so many bytes, for so many tokens on the busiest one."""
        size = self._policy.slice_bytes
        rate, latency_s = self._link
        found: list[Round] = []
        for first in range(0, part_bytes, size):
            some = min(size, part_bytes - first)
            read = some + (0 if first else tokens * self._vector_bytes)
            load_s = read / self._memory_bytes_per_s
            move_s = (self._workers - 1) / 2 * (some / rate + latency_s)
            compute_s = some / part_bytes * tokens * self._flops / self._flop_per_s
            found.append((round(load_s * PS_PER_S), round(move_s * PS_PER_S), round(compute_s * PS_PER_S)))
        return found


def circulate(rounds: Sequence[Round], ahead: int) -> int:
    """When the last round is done, ps, from the formulas above.

    >>> circulate([(5, 1, 1)] * 3, ahead=2)  # loads bind: 3 · 5, and the last slice's way
    16
    >>> circulate([(5, 1, 1)] * 3, ahead=1)  # no room to load meanwhile: 3 · (5 + 1)
    18
    >>> circulate([(1, 1, 5)] * 3, ahead=2)  # arithmetic binds
    16
    """
    done: list[int] = []
    loaded = last = 0
    for number, (load, move, compute) in enumerate(rounds):
        free = done[number - ahead] if number >= ahead else 0
        loaded = max(loaded, free) + load
        last = max(loaded, last) + max(move, compute)
        done.append(last)
    return last
