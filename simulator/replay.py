"""The cache alone: hits and misses of a policy on a trace, without time.

The same steps, groups, slots and policies as a full run. All blobs of a group are looked up, then
loaded, then the policy evicts from outside the group until the budget holds; a group larger than
the budget overflows it while it runs (as on the phone whose runs we check against).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from simulator.plan import Plan, Step
from simulator.policies import PolicyContext
from simulator.policies.base import component_seed
from simulator.policies.cache.base import CachePolicy
from simulator.policies.slots.base import SlotsPolicy
from simulator.policies.slots.uniform import UniformSlots
from simulator.policies.slots.whole import GlobalSlots
from simulator.residency import RESIDENT, Partition, PolicyError, Tier

PREFILL, DECODE = 0, 1
SCOPES: dict[str, type[SlotsPolicy]] = {"global": GlobalSlots, "layer": UniformSlots}


class BudgetError(ValueError):
    """A cache budget that cannot work; the message is one sentence."""


@dataclass
class ReplayResult:
    """Counts of a replay. Arrays are [phase, layer] with phase 0 prefill, 1 decode; sizes in bytes."""

    hits: np.ndarray
    misses: np.ndarray
    miss_bytes: np.ndarray
    budget_bytes: int
    rows: list[np.ndarray] = field(default_factory=list)  # per group: step, layer, blob, hit

    @property
    def accesses(self) -> int:
        return int(self.hits.sum() + self.misses.sum())

    def hit_rate(self, phase: int | None = None) -> float:
        """Hits per access, of one phase or of both; 0 where nothing was asked for."""
        hits = self.hits if phase is None else self.hits[phase]
        misses = self.misses if phase is None else self.misses[phase]
        total = hits.sum() + misses.sum()
        return float(hits.sum() / total) if total else 0.0

    def summary(self) -> dict[str, Any]:
        """The counts as plain values, by phase and by layer, for JSON."""
        out: dict[str, Any] = {
            "budget_bytes": self.budget_bytes,
            "accesses": self.accesses,
            "hits": int(self.hits.sum()),
            "misses": int(self.misses.sum()),
            "hit_rate": self.hit_rate(),
            "loaded_bytes": int(self.miss_bytes.sum()),
        }
        for phase, name in enumerate(("prefill", "decode")):
            accesses = int(self.hits[phase].sum() + self.misses[phase].sum())
            out[name] = {
                "accesses": accesses,
                "hits": int(self.hits[phase].sum()),
                "misses": int(self.misses[phase].sum()),
                "hit_rate": self.hit_rate(phase) if accesses else None,
                "loaded_bytes": int(self.miss_bytes[phase].sum()),
            }
        totals = self.hits.sum(axis=0) + self.misses.sum(axis=0)
        out["layers"] = [
            {
                "layer": layer,
                "accesses": int(total),
                "hits": int(self.hits[:, layer].sum()),
                "misses": int(self.misses[:, layer].sum()),
                "hit_rate": float(self.hits[:, layer].sum() / total) if total else None,
                "loaded_bytes": int(self.miss_bytes[:, layer].sum()),
            }
            for layer, total in enumerate(totals)
        ]
        return out


def partition_budgets(budget_bytes: int, layer_expert_bytes: Sequence[int], top_k: int, scope: str) -> list[int]:
    """Budgets in bytes by the `slots` policy that a scope stands for: global, or layer (uniform).

    Raises BudgetError for a budget below one expert or another scope.
    """
    if scope not in SCOPES:
        raise BudgetError(f"scope is {scope!r}; expected 'global' or 'layer'.")
    largest = max(layer_expert_bytes)
    if budget_bytes < largest:
        raise BudgetError(f"the cache budget of {budget_bytes} bytes is smaller than one expert of {largest} bytes.")
    return SCOPES[scope]().budgets(budget_bytes, layer_expert_bytes, top_k)


def replay(
    plan: Plan | Iterable[Step],
    layer_expert_bytes: Sequence[int],
    experts: int,
    top_k: int,
    make_cache: Callable[[], CachePolicy],
    budget_bytes: int,
    *,
    scope: str = "global",
    seed: int = 0,
    rows: bool = False,
) -> ReplayResult:
    """Replay the steps of `plan` through a cache of `budget_bytes`.

    `make_cache()` builds one policy per partition; `rows=True` keeps hit or miss of every access.
    Raises BudgetError for a budget below one expert or an unknown scope.
    """
    layers = len(layer_expert_bytes)
    sizes = [size for size in layer_expert_bytes for _ in range(experts)]
    budgets = partition_budgets(budget_bytes, layer_expert_bytes, top_k, scope)
    partitions = []
    for index, capacity in enumerate(budgets):
        cache = make_cache()
        own = None if len(budgets) == 1 else index

        def future(own: int | None = own) -> Iterable[list[int]]:
            for step in plan:
                for layer, (blobs, _) in enumerate(step.groups):
                    yield blobs if own is None or own == layer else []

        cache.bind(
            PolicyContext(
                layers=layers,
                experts=experts,
                top_k=top_k,
                size_bytes=sizes,
                capacity_bytes=capacity,
                rng=np.random.default_rng(component_seed(seed, "cache", index)),
                training=plan.training if isinstance(plan, Plan) else lambda: iter(()),
                future=lambda future=future: iter(future()),  # type: ignore[misc]
            )
        )
        partitions.append(Partition(capacity, cache))
    tier = Tier("cache", sizes, partitions * layers if len(partitions) == 1 else partitions)
    result = ReplayResult(
        hits=np.zeros((2, layers), dtype=np.int64),
        misses=np.zeros((2, layers), dtype=np.int64),
        miss_bytes=np.zeros((2, layers), dtype=np.int64),
        budget_bytes=budget_bytes,
    )
    hit_lists = [[0] * layers, [0] * layers]
    miss_lists = [[0] * layers, [0] * layers]
    view = tier.view
    for number, step in enumerate(plan):
        phase = PREFILL if step.prefill else DECODE
        phase_hits, phase_misses = hit_lists[phase], miss_lists[phase]
        view.prefill = step.prefill
        for layer, (blobs, _) in enumerate(step.groups):
            view.group += 1
            view.layer = layer
            hits, misses = access(tier, tier.partitions[layer], blobs)
            phase_hits[layer] += len(hits)
            phase_misses[layer] += len(misses)
            if rows:
                missed = set(misses)
                seen = [(number, layer, blob, blob not in missed) for blob in blobs]
                result.rows.append(np.array(seen, dtype=np.int64).reshape(-1, 4))
        if step.last:
            for partition in partitions:
                partition.cache.on_sequence_end(view)
    result.hits[:] = hit_lists
    result.misses[:] = miss_lists
    result.miss_bytes[:] = result.misses * np.asarray(layer_expert_bytes, dtype=np.int64)
    return result


def access(tier: Tier, partition: Partition, blobs: list[int]) -> tuple[Sequence[int], list[int]]:
    """One group through the cache: look up, load, evict from outside the group."""
    hits, _, misses = tier.look_up(blobs)
    cache = partition.cache
    cache.on_layer(tuple(blobs), tuple(misses), tier.view)
    for blob in misses:
        tier.occupy(partition, blob, RESIDENT)
    need = partition.used_bytes - partition.capacity_bytes
    if need > 0:
        tier.pins = set(blobs)
        need -= tier.evict(partition, cache.victims(need, misses, tier.view))
        if need > 0 and partition.used_bytes > sum(tier.sizes[blob] for blob in blobs):
            raise PolicyError(
                f"policy/cache {type(cache).__name__} left {need} bytes more than its budget although others than the"
                " running layer's experts are resident; expected victims that free what is asked for."
            )
    return hits, misses
