"""Fits recover made-up machines exactly; cases count what they should; reads read what is there."""

from __future__ import annotations

import types

import numpy as np
import pytest

from hwmodels import Platform, PlatformError, operators, time_s
from hwmodels.microbench import Bench, Case, ColdWeights, Row, last_cache_bytes
from hwmodels.microbench_copies import copy_cases
from hwmodels.microbench_files import BLOCK_BYTES, Reader, file_cases, write_random
from hwmodels.microbench_fit import fit, fit_copies
from hwmodels.microbench_kernels import (
    FeedForward,
    Sizes,
    attend,
    backend,
    on_threads,
    processor_cases,
    rms_norm,
    torch_backend,
)

KIB = 1024
PEAK, BANDWIDTH, LAUNCH = 100e9, 20e9, 1e-6
MEMORY = {"gemm": 0.8, "grouped_gemm": 0.6, "attention": 0.5, "elementwise": 0.1}
COMPUTE = {"gemm": 1.0, "grouped_gemm": 0.7}
TINY = Sizes(
    pool_bytes=512 * KIB,
    pass_bytes=64 * KIB,
    small_calls=2,
    sweep_bytes=16 * KIB,
    squares=(16, 32),
    experts=((16, 8), (32, 16)),
    tokens=4,
    contexts=(4,),
    heads=2,
    head_dim=8,
    norms=(16,),
)


def made_up() -> list[Row]:
    """Rows of a machine with the constants above; the seconds of each row have that median."""

    def row(benchmark: str, size_bytes: float, seconds: float, **fields: float) -> Row:
        return Row(benchmark, size_bytes, (seconds / 2, seconds, 9 * seconds), **fields)

    rows = [row("launch", 1024, LAUNCH), row("read_memory", 1e6, 1e6 / BANDWIDTH)]
    rows.append(row("read_memory", 1e6, 1.5e6 / BANDWIDTH, at_once=2))
    rows.append(row("copy_memory", 1e6, 4e6 / BANDWIDTH))
    for kind, share in MEMORY.items():
        rows += [row(kind, size, LAUNCH + size / (BANDWIDTH * share), flops=size / 2) for size in (1e4, 1e6, 3e6)]
    for kind, share in COMPUTE.items():
        rows += [row(kind, 1e6, LAUNCH + flops / (PEAK * share), flops=flops, tokens=64) for flops in (1e8, 1e9, 1e12)]
    rows.append(row("gemm", 1e6, 1e6 / (5 * BANDWIDTH), flops=5e5, cached=True))  # is not to count
    for size in (128 * KIB, KIB * KIB):
        rows += [row("read_file", size, size / (1e9 * depth), at_once=depth) for depth in (1, 2)]
    return rows


def test_a_fit_recovers_the_machine_that_made_the_rows() -> None:
    found = fit(made_up())
    assert found.memory_read_bytes_per_s == pytest.approx(BANDWIDTH)
    assert found.launch_overhead_s == LAUNCH
    # the fastest product reaches the peak but for its launch of 1 us in 10 s
    assert found.peak_flop_per_s == pytest.approx(PEAK, rel=1e-6)
    assert found.memory_efficiency == pytest.approx(MEMORY, rel=1e-9)
    assert found.compute_efficiency == pytest.approx(COMPUTE, rel=1e-6)
    assert found.copy_efficiency == pytest.approx(0.25)
    rates = {(rate.request_bytes, rate.active_requests): rate.bytes_per_s for rate in found.read_rates}
    assert rates == pytest.approx({(size, depth): 1e9 * depth for size in (128 * KIB, KIB**2) for depth in (1, 2)})


def test_the_roofline_of_the_fitted_constants_gives_the_rows_back() -> None:
    from experiments.local.machine import platform_mapping

    sources = dict.fromkeys(("cpu", "dram", "ssd", "drive"), "made up")
    platform = Platform.from_mapping(platform_mapping(fit(made_up()), sources, 2**34, 2**38))
    cpu = platform.device("cpu")
    for row in made_up():
        if row.benchmark in operators.KINDS and not row.cached:
            work = operators.Work(row.benchmark, "fp32", np.array(row.flops), np.array(row.size_bytes))
            assert float(time_s(work, cpu)) == pytest.approx(row.median_s, rel=1e-3), row  # four digits in the file
    assert platform.device("ssd").read_bandwidth(2, 128 * KIB) == pytest.approx(2e9)


