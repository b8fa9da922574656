"""The page on fidelity: its numbers by hand, its command, and that the shipped page is of the shipped fits."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from experiments.fidelity import page, points
from experiments.fidelity.page import summarised
from hwmodels.calibrate import calibrate, read, write
from hwmodels.kernels import kernels

DOCS = Path(__file__).parents[3] / "docs"
QUICK = "deepep_low_latency_combine"


def numbers(rows: int, mean: float) -> dict[str, float]:
    return {"rows": rows, "median": mean / 2, "mean": mean, "p95": 3 * mean, "bias": -0.011}


def made_up(kernel: str, *cells: tuple[int, float, float, float | None]) -> dict:
    """A fitted file with cells of (rows, mean, rival's mean, mean on the unseen device)."""
    errors = []
    for number, (rows, mean, rival, other) in enumerate(cells):
        row = {"group": f"E{number}/bf16", "device": "h100_sxm", "shape": numbers(rows, mean)}
        row["rival"] = numbers(rows, rival)
        errors.append(row | ({"left_out": numbers(rows, other)} if other is not None else {}))
    return {"kernel": kernel, "errors": errors}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one fitted file."""
    made = tmp_path_factory.mktemp("fitted")
    write(calibrate([QUICK])[0], made)
    return made


def test_an_operator_weighs_its_cells_by_rows_and_counts_what_they_meet_and_lose() -> None:
    cells = ((300, 0.08, 0.2, 0.3), (100, 0.2, 0.1, None))
    (row,) = summarised([made_up("moe", *cells)])
    assert row["mean"] == pytest.approx((300 * 0.08 + 100 * 0.2) / 400)  # 0.11
    assert row["left_out"] == pytest.approx(0.3)
    assert (row["rows"], row["cells"], row["within"], row["lost"]) == (400, 2, 1, 1)
    text = page([made_up("moe", *cells)])
    summary = "| `moe` | 400 | 11.0 % | ≤ 10 %: **missed** | 17.5 % | 30.0 % | ≤ 20 %: **missed** | 1 of 2 | 1 |"
    assert summary in text
    assert "| h100_sxm | E0/bf16 | 300 | 4.0 % | 8.0 % | -1.1 % | 24.0 % | 30.0 % | 10.0 % | 20.0 % |" in text
    assert "| h100_sxm | E1/bf16 | 100 | 10.0 % | 20.0 % | -1.1 % | 60.0 % |  | 5.0 % | 10.0 % |" in text


def test_every_kernel_model_has_its_goal_and_a_goal_that_is_reached_is_met() -> None:
    goals = {
        row["kernel"]: row["goal"] for row in summarised([made_up(name, (1, 0.1, 0.1, 0.1)) for name in kernels()])
    }
    assert goals.pop("moe") == 0.10
    assert {goals.pop(name) for name in list(goals) if name.startswith(("gemm", "attention", "mla"))} == {0.12}
    assert set(goals.values()) == {0.15}
    assert "≤ 12 %: met | 10.0 % | 10.0 % | ≤ 20 %: met | 1 of 1 | 0 |" in page([made_up("gemm", (1, 0.1, 0.1, 0.1))])


def test_points_have_the_roofline_of_their_rows(folder: Path) -> None:
    communication = points(read(folder))
    assert (communication["flops"] == 0).all()
    assert communication["peak_flop_per_s"].isna().all()
    assert (communication["size_bytes"] > 0).all()
    error = np.abs(communication["predicted_s"] / communication["measured_s"] - 1)
    stored = {row["device"]: row["shape"]["mean"] for row in read(folder)[0]["errors"]}
    found = error.groupby(communication["device"]).mean().to_dict()
    assert found == pytest.approx(stored, abs=1e-4)


def test_the_command_writes_the_page_and_its_figures_with_or_without_fitting(call: Callable, folder: Path) -> None:
    said = call("calibrate", QUICK, "--out", "fits", "--report", "first.md")
    assert said.code == 0
    assert QUICK in said.out
    assert Path(f"fits/{QUICK}.yaml").read_bytes() == (folder / f"{QUICK}.yaml").read_bytes()
    images = {path.name: path.read_bytes() for path in Path("images/fidelity").iterdir()}
    assert set(images) == {"errors.png", "communication.png"}  # no experts, nothing with a roofline
    assert call("calibrate", "--no-fit", "--out", "fits", "--report", "second.md").code == 0
    text = Path("second.md").read_text()
    assert Path("first.md").read_text() == text
    assert {path.name: path.read_bytes() for path in Path("images/fidelity").iterdir()} == images
    assert set(re.findall(r"\]\(images/fidelity/(.*?)\)", text)) == set(images)
    assert "## Exact" in text
    assert "$" not in text


def test_calibrate_refuses_what_it_cannot_do_in_a_sentence(call: Callable, tmp_path: Path) -> None:
    for arguments, sentence in (
        (["gem"], "gem: there is no such kernel model; did you mean 'gemm'?"),
        (["gemm", "--workers", "0"], "--workers must be at least 1, got 0."),
        (["gemm", "--no-fit"], "--no-fit reports on all fitted files and fits none; leave out gemm."),
        (["--no-fit", "--out", "x"], "x: there is no fitted kernel model here; run moesim calibrate."),
        (["--report", "none/page.md"], "none: there is no such folder to write page.md to."),
    ):
        assert call("calibrate", *arguments) == (2, "", f"{sentence}\n")


# ---- what is shipped


def test_the_page_in_the_docs_is_that_of_the_shipped_fits() -> None:
    text = (DOCS / "fidelity.md").read_text()
    figures = re.findall(r"\]\(images/fidelity/(.*?)\.png\)", text)
    assert {"errors", "experts", "tokens_per_expert", "gemm", "attention", "communication", "roofline"} == set(figures)
    assert page(read(), figures) == text
    for name in figures:
        assert (DOCS / "images" / "fidelity" / f"{name}.png").stat().st_size <= 150_000
