"""Every command of the README and the guides runs as written (runs are cut to a few tokens)."""

import contextlib
import io
import re
import shlex
import shutil
from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from traces import data_path, open_trace

ROOT = Path(__file__).parents[2]
PAGES = [
    "README.md",
    *(
        f"docs/{name}.md"
        for name in (
            "tutorial",
            "policies",
            "fidelity",
            "kernels",
            "sweeps",
            "timeline",
            "serving_runtime",
            "layouts",
            "energy",
            "proposals",
        )
    ),
]
ELSEWHERE = ("calibrate", "demo", "figure", "propose")  # what other tests run
MACHINES = ("submitit", "launcher=ray")  # and what needs a cluster
CUT = {"workload.requests": 2, "workload.max_decode_tokens": 4}


def commands(page: str) -> list[str]:
    text = (ROOT / page).read_text()
    blocks = "\n".join(re.findall(r"```sh\n(.*?)```", text, flags=re.S))
    inline = re.findall(r"`(moesim [^`]+)`", text) if page == "docs/fidelity.md" else []
    lines = [line.split("  #")[0].strip() for line in blocks.splitlines()] + inline
    return [line for line in lines if line.startswith("moesim ") and "PLATFORM" not in line]


def write_route(path: Path) -> None:
    """Four tokens of the shipped Qwen3 run as the phone would have logged them."""
    trace = open_trace(data_path("qwen3_30b_a3b_phone.parquet"))
    sizes = trace.meta.expert_bytes or ()
    lines = [
        "# route_trace v1",
        "# model=Qwen3-30B-A3B-Q4_K_M.gguf arch=qwen3moe n_layer=48 n_expert=128 n_expert_used=6",
    ]
    lines += [f"# layer={layer} expert_bytes={size} dense_bytes=11953152" for layer, size in enumerate(sizes)]
    lines.append("turn,phase,step,layer,slot,expert,weight,residency,expert_bytes")
    for step, token in enumerate(trace.request(0).experts[-4:]):
        for layer, ids in enumerate(token):
            lines += [f"0,1,{step},{layer},{slot},{e},{0.4 - 0.05 * slot},0,0" for slot, e in enumerate(ids)]
    path.write_text("\n".join(lines) + "\n")


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A folder with the reader's own files that the pages speak of."""
    monkeypatch.chdir(tmp_path)
    conf = ROOT / "experiments" / "conf"
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    shutil.copy(ROOT / "examples" / "second_chance.py", tmp_path / "second_chance.py")
    shutil.copy(ROOT / "examples" / "second_chance.yaml", tmp_path / "my_policy.yaml")
    shutil.copy(conf / "platform" / "rtx_3060.yaml", tmp_path / "my_box.yaml")
    shutil.copy(conf / "model" / "qwen3_30b_a3b.yaml", tmp_path / "my_model.yaml")
    write_route(tmp_path / "route.csv")
    shutil.copy(tmp_path / "route.csv", tmp_path / "my_log.route.csv")
    shutil.copy(ROOT / "hwmodels" / "devices" / "h100_sxm.yaml", tmp_path / "my_gpu.yaml")
    rows = pd.read_parquet(ROOT / "hwmodels" / "measurements" / "gemm.parquet").iloc[::500]
    rows.to_parquet(tmp_path / "rows.parquet")
    rows.to_csv(tmp_path / "rows.csv", index=False)
    return tmp_path


@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run(page, workplace):
    found = commands(page)
    assert found
    for line in found:
        arguments = shlex.split(line)[1:]
        if arguments[0] in ELSEWHERE or any(name in line for name in MACHINES):
            continue
        if arguments[0] == "search":
            arguments += ["--trials", "4"]
        if arguments[0] in ("run", "sweep", "search", "capacity"):
            arguments = [item for item in arguments if item.split("=")[0] not in CUT]
            arguments += [f"{key}={value}" for key, value in CUT.items()]
            arguments.append("reference=false")
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = main(arguments)
        assert (code, err.getvalue()) == (0, ""), line


def test_the_example_in_the_docs_is_the_example():
    example = (ROOT / "examples" / "second_chance.py").read_text()
    for page in ("README.md", "docs/policies.md"):
        assert example.split("\n\n\n")[1].strip() in (ROOT / page).read_text()
    for name in ("drop_small", "sooner"):
        assert (ROOT / "examples" / f"{name}.py").read_text() in (ROOT / "docs" / "policies.md").read_text()


def test_the_tutorial_says_what_the_phone_replay_prints():
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        main(["replay", "qwen3_30b_a3b_phone", "--policy", "lru", "--budget-mib", "4000"])
    assert "74.9 %" in out.getvalue()
