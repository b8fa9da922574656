"""The rival: the same model as one would first write it in SimPy, with a process per expert.

Same routing, LRU over half of the experts, transition-table guesses, one copy engine with demand
before prefetch and a PCIe link over shared host memory, per-layer attribution of compute against
waiting. Every expert of every layer is a process, every copy takes the engine as a priority
resource chunk by chunk and the host memory as a resource.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import simpy


@dataclass
class Times:
    """Seconds: dense part of a layer, one expert, one chunk of a copy; chunks per expert."""

    dense_s: float
    expert_s: float
    chunk_s: float
    chunks: int
    latency_s: float


class Naive:
    """Runs tokens of [layers][experts] ids; `guesses` alike. Slots are counted in experts."""

    def __init__(self, times: Times, slots: int) -> None:
        self.env = simpy.Environment()
        self.gpu = simpy.Resource(self.env, 1)
        self.engine = simpy.PriorityResource(self.env, 1)
        self.dram = simpy.Resource(self.env, 1)
        self.times = times
        self.slots = slots
        self.cache: OrderedDict[tuple[int, int], simpy.Event] = OrderedDict()
        self.hits = self.misses = 0
        self.waited_s: dict[str, float] = {"compute": 0.0, "copy": 0.0}

    def copy(self, key: tuple[int, int], loaded: simpy.Event, priority: int):
        for _ in range(self.times.chunks):
            with self.engine.request(priority) as turn:
                yield turn
                with self.dram.request() as memory:
                    yield memory
                    yield self.env.timeout(self.times.latency_s / self.times.chunks + self.times.chunk_s)
        loaded.succeed()

    def load(self, key: tuple[int, int], priority: int) -> simpy.Event:
        while len(self.cache) >= self.slots:
            for old, event in self.cache.items():
                if event.triggered and old[0] != key[0]:
                    del self.cache[old]
                    break
            else:
                break
        loaded = self.cache[key] = self.env.event()
        self.env.process(self.copy(key, loaded, priority))
        return loaded

    def expert(self, key: tuple[int, int]):
        event = self.cache.get(key)
        if event is None:
            self.misses += 1
            event = self.load(key, 0)
        else:
            self.hits += 1
            self.cache.move_to_end(key)
        asked = self.env.now
        if not event.processed:
            yield event
        self.waited_s["copy"] += self.env.now - asked
        with self.gpu.request() as turn:
            yield turn
            yield self.env.timeout(self.times.expert_s)
            self.waited_s["compute"] += self.times.expert_s

    def decode(self, tokens: Sequence[Sequence[Sequence[int]]], guesses: Sequence[Sequence[Sequence[int]]]):
        layers = len(tokens[0])
        for ids, guessed in zip(tokens, guesses, strict=True):
            for layer in range(layers):
                with self.gpu.request() as turn:
                    yield turn
                    yield self.env.timeout(self.times.dense_s)
                    self.waited_s["compute"] += self.times.dense_s
                work = [self.env.process(self.expert((layer, expert))) for expert in ids[layer]]
                following = (layer + 1) % layers
                for expert in guessed[layer]:
                    if (following, expert) not in self.cache:
                        self.load((following, expert), 1)
                yield self.env.all_of(work)

    def run(self, tokens: Sequence[Sequence[Sequence[int]]], guesses: Sequence[Sequence[Sequence[int]]]) -> float:
        """Simulated seconds for all tokens."""
        self.env.process(self.decode(tokens, guesses))
        self.env.run()
        return float(self.env.now)
