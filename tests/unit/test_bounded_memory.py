"""Eight times the requests must not take twice the memory: reading, summarising, replaying."""

from __future__ import annotations

import gc
import tracemalloc
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from simulator.plan import Plan, Workload
from simulator.policies.cache import belady
from simulator.policies.cache.base import CachePolicy
from simulator.policies.cache.belady import Belady
from simulator.policies.cache.lru import Lru
from simulator.replay import ReplayResult, replay
from traces import RequestTrace, Trace, TraceMeta, TraceWriter, open_trace, reader
from traces.statistics import similarity, summarise, summary, transitions

LAYERS, EXPERTS, TOKENS = 2, 8, 150
META = TraceMeta(
    model="small", num_experts=EXPERTS, top_k=1, native_top_k=1, layers=tuple(range(LAYERS)), rank_known=True
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Traces of 3 and of 24 requests, of random experts."""
    folder, rng = tmp_path_factory.mktemp("traces"), np.random.default_rng(0)
    for requests in (3, 24):
        with TraceWriter(folder / f"{requests}.parquet", META) as writer:
            for number in range(requests):
                experts = rng.integers(EXPERTS, size=(TOKENS, LAYERS, 1), dtype=np.int16)
                positions, phases = np.arange(TOKENS, dtype=np.int32), np.ones(TOKENS, dtype=np.int8)
                writer.write(RequestTrace(id=number, positions=positions, phases=phases, experts=experts))
    return folder


def peak_bytes(work: Callable[[Trace], object], path: Path) -> int:
    """The most that `work` allocates on a trace that it opens itself."""
    gc.collect()  # else garbage of other tests decides when this one's is collected
    tracemalloc.start()
    try:
        work(open_trace(path))
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def replayed(policy: type[CachePolicy]) -> Callable[[Trace], ReplayResult]:
    def work(trace: Trace) -> ReplayResult:
        return replay(Plan(trace, Workload()), [1] * LAYERS, EXPERTS, 1, policy, LAYERS * 4)

    return work


@pytest.mark.parametrize(
    "work", [list, summarise, replayed(Lru), replayed(Belady)], ids=["read", "summarise", "lru", "belady"]
)
def test_eight_times_the_requests_take_less_than_twice_the_memory(
    work: Callable[[Trace], object], folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reader, "KEPT_BYTES", 0)
    monkeypatch.setattr(summary, "blocks", partial(summary.blocks, tokens=100))
    monkeypatch.setattr(similarity, "MOST_REQUESTS", 3)
    monkeypatch.setattr(transitions, "SAMPLE_TOKENS", 200)
    monkeypatch.setattr(belady, "BLOCK_USES", 200)
    monkeypatch.setattr(belady, "USES_PER_BLOB", 1)
    if work is list:

        def work(trace: Trace) -> None:
            for _ in trace:
                pass

    work(open_trace(folder / "3.parquet"))  # what is made once for a process
    few, many = (peak_bytes(work, folder / f"{requests}.parquet") for requests in (3, 24))
    assert many < 2 * few


def test_belady_block_by_block_hits_as_often_as_with_the_whole_future_in_sight(
    folder: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = replayed(Belady)(open_trace(folder / "24.parquet"))
    monkeypatch.setattr(belady, "BLOCK_USES", 50)
    monkeypatch.setattr(belady, "USES_PER_BLOB", 1)
    by_block = replayed(Belady)(open_trace(folder / "24.parquet"))
    assert by_block.hits.tolist() == whole.hits.tolist()
    assert by_block.hits.sum() > replayed(Lru)(open_trace(folder / "24.parquet")).hits.sum()
