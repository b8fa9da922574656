"""Every system, platform and shipped trace runs, from the command line to the folder."""

from __future__ import annotations

import contextlib
import io
import itertools
from pathlib import Path

import numpy as np
import pytest

from experiments.catalogue import load
from experiments.cli import main
from experiments.compose import choices, chosen, compose_config
from experiments.run import trace_recipe
from hwmodels import Platform
from traces import RequestTrace, TraceMeta, TraceWriter

FITTING = {
    **dict.fromkeys(("oneplus_15r", "oneplus_15r_calibrated"), ("qwen3_30b_a3b", "qwen3_30b_a3b_phone")),
    "jetson_nano": ("tiny_moe", "tiny_moe"),
}
KINDS = ("a100_host", "jetson_agx_orin", "oneplus_15r", "rtx_3060", "two_rtx_3090")  # of machines: all systems run
PAIRS = [
    *itertools.product(choices()["system"], KINDS),
    *(("on_demand_lru", name) for name in choices()["platform"] if name not in KINDS),
]
CHOSEN = {system: chosen([f"system={system}"]) for system in choices()["system"]}
DEFAULT = ("gpt_oss_20b", "gpt_oss_20b")
MODELS = {
    "gemma_4_26b_a4b_phone": "gemma_4_26b_a4b",
    "gpt_oss_20b": "gpt_oss_20b",
    "olmoe_1b_7b": "olmoe_1b_7b",
    "qwen3_30b_a3b_phone": "qwen3_30b_a3b",
    "tiny_moe": "tiny_moe",
}


def smoke(folder: Path, *overrides: str) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.redirect_stderr(err):
        code = main(["run", "--quiet", "experiment=smoke", f"out={folder / 'run'}", *overrides])
    return code, err.getvalue()


@pytest.fixture(scope="module")
def guessed_trace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like OLMoE: 16 layers of 64 experts, top-8; each layer guesses the next one's experts half right."""
    rng = np.random.default_rng(1)
    meta = TraceMeta(
        model="olmoe_1b_7b",
        num_experts=64,
        top_k=8,
        native_top_k=8,
        layers=tuple(range(16)),
        guess_distances=1,
        guess_width=8,
    )
    path = tmp_path_factory.mktemp("trace") / "guessed.parquet"
    with TraceWriter(path, meta) as writer:
        for request in range(3):
            experts = rng.permuted(np.tile(np.arange(64), (30, 16, 1)), axis=-1)[..., :8].astype(np.int16)
            guesses = np.roll(experts, -1, axis=1)
            guesses[..., 4:] = rng.permuted(np.tile(np.arange(64), (30, 16, 1)), axis=-1)[..., :4]
            guesses = distinct(guesses)
            guesses[:, -1] = -1
            writer.write(
                RequestTrace(
                    id=request,
                    positions=np.arange(10, 40, dtype=np.int32),
                    phases=np.ones(30, dtype=np.int8),
                    experts=experts,
                    guesses=guesses[:, :, None, :],
                )
            )
    return path


def distinct(guesses: np.ndarray) -> np.ndarray:
    """Guesses named twice become empty."""
    for row in guesses.reshape(-1, guesses.shape[-1]):
        kept = list(dict.fromkeys(row.tolist()))
        row[:] = kept + [-1] * (len(row) - len(kept))
    return guesses


@pytest.mark.parametrize(("system", "platform"), PAIRS)
def test_every_system_runs_on_every_kind_of_machine_and_every_platform_runs(
    system: str, platform: str, guessed_trace: Path, tmp_path: Path
) -> None:
    model, trace = FITTING.get(platform, DEFAULT)
    made = CHOSEN[system]
    if made["policy/prediction"] == "lookahead":
        model, trace = "olmoe_1b_7b", str(guessed_trace)
    asked = [f"system={system}", f"platform={platform}", f"model={model}", f"trace={trace}"]
    code, err = smoke(tmp_path, *asked, "workload.max_decode_tokens=4")
    node = load("platform", platform)
    if made["policy/execution"] != "fetch" and Platform.from_mapping(node, platform).cpu is None:
        assert (code, err.count("\n")) == (2, 1)
        assert err.endswith(f" needs a host CPU beside the worker; platform {platform} has none.\n")
    else:
        assert (code, err) == (0, "")


def test_every_trace_that_is_a_file_is_tried() -> None:
    assert set(MODELS) == {name for name in choices()["trace"] if trace_recipe(load("trace", name)) is None}


@pytest.mark.parametrize("trace", MODELS)
def test_every_shipped_trace_runs(trace: str, tmp_path: Path) -> None:
    assert smoke(tmp_path, f"trace={trace}", f"model={MODELS[trace]}", "workload.max_decode_tokens=8") == (0, "")


def test_every_experiment_runs(tmp_path: Path) -> None:
    for name in choices()["experiment"]:
        common = ["workload.requests=1", "workload.max_decode_tokens=2", f"out={tmp_path / name}"]
        assert main(["run", "--quiet", f"experiment={name}", *common]) == 0


def test_the_demonstration_compares_nine_systems(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("experiments.demo.CURVE_GIB", (2, 4))
    short = ["workload.max_decode_tokens=32"]
    monkeypatch.setattr("experiments.demo.compose_config", lambda overrides: compose_config([*overrides, *short]))
    folder = tmp_path / "demo"
    assert main(["demo", "--requests", "1", "--out", str(folder)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    for words in ("Belady", "CPU in place", "LRU + transitions", "ui.perfetto.dev"):
        assert words in said.out
    figures = {
        f"{name}.{suffix}" for name in ("tokens_per_s", "time_per_token", "cache_size") for suffix in ("png", "pdf")
    }
    assert {path.name for path in (folder / "figures").iterdir()} == figures
    lines = (folder / "comparison.csv").read_text().splitlines()
    assert len(lines) == 1 + 9
    speeds = [float(line.split(",")[1]) for line in lines[1:]]
    assert speeds == sorted(speeds, reverse=True)
