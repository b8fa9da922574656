"""Replay equals a phone that streams experts from flash, access by access and point by point.

The recorded runs and where they are from: tests/reference/data/README.md.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from simulator.plan import Plan, Step, Workload
from simulator.policies.cache.base import CachePolicy
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.lfu import Lfu
from simulator.policies.cache.lru import Lru
from simulator.policies.cache.random_eviction import RandomEviction
from simulator.replay import DECODE, ReplayResult, replay
from traces import TraceMeta, data_path, open_trace

DATA = Path(__file__).parent / "data"
FILES = {"qwen": "qwen3_30b_a3b_phone.parquet", "gemma": "gemma_4_26b_a4b_phone.parquet"}
MIB = 2**20
DEVICE_BUDGET_BYTES = 4000 * MIB
# the curves' `lfu` counts since the start of the run; `layer*` divide the budget among the layers
POLICIES: dict[str, tuple[Callable[[], CachePolicy], str]] = {
    "lru": (Lru, "global"),
    "lfu": (lambda: Lfu(history=True), "global"),
    "belady": (Belady, "global"),
    "layer": (Lru, "layer"),
    "layerlfu": (lambda: Lfu(history=True), "layer"),
}


@dataclass
class Run:
    meta: TraceMeta
    steps: list[Step]

    def replay(self, make_cache: Callable[[], CachePolicy], budget_bytes: int, **options) -> ReplayResult:
        meta = self.meta
        assert meta.expert_bytes is not None
        return replay(self.steps, meta.expert_bytes, meta.num_experts, meta.top_k, make_cache, budget_bytes, **options)


@cache
def recorded(name: str) -> Run:
    trace = open_trace(data_path(FILES[name]))
    return Run(trace.meta, list(Plan(trace, Workload())))


@cache
def device_replay(name: str) -> tuple[ReplayResult, np.ndarray]:
    """The device's own configuration, and its accesses as rows of (step, layer, blob, hit)."""
    result = recorded(name).replay(Lru, DEVICE_BUDGET_BYTES, rows=True)
    return result, np.concatenate(result.rows)


