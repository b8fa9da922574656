"""Every system, platform and shipped trace runs, from the command line to the folder."""

from __future__ import annotations

import contextlib
import io
from pathlib import Path

import pytest
from hydra.utils import get_class

from experiments.catalogue import load
from experiments.cli import main
from experiments.compose import choices, chosen, compose_config
from experiments.run import trace_recipe
from hwmodels import Platform

KINDS = ("rtx_3060", "oneplus_15r", "two_rtx_3090")  # of machines; all systems run on the first
CHOSEN = {system: chosen([f"system={system}"]) for system in choices()["system"]}
BY_SCORE = ("by_gate_score", "read_by_score")
TINY = ("model=tiny_moe", "trace=tiny_moe", "cache_gib=0.012", "workload.max_decode_tokens=4", "reference=false")
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


def policy(made: dict[str, str], role: str) -> type:
    """The class of a system's choice in a role."""
    return get_class(load(f"policy/{role}", made[f"policy/{role}"])["_target_"])


def wants_one_worker(made: dict[str, str]) -> bool:
    """Whether a system decides by what the router says, or by what is resident, while the run goes on; or streams, or
    has a loop order."""
    routing = "weights" in (*policy(made, "execution").uses, *policy(made, "execution").needs)
    by_step = policy(made, "prediction").by_step
    streams = made["policy/pipeline"] in ("micro_batches", "token_windows")
    return policy(made, "gating").chooses or made["policy/precision"] != "stored" or routing or by_step or streams


def wants_units(made: dict[str, str]) -> bool:
    """Whether a system runs something on units near memory."""
    return policy(made, "execution").uses_units or made["policy/attention"] == "near_decode"


@pytest.mark.parametrize("system", CHOSEN)
def test_every_system_runs_on_every_kind_of_machine_or_says_why_not(system: str, tmp_path: Path) -> None:
    made = CHOSEN[system]
    others = KINDS[1:]
    for name in (KINDS[0], others[list(CHOSEN).index(system) % len(others)]):  # the phone or two GPUs, in turn
        code, err = smoke(tmp_path, f"system={system}", f"platform={name}", *TINY)
        machine = Platform.from_mapping(load("platform", name), name)
        reason = ""
        if policy(made, "execution").uses_cpu and machine.cpu is None:
            reason = f"needs a host CPU beside the worker; platform {name} has none."
        elif len(machine.workers) > 1 and wants_one_worker(made):
            reason = "one worker"
        elif len(machine.workers) > 1 and {"balanced_slices", "expert_streaming"} & set(made.values()):
            reason = "expected workers without kernel models"
        elif wants_units(made):
            reason = "ndp"
        elif made["policy/pipeline"] == "micro_batches" and machine.device(machine.workers[0]).kind != "gpu":
            reason = "needs a GPU"
        assert (code, err.count("\n")) == ((2, 1) if reason else (0, 0)), (name, err)
        assert reason in err


@pytest.mark.parametrize("platform", [name for name in choices()["platform"] if name not in KINDS])
def test_every_platform_runs(platform: str, tmp_path: Path) -> None:
    assert smoke(tmp_path, f"platform={platform}", "system=on_demand_lru", *TINY) == (0, "")


@pytest.mark.parametrize("system", CHOSEN)
def test_every_system_runs_on_a_second_model(system: str, tmp_path: Path) -> None:
    """On the recorded routing of gpt-oss-20b or, where that lacks what the system needs, on Mixtral's stand-in."""
    own = CHOSEN[system]["policy/attention"] == "near_decode"  # units over the GPU's memory
    platform = "a100_host" if not wants_units(CHOSEN[system]) else "duplex" if own else "monde"
    common = (f"system={system}", f"platform={platform}", "workload.max_decode_tokens=2", "reference=false")
    code, err = smoke(tmp_path, *common, "model=gpt_oss_20b", "trace=gpt_oss_20b", "cache_gib=4")
    if code:
        assert any(word in err for word in ("needs the router's", "look", "guess", "expected fewer")), err
        mixtral = ("model=mixtral_8x7b_hqq_4bit", "trace=mixtral_8x7b", "trace.probabilities=true", "cache_gib=8")
        low = ["policy.precision.low_bits=3.12"] if CHOSEN[system]["policy/precision"] in BY_SCORE else []
        code, err = smoke(tmp_path, *common, *mixtral, *low)  # low precision is below the 4.35 bits of this model
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
