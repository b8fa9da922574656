"""Figures of claims that are no single key of a summary, for `metric: {python: ...}` (docs/validation/claims.md).

Those that take `runs` get the finished runs of a claim by name; the others compute from a preset and a trace alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np

from experiments.catalogue import load
from experiments.compose import compose_config
from experiments.policy import make_policy
from experiments.run import plain, scenario_from_config
from experiments.validation.published.runs import Run
from simulator.policies import PolicyContext
from simulator.replay import access
from simulator.residency import Partition, Tier
from simulator.scenario import Scenario


def per_block_s(runs: Mapping[str, Run], blocks: int) -> float:
    """Time per decoded token and block, of the one run; `blocks` routed layers a token passes."""
    (run,) = runs.values()
    return float(run.summary["tpot_mean_s"]) / blocks


def slow_down(runs: Mapping[str, Run]) -> float:
    """Duration over what it would be without the waits for the drive, of the one run."""
    (run,) = runs.values()
    return 1 / (1 - float(run.summary.get("ssd_share") or 0.0))


def misses_over(runs: Mapping[str, Run], of: str, over: str) -> float:
    """Misses of decoding of one run over those of another, which asks for the same."""
    one, other = (1 - float(runs[name].summary["hit_rate_decode"]) for name in (of, over))
    return one / other


def knee(runs: Mapping[str, Run], divisor: float = 1.0) -> float:
    """Slots at which the miss curve of decoding bends most: farthest below the chord of its ends (axes from 0 to 1).

    Names of the runs end in the number of slots; `divisor`: GPUs that share them.
    """
    points = sorted((int("".join(filter(str.isdigit, name))), run) for name, run in runs.items())
    slots = np.array([count for count, _ in points], dtype=float)
    missed = np.array([1 - float(run.summary["hit_rate_decode"]) for _, run in points])
    across = (slots - slots[0]) / (slots[-1] - slots[0])
    down = (missed - missed[-1]) / (missed[0] - missed[-1])
    return float(slots[int(np.argmin(down + across))]) / divisor


def fetched_bytes_per_s(runs: Mapping[str, Run]) -> float:
    """Bytes fetched ahead per second of the one run."""
    (run,) = runs.values()
    return float(run.summary["prefetch_bytes"]) / float(run.summary["duration_s"])


def bytes_saved(runs: Mapping[str, Run], of: str, over: str) -> float:
    """Peak memory of a worker that one run saves against another, in bytes."""
    one, other = (float(runs[name].summary["memory_peak_bytes"]) for name in (of, over))
    return other - one


def network_sign(
    runs: Mapping[str, Run],
    round_trip_s: Sequence[float],
    link_bytes_per_s: Sequence[float],
    prompt_bytes: float = 4e3,
    answer_bytes: float = 4e3,
) -> float:
    """1 if a client waits longer behind the first network than behind the second, -1 if less long, 0.

    Of the one run: latency = run + round trip + prompt / rate + answer / rate, the communication of EIO-MoE
    (Electronics 13(11) 2077): prompt up, answer down, one exchange.
    """
    (run,) = runs.values()
    served = float(run.summary["request_latency_mean_s"])
    waits = [
        served + trip + (prompt_bytes + answer_bytes) / rate
        for trip, rate in zip(round_trip_s, link_bytes_per_s, strict=True)
    ]
    return 0.0 if waits[0] == waits[1] else math.copysign(1.0, waits[0] - waits[1])


def _scenario(overrides: Sequence[str]) -> Scenario:
    return scenario_from_config(plain(compose_config([*overrides, "reference=false"])))


def _context(scenario: Scenario) -> PolicyContext:
    layers, experts = len(scenario.model.moe_layers), scenario.model.experts
    return PolicyContext(layers=layers, experts=experts, top_k=scenario.trace.meta.top_k, size_bytes=[])


def reduced_share(overrides: Sequence[str], requests: int = 8) -> float:
    """Share of (token, layer) pairs of a trace that the preset's gating leaves with fewer experts than were chosen."""
    scenario = _scenario(overrides)
    gating = scenario.system.gating()
    gating.bind(_context(scenario))
    reduced = pairs = 0
    for index in range(requests):
        rows = scenario.trace.request(index)
        kept, _ = gating.rewrite(rows)
        fewer = (kept >= 0).sum(axis=2) < (rows.experts >= 0).sum(axis=2)
        reduced, pairs = reduced + int(fewer.sum()), pairs + fewer.size
    return reduced / pairs


def level_share(overrides: Sequence[str], level: int, second_only: bool = False, requests: int = 8) -> float:
    """Share of a trace's selections for which gate weights alone call for a level of precision: 0 as stored, 1 low,
    2 skipped; HOBBIT's rule with the borders of the preset. second_only: of all but each token's first."""
    config = plain(compose_config([*overrides, "reference=false"]))["policy"]["precision"]
    scenario = _scenario(overrides)
    found: list[np.ndarray] = []
    for index in range(requests):
        weights = np.nan_to_num(np.asarray(scenario.trace.request(index).weights, dtype=np.float64))
        ranked = -np.sort(-weights, axis=2)
        before = (np.cumsum(ranked, axis=2) - ranked) / ranked.sum(axis=2, keepdims=True)
        levels = np.searchsorted(np.array([config["high_below"], config["low_below"]]) + 1e-9, before)
        found.append(levels[:, :, 1:].ravel() if second_only else levels.ravel())
    return float((np.concatenate(found) == level).mean())


def uniform_hit_rate(policy: str, capacity: int, experts: int = 6, tokens: int = 20_000, seed: int = 0) -> float:
    """Hit rate of a cache choice on tokens that ask for one expert each, drawn independently and uniformly.

    A layer of Read-ME's model (NeurIPS 2024, arXiv 2410.19123): one expert per token, the same in all layers. That its
    stream is like this is read off its own table, whose LRU row is what such a stream gives: capacity / experts.
    """
    stream = np.random.default_rng(seed).integers(experts, size=tokens).tolist()
    cache = make_policy(load("policy/cache", policy), "cache")()
    cache.bind(
        PolicyContext(
            layers=1,
            experts=experts,
            top_k=1,
            size_bytes=[1] * experts,
            capacity_bytes=capacity,
            rng=np.random.default_rng(seed),
            future=lambda: ([expert] for expert in stream),
        )
    )
    partition = Partition(capacity, cache)
    tier = Tier("cache", [1] * experts, [partition])
    hits = 0
    for number, expert in enumerate(stream):
        tier.view.group, tier.view.layer = number, 0
        hits += len(access(tier, partition, [expert])[0])
    return hits / tokens


def ratio_beyond(runs: Mapping[str, Run], key: str, of: str, over: str, beyond: str) -> float:
    """Ratio of what two runs take beyond a third, such as of MoE layers alone beyond a model without experts."""
    base = float(runs[beyond].summary[key])
    return (float(runs[of].summary[key]) - base) / (float(runs[over].summary[key]) - base)


def best_rival_over(runs: Mapping[str, Run], ours: str, key: str) -> float:
    """The least of a time, a key of the summary, among the other runs, over that of `ours`: above 1, ours is faster."""
    return min(float(run.summary[key]) for name, run in runs.items() if name != ours) / float(runs[ours].summary[key])