def curve(name: str) -> list[dict[str, str]]:
    with (DATA / f"{name}-curve.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def metrics(name: str) -> list[dict[str, str]]:
    """One line per decoded token; the summary at the end is left out."""
    with (DATA / f"{name}.metrics").open(newline="") as file:
        return list(csv.DictReader(line for line in file if not line.startswith("#")))


def decode_accesses(name: str) -> dict[str, np.ndarray]:
    columns = pq.read_table(DATA / f"{name}-accesses.parquet").to_pydict()
    decode = np.array(columns["phase"]) == DECODE
    return {field: np.array(values)[decode] for field, values in columns.items()}


@pytest.mark.parametrize(("name", "hits_percent", "printed_percent"), [("qwen", 74.880, 74.9), ("gemma", 76.784, 76.8)])
def test_a_global_lru_of_4000_mib_has_the_devices_hit_rate(name, hits_percent, printed_percent):
    result, _ = device_replay(name)
    assert round(100 * result.hit_rate(), 3) == hits_percent
    summary = (DATA / f"{name}.metrics").read_text().splitlines()[-1]
    assert f"cache_hit_pct={printed_percent}" in summary
    assert round(100 * result.hit_rate(), 1) == printed_percent


@pytest.mark.parametrize(("name", "rows"), [("qwen", 128 * 48 * 6), ("gemma", 128 * 30 * 6)])
def test_every_decode_access_hits_or_misses_as_on_the_device(name, rows):
    meta = recorded(name).meta
    device = decode_accesses(name)
    step, layer, blob, hit = device_replay(name)[1].T
    decode = step > 0  # step 0 is the prefill
    assert len(device["expert"]) == rows == decode.sum()
    assert np.array_equal(np.array(meta.layers)[layer[decode]], device["layer"])
    assert np.array_equal(blob[decode] % meta.num_experts, device["expert"])
    assert np.array_equal(hit[decode], device["residency"])  # 0 miss, 1 hit; no prefetched hit (2) occurs
    read_bytes = np.where(hit == 1, 0, np.array(meta.expert_bytes)[layer])
    assert np.array_equal(read_bytes[decode], device["expert_bytes"])


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", FILES)
def test_every_point_of_the_curve_is_met_to_the_last_printed_digit(name, policy):
    make_cache, scope = POLICIES[policy]
    points = [point for point in curve(name) if point["policy"] == policy]
    assert len(points) == 11
    for point in points:
        result = recorded(name).replay(make_cache, int(point["budget_mib"]) * MIB, scope=scope)
        got = (
            f"{100 * result.hit_rate():.3f}",
            f"{100 * result.hit_rate(DECODE):.3f}",
            f"{result.miss_bytes.sum() / MIB:.1f}",
        )
        assert got == (point["hit_pct_cum"], point["hit_pct_decode"], point["read_mib"]), point


@pytest.mark.parametrize("name", FILES)
def test_random_eviction_has_the_curves_hit_rate_within_one_percentage_point(name):
    """Each recorded point is one run of another generator; between our seeds one sigma is 0.33 at most."""
    for point in curve(name):
        if point["policy"] != "random":
            continue
        budget_bytes = int(point["budget_mib"]) * MIB
        rates = [100 * recorded(name).replay(RandomEviction, budget_bytes, seed=seed).hit_rate() for seed in range(3)]
        assert np.mean(rates) == pytest.approx(float(point["hit_pct_cum"]), abs=1.0), point


@pytest.mark.parametrize("name", FILES)
def test_the_cumulative_hit_rate_after_each_token_is_the_devices(name):
    step, _, _, hit = device_replay(name)[1].T
    accesses = np.cumsum(np.bincount(step))
    percent = 100 * np.cumsum(np.bincount(step, weights=hit)) / accesses
    device = [float(line["cache_hit_pct"]) for line in metrics(name)]
    assert len(device) == 128
    # the prefill (step 0) counts towards the rate; half a unit of the second decimal for rounding
    assert np.abs(percent[1:] - device).max() <= 0.005 + 1e-9


# Flash is read in whole blocks of 4,096 bytes: up to three blocks more for an expert of three matrices. Qwen's
# padding is 3 x 4,096 = 12,288 bytes per expert (once 512 bytes less, at the end of the file).
@pytest.mark.parametrize(("name", "least_bytes", "most_bytes"), [("qwen", 12282, 12288), ("gemma", 5400, 9500)])
def test_bytes_read_per_token_are_its_misses_times_expert_size_plus_padding(name, least_bytes, most_bytes):
    step, layer, _, hit = device_replay(name)[1].T
    missed = hit == 0
    sizes = np.array(recorded(name).meta.expert_bytes)[layer]
    misses = np.bincount(step[missed], minlength=129)[1:]
    expert_bytes = np.bincount(step[missed], weights=sizes[missed], minlength=129)[1:]
    padding = np.array([int(line["read_bytes"]) for line in metrics(name)]) - expert_bytes
    assert (padding >= least_bytes * misses).all()
    assert (padding <= most_bytes * misses).all()


@pytest.mark.parametrize("name", FILES)
def test_a_global_lru_smaller_than_the_sweep_of_a_token_never_hits_in_decode(name):
    """An expert used at one token is the oldest again when its layer comes round: LRU's worst case."""
    run = recorded(name)
    assert run.meta.expert_bytes is not None
    sizes = run.meta.expert_bytes
    sweep_bytes = run.meta.top_k * (sum(sizes) - max(sizes))  # all the other layers, six experts each
    assert sweep_bytes > 500 * MIB
    for budget_mib in range(100, sweep_bytes // MIB, 100):
        result = run.replay(Lru, budget_mib * MIB)
        assert result.hits[DECODE].sum() == 0
        assert result.hit_rate(DECODE) == 0.0
