"""The command writes a platform that runs; the loop and the simulation see the same hits and bytes."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.local.loop import OffloadLoop, Shape
from experiments.local.machine import QUICK, Machine
from experiments.local.proof import Plan, Proof, compare
from hwmodels.microbench_files import Reader, write_random
from hwmodels.microbench_kernels import backend

QUICK_RUN = ("calibrate", "local", "--quick", "--repetitions", "1", "--backend", "numpy")
SHAPE = Shape(layers=2, experts=4, top_k=2, hidden=128, width=64, heads=2, vocab=32)


@pytest.fixture
def experts(tmp_path: Path) -> Path:
    """The file of SHAPE's experts."""
    write_random(tmp_path / "experts.bin", SHAPE.layers * SHAPE.experts * SHAPE.expert_bytes)
    return tmp_path / "experts.bin"


def test_the_platform_written_says_where_it_is_from_and_runs(call: Callable, tmp_path: Path) -> None:
    from hwmodels import Platform

    said = call(*QUICK_RUN, "--out", "mine.yaml")
    assert said.code == 0
    assert "wrote mine.yaml" in said.out
    from omegaconf import OmegaConf

    platform = Platform.from_mapping(OmegaConf.load("mine.yaml"), where="mine.yaml")
    assert (platform.workers, platform.home) == (("cpu",), "ssd")
    for device in platform.devices.values():
        assert device.source.startswith("measured on this machine")
        assert "spread" in device.source
    grid = {(p.request_bytes, p.active_requests) for p in platform.device("ssd").read_bytes_per_s_table}
    assert grid == {(size, depth) for size in QUICK.request_bytes for depth in QUICK.depths}
    assert {"gemm", "grouped_gemm", "attention"} <= set(platform.device("cpu").memory_efficiency)
    run = call(
        "run",
        "platform=mine.yaml",
        "model=olmoe_1b_7b",
        "trace=olmoe_1b_7b",
        "cache_gib=1",
        "workload.max_decode_tokens=2",
        "reference=false",
        "platform.devices.dram.memory_capacity_bytes=64 GiB",  # however little this machine has
        "platform.devices.ssd.memory_capacity_bytes=64 GiB",
    )
    assert (run.code, run.err) == (0, "")
    shown = call("show", "mine.yaml")
    for told in (said.out, shown.out, run.out):
        assert "measured with --quick" in " ".join(told.split())
    assert {path.name for path in tmp_path.iterdir()} == {"mine.yaml", "runs"}  # and no file that was read


def test_the_loop_and_the_simulation_agree_on_every_hit_and_byte(call: Callable, tmp_path: Path) -> None:
    said = call(*QUICK_RUN, "--prove", "proof")
    assert said.code == 0
    assert "undelayed" in said.out
    summary, tokens = pd.read_csv("proof/summary.csv"), pd.read_csv("proof/tokens.csv")
    assert len(summary) == 2
    assert summary.same_hits.all()
    assert summary.same_bytes.all()
    assert (tokens.measured_bytes == tokens.simulated_bytes).all()
    assert summary.hit_rate.is_monotonic_increasing
    assert (summary.hit_rate.between(0, 1, inclusive="neither")).all()
    assert (summary[["measured_s", "predicted_s"]] > 0).all(axis=None)
    assert {path.name for path in tmp_path.iterdir()} == {"proof", "my_machine.yaml"}


def test_a_loop_that_does_something_else_is_found_out(tmp_path: Path) -> None:
    plan = Plan(layers=2, tokens=4, capacities=(16,), hidden=128, width=64)
    proof, library = Proof(tmp_path, plan), backend("numpy")
    machine = Machine(library, 1, proof.file, QUICK)
    machine.measure()
    with Reader(proof.file, 2) as reader:
        run = proof.loop(reader, machine)(16)
    assert compare(proof, machine, {16: [run]})[0].same_hits.all()
    run.hits[-1][-1] = not run.hits[-1][-1]
    run.bytes_read[0] += 1
    summary, _ = compare(proof, machine, {16: [run]})
    assert not summary.same_hits.any()
    assert not summary.same_bytes.any()


def test_the_loop_evicts_the_longest_unused(experts: Path) -> None:
    routing = [[[0, 1], [0, 1]], [[0, 2], [1, 3]], [[0, 1], [0, 1]]]
    with Reader(experts, 2) as reader:
        done = OffloadLoop(SHAPE, reader, backend("numpy"), 4, 4).run(routing, 0, capacity=4)
    # after the first token all four are there; then 2 of layer 0 replaces its 1, unused for longest, and 3 of layer 1
    # its 0; so the third token finds 0 of layer 0 and 1 of layer 1 alone
    nothing, first, second = [False, False], [True, False], [False, True]
    assert done.hits == [nothing, nothing, first, first, first, second]
    assert done.bytes_read == [4 * SHAPE.expert_bytes, 2 * SHAPE.expert_bytes, 2 * SHAPE.expert_bytes]


def test_the_size_of_the_cache_does_not_change_what_is_computed(experts: Path) -> None:
    routing = np.random.default_rng(3).permuted(np.tile(np.arange(4), (6, 2, 1)), axis=2)[:, :, :2].tolist()
    with Reader(experts, 2) as reader:
        loop = OffloadLoop(SHAPE, reader, backend("numpy"), 8, 8)
        small, large = (loop.run(routing, 1, capacity) for capacity in (2, 8))
        assert sum(small.bytes_read) > sum(large.bytes_read)
        assert np.isfinite(small.output).all()
        assert small.output.any()
        assert (small.output == large.output).all()
        other = [[[expert ^ 1 for expert in layer] for layer in token] for token in routing]
        assert (loop.run(other, 1, 8).output != large.output).any()
        with pytest.raises(ValueError, match="a cache of 1 experts; expected from 2 to 8"):
            loop.run(routing, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--folder", "nowhere"], "--folder nowhere: there is no such folder; expected one on the drive to measure."),
        (["--out", "mine.txt"], "--out mine.txt: expected a file ending in .yaml."),
        (["--out", "nowhere/mine.yaml"], "--out nowhere/mine.yaml: there is no folder nowhere."),
        (["--prove", "file"], "--prove file: there is a file of that name; expected a folder."),
        (["--repetitions", "0"], "--repetitions is 0; expected at least 1."),
        (["--threads", "-1"], "--threads is -1; expected at least 0."),
        (["--speed", "1"], "unrecognized arguments: --speed 1; see 'moesim calibrate local --help'."),
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(call: Callable, arguments: list[str], sentence: str) -> None:
    Path("file").write_text("")
    assert call(*QUICK_RUN, *arguments) == (2, "", f"{sentence}\n")


def test_a_drive_without_room_is_refused(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = shutil.disk_usage(".")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage._replace(free=2**20))
    said = call(*QUICK_RUN)
    assert said.code == 2
    assert said.err.startswith("--folder .: its drive has 1.0 MiB free; expected ")
