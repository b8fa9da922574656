"""Measured rows as runs: what a row becomes, which are not run, and the page."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from experiments.cli import main
from experiments.compose import compose_config
from experiments.run import scenario_from_config
from experiments.serving.rows import read_row
from experiments.serving.runtime_rows import overrides_of

ROW = {
    "id": "a row",
    "backend": "vllm",
    "backend_version": "0.18.0",
    "model_path": "openai/gpt-oss-120b",
    "system": "h100_sxm",
    "precision": "fp4",
    "mode": "agg",
    "isl": 40,
    "osl": 6,
    "gemm_quant_mode": "nvfp4",
    "moe_quant_mode": "nvfp4",
    "batch_size": 2,
    "tp_size": 2,
    "attention_dp_size": 1,
    "moe_tp_size": 2,
    "moe_ep_size": 1,
    "silicon_ttft_ms": 20.0,
    "silicon_tpot_ms": 5.0,
}


def test_a_row_is_its_layout_its_precision_and_its_load(tmp_path):
    overrides = overrides_of(read_row(ROW), tmp_path)
    made = scenario_from_config(compose_config(overrides))
    assert (made.layout.gpus, made.layout.tp, made.layout.moe_tp) == (2, 2, 2)
    assert made.platform.device("gpu0").engine == "VLLM"
    assert made.model.experts_bits == 4.25
    assert made.model.kv_bits == 8
    change = {"model_path": "Qwen/Qwen3-235B-A22B-FP8", "backend": "trtllm", "gemm_quant_mode": "fp8"}
    block = overrides_of(read_row({**ROW, **change}), tmp_path)
    assert "model=qwen3_235b_a22b_fp8" in block
    assert "platform.devices.gpu.engine=TRTLLM" in block


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"system": "h20"}, r"there is no node of 'h20'"),
        ({"model_path": "MiniMaxAI/MiniMax-M2.5"}, r"no trace stands in for minimax_m2_5\."),
        ({"mode": "disagg"}, r"one instance of one stage on a node"),
        ({"backend": "sglang"}, r"this engine gives prompts steps of their own"),
        ({"osl": 1e6}, r"it decodes more tokens than are run\."),
    ],
)
def test_what_is_not_run_says_why(tmp_path, change, reason):
    with pytest.raises(ValueError, match=f"^{reason}"):
        overrides_of(read_row({**ROW, **change}), tmp_path)


def test_rows_that_ask_for_the_same_are_run_once_and_the_page_says_what_was_not(tmp_path, capsys):
    rows = [ROW, {**ROW, "silicon_tpot_ms": 4.0}, {**ROW, "backend": "sglang"}, {**ROW, "model_path": "Qwen/Qwen3-32B"}]
    pd.DataFrame(rows).to_csv(tmp_path / "rows.csv", index=False)
    command = ["validate", "runtime-rows", "--measured", str(tmp_path / "rows.csv"), "--workers", "0"]
    assert main([*command, "--out", str(tmp_path / "out"), "--runs", str(tmp_path / "kept")]) == 0
    assert "1 rows: TPOT" in capsys.readouterr().out
    page = (tmp_path / "out" / "runtime_rows.md").read_text()
    assert "| the same run as another row's | 1 |" in page
    assert "| run | 1 |" in page
    table = pd.read_csv(tmp_path / "out" / "runtime_rows.csv")
    assert table.rows.tolist() == [1]
    assert 0 < 1 + table.tpot_bias[0] < 2
    assert Path(tmp_path / "out" / "runtime_rows.png").stat().st_size > 10_000


def test_a_table_without_rows_to_run_is_refused(tmp_path, capsys):
    pd.DataFrame([{**ROW, "system": "h20"}]).to_csv(tmp_path / "rows.csv", index=False)
    command = ["validate", "runtime-rows", "--measured", str(tmp_path / "rows.csv"), "--out", str(tmp_path / "out")]
    assert main([*command, "--runs", str(tmp_path / "kept")]) == 2
    assert "no row of this table can be run; the first one: there is no node of 'h20'" in capsys.readouterr().err
