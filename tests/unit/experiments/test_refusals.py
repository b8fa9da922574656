"""What is wrong with an input is said in exactly one sentence, with exit code 2 and no traceback."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pytest

from experiments.compose import choices

Refuses = Callable[..., None]
CACHES = ", ".join(choices()["policy/cache"])


@pytest.mark.parametrize(
    ("sentence", "overrides"),
    [
        (
            "unknown key 'workload.batchsize' in 'workload.batchsize=2'; did you mean 'workload.batch_size'?",
            ["workload.batchsize=2"],
        ),
        ("unknown key 'batch_size' in 'batch_size=2'; did you mean 'workload.batch_size'?", ["batch_size=2"]),
        ("unknown key 'policy/cach' in 'policy/cach=lru'; did you mean 'policy/cache'?", ["policy/cach=lru"]),
        ("workload.batch_size=two: expected a whole number.", ["workload.batch_size=two"]),
        ("seed=1.5: expected a whole number.", ["seed=1.5"]),
        ("cache_gib=x: expected a number.", ["cache_gib=x"]),
        ("timeline=maybe: expected true or false.", ["timeline=maybe"]),
        ("name=null: this key must have a value.", ["name=null"]),
        ("model=gpt_oss: there is no such choice; did you mean 'gpt_oss_20b'?", ["model=gpt_oss"]),
        ("platform=rtx3060: there is no such choice; did you mean 'rtx_3060'?", ["platform=rtx3060"]),
        ("policy/cache=arc: there is no such choice (there are: " + CACHES + ").", ["policy/cache=arc"]),
        (
            "policy/cache=null: expected the name or path of a choice (there are: " + CACHES + ").",
            ["policy/cache=null"],
        ),
        (
            "cannot read 'cache_gib 4'; expected key=value, with the value in quotes if it has blanks or odd"
            " characters.",
            ["cache_gib 4"],
        ),
        ("'seed=1,2' gives several values; `moesim sweep`, or -m, runs each of them.", ["seed=1,2"]),
        (
            "hydra.run.dir=x: of Hydra's own settings only the launcher's are taken, and only with -m.",
            ["hydra.run.dir=x"],
        ),
        (
            "policy.prediction: unknown field 'distance'; NoPrediction takes none.",
            ["policy.prediction.distance=2"],
        ),
        (
            "policy.cache: unknown field 'histry'; did you mean 'history'?",
            ["policy/cache=lfu", "policy.cache.histry=true"],
        ),
        (
            "policy.cache: field '_target_' names 'simulator.policies.slots.whole.GlobalSlots',"
            " which is no CachePolicy.",
            ["policy.cache._target_=simulator.policies.slots.whole.GlobalSlots"],
        ),
        (
            "policy.cache: field '_target_' names 'no.such.Thing', which cannot be loaded: No module named 'no'.",
            ["policy.cache._target_=no.such.Thing"],
        ),
        ("model gpt-oss-20b: field 'layers' must be a whole number, got 'many'.", ["model.layers=many"]),
        ("platform rtx_3060: field 'home' must name a device of kind dram or ssd, got 'gpu'.", ["platform.home=gpu"]),
        ("name is '..'; expected text that can name a folder.", ["name=.."]),
    ],
)
def test_an_override_that_cannot_be(refuses: Refuses, sentence: str, overrides: list[str]) -> None:
    refuses(sentence, *overrides)


@pytest.mark.parametrize(
    ("sentence", "overrides"),
    [
        ("seed is -1; expected at least 0.", ["seed=-1"]),
        ("cache_gib is -1.0; expected a size above 0 in GiB, or null.", ["cache_gib=-1"]),
        ("cache_gib is nan; expected a size above 0 in GiB, or null.", ["cache_gib=nan"]),
        ("settings.chunk_bytes is 0; expected at least 1.", ["settings.chunk_bytes=0"]),
        ("workload.batch_size is -1; expected at least 1.", ["workload.batch_size=-1"]),
        ("workload.requests is 0; expected at least 1 or null for all.", ["workload.requests=0"]),
        ("workload.first_request is 40; the trace has requests 0 to 39.", ["workload.first_request=40"]),
        (
            "the trace (of gpt_oss_20b) does not fit the model OLMoE-1B-7B: it has 32 experts per layer, the model 64.",
            ["model=olmoe_1b_7b"],
        ),
        (  # one expert of gpt-oss-20b has 13236480 bytes, 0.001 GiB are 1073742
            "the expert cache (cache_gib) of gpu0 has 1073742 bytes; expected at least one expert of 13236480 bytes.",
            ["cache_gib=0.001"],
        ),
        (
            "policy.prediction.distance is 25; expected 1 to 24, the routed layers of the model.",
            ["policy/prediction=oracle", "policy.prediction.distance=25"],
        ),
        (
            "policy/execution=cpu_in_place runs experts where they lie and needs platform.home to be a dram;"
            " it is 'ssd' on rtx_3060.",
            ["system=cpu_in_place", "platform.home=ssd"],
        ),
    ],
)
def test_parts_that_do_not_go_together(refuses: Refuses, sentence: str, overrides: list[str]) -> None:
    refuses(sentence, *overrides)


@pytest.mark.parametrize(
    ("words", "overrides"),
    [
        (  # dense weights 3.35 GiB, workspace 0.5 GiB
            ("dense weights 3.35 GiB", "of gpt-oss-20b do not fit the 3.00 GiB of gpu0 on rtx_3060."),
            ["platform.devices.gpu0.memory_capacity_bytes='3 GiB'"],
        ),
        (("30.00 GiB", "leave 8.14 GiB of gpu0 on rtx_3060."), ["cache_gib=30"]),
        (("policy/prediction=lookahead", "the trace holds none"), ["system=lookahead_prefetch"]),
    ],
)
def test_memory_and_trace_limits_name_the_numbers(call: Callable, words: tuple[str, ...], overrides: list[str]) -> None:
    said = call("run", "experiment=smoke", *overrides)
    assert said.code == 2
    assert said.err.count("\n") == 1
    assert all(word in said.err for word in words), said.err


# ---- files


def test_a_missing_file(refuses: Refuses) -> None:
    refuses("model=no/such.yaml: there is no such file.", "model=no/such.yaml")


@pytest.mark.parametrize("group", ["model", "platform", "trace", "system", "experiment", "policy/cache"])
def test_a_syntax_error_in_a_yaml_names_the_place(refuses: Refuses, tmp_path: Path, group: str) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text("name: [unclosed\n")
    sentence = f"{path}, line 2, column 1: this is not YAML: expected ',' or ']', but got '<stream end>'."
    refuses(sentence, f"{group}={path}")


def test_a_yaml_that_is_no_mapping_or_no_text(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "list.yaml").write_text("- a\n- b\n")
    (tmp_path / "bytes.yaml").write_bytes(b"\xff\xfe\x00\x9f")
    refuses(f"{tmp_path}/list.yaml: expected a mapping of keys to values.", f"model={tmp_path}/list.yaml")
    refuses(f"{tmp_path}/bytes.yaml: this is not YAML: it is not UTF-8 text.", f"model={tmp_path}/bytes.yaml")


@pytest.mark.parametrize("group", ["system", "experiment"])
def test_an_unknown_key_in_a_file_names_the_file(refuses: Refuses, tmp_path: Path, group: str) -> None:
    (tmp_path / "my.yaml").write_text("workload:\n  batchsize: 2\n")
    sentence = f"{tmp_path}/my.yaml: unknown key 'workload.batchsize'; did you mean 'workload.batch_size'?"
    refuses(sentence, f"{group}={tmp_path}/my.yaml")


def test_a_model_without_what_it_needs_names_the_file(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("layers: 3\n")
    refuses(f"{tmp_path}/my.yaml: field 'name' is missing.", f"model={tmp_path}/my.yaml")


def test_a_policy_file_with_a_gap_names_the_file(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "my.yaml").write_text("_target_: ???\n")
    sentence = f"{tmp_path}/my.yaml: field '_target_' names '???', which cannot be loaded: Empty module name."
    refuses(sentence, f"policy/cache={tmp_path}/my.yaml")


def test_a_policy_module_that_fails_says_how(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "failing_policy.py").write_text("raise RuntimeError('no licence\\nhere')\n")
    (tmp_path / "my.yaml").write_text("_target_: failing_policy.Mine\n")
    sentence = f"{tmp_path}/my.yaml: field '_target_' names 'failing_policy.Mine', which cannot be loaded: no licence."
    refuses(sentence, f"policy/cache={tmp_path}/my.yaml")


def test_a_file_that_is_no_trace(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_text("nothing")
    sentence = "x.parquet: a trace must be a complete Parquet file, but this is none."
    refuses(sentence, f"trace={tmp_path}/x.parquet")


# ---- run folders


def test_a_folder_that_is_no_run_is_not_touched(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.tex").write_text("words")
    folder = tmp_path / "precious"
    refuses(f"out={folder}: the folder holds 'thesis.tex', which is no part of a run; choose another.", f"out={folder}")
    assert (folder / "thesis.tex").read_text() == "words"


def test_a_file_where_the_folder_should_be(refuses: Refuses, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    refuses(f"out={tmp_path}/file: there is a file of that name; expected a folder.", f"out={tmp_path}/file")
    refuses(f"out={tmp_path}/file/x: cannot write in {tmp_path}/file (not a directory).", f"out={tmp_path}/file/x")


def test_a_full_disk_leaves_nothing_behind(call: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "steps.parquet")

    monkeypatch.setattr("experiments.run.write_table", full)
    said = call("run", "experiment=smoke", "workload.max_decode_tokens=2", "reference=false")
    assert (said.code, said.err) == (2, "steps.parquet: no space left on device.\n")
    assert list((tmp_path / "runs").iterdir()) == []


def test_control_c_ends_with_130(call: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("experiments.commands.run.run_config", interrupted)
    said = call("run", "experiment=smoke")
    assert (said.code, said.err) == (130, "interrupted.\n")


def test_a_multirun_says_which_run_cannot_be_and_keeps_those_before_it(call: Callable, tmp_path: Path) -> None:
    said = call("run", "-m", "-q", "experiment=smoke", "workload.max_decode_tokens=2", "cache_gib=2,30")
    assert said.code == 2
    assert said.err.startswith("cache_gib=30: ")
    assert [path.name for path in (tmp_path / "runs" / "smoke_multirun").glob("cache*")] == ["cache_gib=2"]


# ---- other commands

REPLAY = ["replay", "gpt_oss_20b", "--budget-mib"]


@pytest.mark.parametrize(
    ("sentence", "arguments"),
    [
        ("--policy lur: there is no such choice; did you mean 'lru'?", [*REPLAY, "400", "--policy", "lur"]),
        ("--budget-mib is -4; expected a size above 0 in MiB.", [*REPLAY, "-4"]),
        ("the cache budget of 1048576 bytes is smaller than one expert of 13236480 bytes.", [*REPLAY, "1"]),
        ("--rows x.txt: expected a file ending in .csv or .parquet.", [*REPLAY, "400", "--rows", "x.txt"]),
        ("--rows no/x.csv: there is no folder no.", [*REPLAY, "400", "--rows", "no/x.csv"]),
        (
            "gpt_oss: there is no such trace; did you mean 'gpt_oss_20b'?",
            ["replay", "gpt_oss", "--budget-mib", "400"],
        ),
        (
            "the trace (of gpt_oss_20b) does not fit the model OLMoE-1B-7B: it has 32 experts per layer, the model 64.",
            [*REPLAY, "400", "--model", "olmoe_1b_7b"],
        ),
        ("the following arguments are required: --budget-mib; see 'moesim replay --help'.", ["replay", "gpt_oss_20b"]),
        ("the following arguments are required: COMMAND; see 'moesim --help'.", []),
        ("unknown argument '--fast'; see 'moesim run --help'.", ["run", "--fast"]),
        ("no/such.csv: there is no such file to import.", ["trace", "import", "no/such.csv", "x.parquet"]),
        ("rtx_360: there is nothing of that name; did you mean 'rtx_3060'?", ["show", "rtx_360"]),
        ("workload.requests is 0; expected at least 1 or null for all.", ["demo", "--requests", "0"]),
    ],
)
def test_other_commands_refuse_as_plainly(call: Callable, sentence: str, arguments: list[str]) -> None:
    said = call(*arguments)
    assert (said.code, said.err) == (2, f"{sentence}\n")