@pytest.mark.parametrize("benchmark", ["launch", "read_memory", "copy_memory", "read_file"])
def test_a_missing_benchmark_is_named(benchmark: str) -> None:
    with pytest.raises(PlatformError, match=f"no measured row of benchmark '{benchmark}'"):
        fit([row for row in made_up() if row.benchmark != benchmark])


def test_copies_are_a_latency_and_a_rate() -> None:
    rows = [Row("copy_to_device", size, (1e-5 + size / 12e9,)) for size in (4096, 1e6, 64e6)]
    assert fit_copies(rows) == pytest.approx((1e-5, 12e9))
    with pytest.raises(PlatformError, match="at least two sizes"):
        fit_copies(rows[:1])


def test_repetitions_of_cases_take_turns_and_change_direction() -> None:
    order = []

    def case(name: str) -> Case:
        return Case(name, 1.0, lambda: float(len(order.append(name) or order)))

    bench = Bench([case("a"), case("b")])
    for _ in range(3):
        bench.round()
    assert order == ["a", "b", "b", "a", "a", "b"]
    assert [row.seconds for row in bench.rows()] == [(1.0, 4.0, 5.0), (2.0, 3.0, 6.0)]


def test_cold_weights_are_dealt_in_a_circle() -> None:
    pool = ColdWeights(4096)
    first, second, again = (pool.take(400) for _ in range(3))  # 1024 numbers: the third does not fit behind them
    assert np.shares_memory(first, again)
    assert not np.shares_memory(first, second)
    assert len(pool.pieces(100, 1600)) == 4
    with pytest.raises(ValueError, match="has 1024 numbers"):
        pool.take(1025)


def test_the_last_cache_is_the_largest_that_the_system_tells(tmp_path) -> None:
    for index, text in enumerate(("64K", "32768K", "1M", "")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}" / "size").write_text(f"{text}\n")
    assert last_cache_bytes(tmp_path) == 32 * 2**20
    assert last_cache_bytes(tmp_path / "nothing") > 0


# ---- kernels


@pytest.mark.parametrize("tokens", [1, 3])
def test_a_feed_forward_block_is_swiglu(tokens: int) -> None:
    rng = np.random.default_rng(1)
    block = FeedForward(backend("numpy"), 8, 6, tokens)
    weights = rng.standard_normal(block.weights, dtype=np.float32)
    gate, up, down = weights[:48].reshape(6, 8), weights[48:96].reshape(6, 8), weights[96:].reshape(8, 6)
    x = rng.standard_normal(8 if tokens == 1 else (8, tokens), dtype=np.float32)
    out = np.zeros_like(x)
    block.run(block.split(weights), x, out)
    assert out == pytest.approx(down @ ((gate @ x) / (1 + np.exp(-(gate @ x))) * (up @ x)), rel=1e-4, abs=1e-5)


def test_attention_and_norm_are_what_they_are_called() -> None:
    rng = np.random.default_rng(2)
    query, (keys, values) = rng.standard_normal((2, 4)), rng.standard_normal((2, 2, 5, 4))
    scores = np.exp(np.einsum("hd,htd->ht", query, keys) / 2)  # sqrt(4)
    expected = np.einsum("ht,htd->hd", scores / scores.sum(axis=1, keepdims=True), values)
    assert attend(*(part.astype(np.float32) for part in (query, keys, values))) == pytest.approx(expected, rel=1e-4)
    x, out = np.array([3, 4], np.float32), np.zeros(2, np.float32)
    rms_norm(x, np.array([1, 2], np.float32), out)
    assert out == pytest.approx([3 / 12.5**0.5, 8 / 12.5**0.5], rel=1e-5)


def test_every_kind_has_cases_and_counts_what_the_roofline_counts() -> None:
    library, pool = backend("numpy"), ColdWeights(TINY.pool_bytes)
    bench = Bench(processor_cases(library, TINY, pool, [1, 2]))
    with on_threads(library, 1):
        bench.round()
    rows = bench.rows()
    assert all(row.median_s > 0 for row in rows)
    assert {row.benchmark for row in rows} == {"launch", "read_memory", "copy_memory", *MEMORY}
    assert {row.at_once for row in rows if row.benchmark == "read_memory"} == {1, 2}
    expert = next(row for row in rows if row.benchmark == "grouped_gemm" and row.tokens == 4)
    assert (expert.flops, expert.size_bytes) == (2 * 4 * 3 * 16 * 8, 3 * 16 * 8 * 4 + 4 * (2 * 16 + 2 * 8) * 2)
    hot = [(row.benchmark, row.size_bytes) for row in rows if row.cached]
    cold = [(row.benchmark, row.size_bytes) for row in rows if not row.cached and row.tokens == 1]
    assert len(hot) == 2
    assert set(hot) <= set(cold)


def stand_in_for_torch(with_cuda: bool = False) -> types.SimpleNamespace:
    """The few functions of torch that are used, by numpy."""

    class Tensor:
        def __init__(self, size: int) -> None:
            self.size, self.source = size, None

        def copy_(self, source, non_blocking: bool = False) -> None:
            copied.append((self.size, non_blocking))

    copied: list[tuple[int, bool]] = []
    return types.SimpleNamespace(
        __version__="0",
        from_numpy=lambda array: array,
        matmul=lambda a, b, out: np.matmul(a, b, out=out),
        set_num_threads=lambda count: None,
        empty=lambda size, **_: Tensor(size),
        uint8=None,
        cuda=types.SimpleNamespace(synchronize=lambda: None),
        copied=copied,
    )


def test_products_run_in_torch_where_it_is_there() -> None:
    library = torch_backend(stand_in_for_torch())
    bench = Bench(processor_cases(library, TINY, ColdWeights(TINY.pool_bytes), [1]))
    bench.round()
    assert all(row.median_s > 0 for row in bench.rows())
    with pytest.raises(PlatformError, match="no backend 'jax'; expected one of auto, torch, numpy"):
        backend("jax")


def test_copies_go_both_ways_from_both_kinds_of_memory() -> None:
    torch = stand_in_for_torch()
    bench = Bench(copy_cases(torch, sizes=(8, 16)))
    bench.round()
    cases = {(row.benchmark, row.size_bytes, row.cached) for row in bench.rows()}
    assert len(cases) == 2 * 2 * 2
    assert torch.copied.count((16, True)) == 2  # pinned copies run on their own, one each way


# ---- files


@pytest.mark.parametrize("direct", [True, False])
def test_a_reader_reads_what_is_there_and_says_how(tmp_path, direct: bool) -> None:
    from hwmodels.microbench import buffer

    path = tmp_path / "file"
    write_random(path, 4 * BLOCK_BYTES)
    with Reader(path, 2, direct) as reader:
        assert reader.method in (("O_DIRECT", "posix_fadvise", "nothing") if direct else ("posix_fadvise", "nothing"))
        memory = buffer(2 * BLOCK_BYTES)
        target = memoryview(memory)
        assert reader.submit(target, BLOCK_BYTES).result() == 2 * BLOCK_BYTES
        assert bytes(target) == path.read_bytes()[BLOCK_BYTES : 3 * BLOCK_BYTES]
        with pytest.raises(PlatformError, match="the file ends within"):
            reader.submit(target, 3 * BLOCK_BYTES).result()


def test_a_file_case_is_a_request_size_and_a_depth(tmp_path) -> None:
    path = tmp_path / "file"
    write_random(path, 16 * BLOCK_BYTES)
    bench = Bench(file_cases(path, (BLOCK_BYTES, 2 * BLOCK_BYTES), (1, 3), pass_bytes=4 * BLOCK_BYTES))
    bench.round()
    bench.round()
    found = [(row.benchmark, row.size_bytes, row.at_once, len(row.seconds)) for row in bench.rows()]
    assert found == [("read_file", size, depth, 2) for size in (BLOCK_BYTES, 2 * BLOCK_BYTES) for depth in (1, 3)]
    assert all(row.median_s > 0 for row in bench.rows())


def test_a_file_that_is_too_small_is_refused(tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    with pytest.raises(PlatformError, match="has 1 bytes; expected at least a block"):
        Reader(tmp_path / "file", 1)
    write_random(tmp_path / "file", BLOCK_BYTES)
    with pytest.raises(PlatformError, match=f"expected at least {2 * BLOCK_BYTES}"):
        file_cases(tmp_path / "file", (2 * BLOCK_BYTES,), (1,))[0].run()
