"""`moesim serve-predict`, the split of measured rows, and fitting constants to rows that they made."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from experiments.cli import main
from experiments.compose import choices
from experiments.explain import ConfigError
from experiments.serving.engines import Engine, engines
from experiments.serving.fit import Measured, fit_engine
from experiments.serving.models import find_model
from experiments.serving.predict import predict, steady
from experiments.serving.rows import layout_of, read_row
from experiments.serving.split import configuration, is_training
from hwmodels.datasheet import datasheet_names
from simulator.serving import Layout

ROW = {
    "backend": "vllm",
    "model_path": "Qwen/Qwen3-30B-A3B-Instruct-2507",
    "system": "h200_sxm",
    "isl": 1024,
    "osl": 512,
    "batch_size": 16,
    "tp_size": 2,
    "mode": "agg",
}


def rows(*changes: dict) -> pd.DataFrame:
    return pd.DataFrame([{**ROW, **change} for change in changes])


def test_the_command_answers_each_row_or_says_why_not(tmp_path, capsys):
    asked = rows(
        {"note": "kept"},
        {"backend": "sglang", "backend_version": "0.5.9"},
        {"backend": "TensorRT-LLM", "system": "b200-sxm", "precision": "fp4"},
        {"model_path": "nobody/unheard-of-7b"},
        {"system": "abacus"},
        {"backend": "ollama"},
        {"batch_size": "many"},
        {"mode": "disagg", "prefill_tp_size": 1, "decode_tp_size": 4},
    )
    source, out = tmp_path / "rows.csv", tmp_path / "answered.csv"
    asked.to_csv(source, index=False)
    assert main(["serve-predict", str(source), "--out", str(out)]) == 0
    answered = pd.read_csv(out)
    good = answered["reason"].isna()
    assert good.tolist() == [True] * 3 + [False] * 4 + [True]
    assert (answered.loc[good, ["predicted_ttft_ms", "predicted_tpot_ms"]] > 0).all().all()
    assert answered.loc[~good, "predicted_tpot_ms"].isna().all()
    assert answered["note"][0] == "kept"
    for reason, word in zip(
        answered.loc[~good, "reason"], ("unheard-of", "abacus", "ollama", "batch_size"), strict=True
    ):
        assert word in reason
    assert "4 of 8" in capsys.readouterr().out


def test_only_bad_rows_exit_with_two_and_missing_columns_are_named(tmp_path, capsys):
    source, out = tmp_path / "rows.csv", tmp_path / "answered.parquet"
    rows({"backend": "ollama"}).to_csv(source, index=False)
    assert main(["serve-predict", str(source), "--out", str(out)]) == 2
    rows({}).drop(columns="osl").to_csv(source, index=False)
    assert main(["serve-predict", str(source), "--out", str(out)]) == 2
    assert "column 'osl' is missing" in capsys.readouterr().err
    assert main(["serve-predict", str(tmp_path / "none.csv"), "--out", str(out)]) == 2
    assert main(["serve-predict", str(source), "--out", str(tmp_path / "out.txt")]) == 2
    assert "expected a file ending in" in capsys.readouterr().err


def test_a_model_file_and_a_datasheet_of_ones_own(tmp_path):
    config = {
        "model_type": "llama",
        "torch_dtype": "bfloat16",
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": 16,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 64,
        "vocab_size": 128256,
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    preset = Path(__file__).parents[3] / "hwmodels" / "devices" / "h100_sxm.yaml"
    own = tmp_path / "own.yaml"
    own.write_text(preset.read_text().replace("h100_sxm", "own").replace("3350 GB/s", "1675 GB/s"))
    names = ("h100_sxm", "own")
    asked = rows(*({"model_path": str(tmp_path / "config.json"), "system": name, "tp_size": 1} for name in names))
    answered = predict(asked, {"own": str(own)})
    assert (answered["reason"] == "").all()
    full, half = answered["predicted_tpot_ms"]
    assert half > 1.2 * full


@pytest.mark.parametrize(
    ("name", "layers"),
    [("deepseek-ai/DeepSeek-R1-0528", 61), ("meta-llama/Llama-3.1-8B-Instruct", 32), ("openai/gpt-oss-120b", 36)],
)
def test_models_are_found_by_their_names_on_the_hub(name, layers):
    assert find_model(name).layers == layers


@pytest.mark.parametrize("name", ["deepseek-ai/DeepSeek-V3.1", "Qwen/Qwen3-8B", "zai-org/GLM-4.6", ""])
def test_models_of_like_names_are_not_taken_for_others(name):
    with pytest.raises(ConfigError, match="there is no model"):
        find_model(name)


def test_random_rows_are_answered_with_numbers_that_grow_with_load():
    rng = np.random.default_rng(0)
    layouts = [(1, 1, 1), (2, 1, 2), (8, 1, 1), (1, 4, 1), (4, 2, 8)]
    picks = [
        {
            "backend": ("vllm", "sglang", "trtllm")[i % 3],
            "model_path": model,
            "system": str(rng.choice(datasheet_names())),
            "precision": str(rng.choice(["", "bfloat16", "fp8", "nvfp4", "int4_wo"])),
            **dict(zip(("tp_size", "attention_dp_size", "moe_tp_size"), layouts[i % 5], strict=True)),
            "isl": int(rng.choice([128, 1024, 8192])),
            "osl": int(rng.choice([128, 1024])),
            "batch_size": int(rng.choice([1, 16, 128])),
        }
        for i, model in enumerate(sorted(choices()["model"]))
    ]
    asked = rows(*({**pick, "moe_ep_size": None} for pick in picks))
    answered = predict(asked)
    dealt = answered["reason"].str.contains("moe_ep must divide")
    assert (answered["reason"] == "").where(~dealt, True).all()
    assert dealt.sum() < 5
    columns = ["predicted_ttft_ms", "predicted_tpot_ms"]
    times = answered.loc[~dealt, columns].to_numpy()
    assert np.isfinite(times).all()
    assert (times > 0).all()
    more = predict(asked[~dealt].assign(batch_size=2 * asked["batch_size"]))[columns].to_numpy()
    assert (more >= times * (1 - 1e-9)).all()
    longer = predict(asked[~dealt].assign(isl=2 * asked["isl"]))[columns].to_numpy()
    assert (longer[:, 0] >= times[:, 0]).all()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"isl": 1e12}, "isl' must be a number from 1 to 10,000,000"),
        ({"tp_size": 2.5}, "tp_size' must be a whole number"),
        ({"batch_size": 0}, "batch_size' must be a number"),
        ({"moe_ep_size": 7, "tp_size": 7}, "moe_ep must divide"),
        ({"precision": "fp3"}, "precision 'fp3' is not one of"),
    ],
)
def test_odd_numbers_are_reasons(change, words):
    answered = predict(rows(change))
    assert words in answered["reason"][0]
    assert answered["remark"][0] == ""


def test_weights_that_do_not_fit_are_a_remark_not_a_refusal():
    asked = rows(
        *({"model_path": "deepseek_v3", "system": "h100_sxm", "tp_size": tp, "moe_tp_size": tp} for tp in (1, 16))
    )
    answered = predict(asked)
    assert (answered["predicted_tpot_ms"] > 0).all()
    assert "weights need 673 GB of each GPU, which has 80 GB" in answered["remark"][0]
    assert answered["remark"][1] == ""


def test_square_layouts_are_one_set_of_gpus_where_attention_groups_are_given():
    def read(tp, groups, moe_tp, moe_ep):
        names = ("tp_size", "attention_dp_size", "moe_tp_size", "moe_ep_size")
        return layout_of(dict(zip(names, (tp, groups, moe_tp, moe_ep), strict=True)), "")

    assert read(64, 1, 8, 8) == Layout(8, 1, 1, 8)
    assert read(1, 64, 8, 8) == read(8, 8, 1, 64) == Layout(1, 8, 1, 8)
    assert read(8, 1, 8, 1) == Layout(8, 1, 8, 1)
    assert read(4, float("nan"), 2, 2) == Layout(4, 1, 2, 2)
    assert read(8, None, 1, 1) == Layout(8, 1, 8, 1)


def test_the_split_depends_on_the_configuration_alone():
    one = read_row({**ROW, "isl": 128, "batch_size": 1, "backend_version": "0.1"})
    other = read_row({**ROW, "isl": 8192, "batch_size": 64})
    assert configuration(one) == configuration(other) == "Qwen3-30B-A3B-Instruct-2507|h200_sxm|vllm|nan|nan|2|1|2|1"
    assert is_training(one) == is_training(other)
    twins = [configuration(read_row({**ROW, "model_path": f"deepseek-ai/DeepSeek-{name}"})) for name in ("R1", "V3")]
    assert twins[0] == twins[1]
    systems = [f"gpu_{i}" for i in range(300)]
    share = np.mean([is_training(read_row({**ROW, "system": name})) for name in systems])
    assert 0.25 < share < 0.42


def test_a_fit_finds_the_constants_that_made_the_rows():
    true = engines()["vllm"]
    asked = [
        read_row({**ROW, "isl": isl, "batch_size": c, "tp_size": tp, "backend_version": version})
        for isl in (256, 4096)
        for c in (1, 4, 16, 64, 256)
        for tp in (1, 2)
        for version in ("", "new")
    ]
    times = [np.multiply(steady(row, true, {}), (1.0, 1.3) if row.version else (1.0, 1.0)) for row in asked]
    found = fit_engine([Measured(row, *seconds) for row, seconds in zip(asked, times, strict=True)])
    again = [np.array(steady(row, found, {})) for row in asked]
    factors = [(found.factor(row.version, "ttft"), found.factor(row.version, "tpot")) for row in asked]
    error = np.abs(np.array(again) * factors / np.array(times) - 1)
    assert np.median(error[:, 1]) < 0.03
    assert np.median(error[:, 0]) < 0.1
    assert found.factor("new", "tpot") > 1.1
    assert found.factor("unseen", "tpot") == 1.0


def test_a_release_that_guesses_ahead_is_recognised():
    true = engines()["trtllm"]
    guessing = Engine(true.values, {"mtp": {"accepted": 2.5}})
    asked = [
        read_row(
            {**ROW, "backend": "trtllm", "model_path": name, "isl": 1024, "batch_size": c, "tp_size": 8, **release}
        )
        for c in (1, 8, 64, 256)
        for name, release in (
            ("deepseek-ai/DeepSeek-R1", {"backend_version": "mtp"}),
            ("deepseek-ai/DeepSeek-R1", {"backend_version": "plain"}),
            ("Qwen/Qwen3-30B-A3B", {"backend_version": "mtp"}),
        )
    ]
    times = [steady(row, guessing, {}) for row in asked]
    assert times[0][1] < 0.6 * times[1][1]
    assert times[2][1] == steady(asked[2], true, {})[1]  # this model has no layer to guess with
    found = fit_engine([Measured(row, *seconds) for row, seconds in zip(asked, times, strict=True)])
    assert 2.0 <= found.versions["mtp"]["accepted"] <= 3.0  # the release's factor may take the rest
    assert found.versions["plain"]["accepted"] == 1.0


def test_leaving_a_model_out_fits_without_its_rows(monkeypatch):
    from experiments.serving import left_out as module

    kinds = [("one/a", "h100_sxm"), ("one/b", "h100_sxm"), ("one/b", "b200_sxm")]
    frame = pd.DataFrame(
        [
            {**ROW, "model_path": model, "system": system, "training": side, "silicon_ttft_ms": 1.0}
            for model, system in kinds
            for side in (True, False)
        ]
    )
    fits = []

    def fit_one(rows):
        fits.append(sorted(set(zip(rows["model_path"], rows["system"], strict=True))))
        assert rows["training"].all()
        return len(fits)

    monkeypatch.setattr(module, "fit_one", fit_one)
    monkeypatch.setattr(module, "beside", lambda rows, constants: rows.assign(used=constants["vllm"]))
    out = module.left_out(frame, {"vllm": 0})
    assert fits == [kinds[1:][::-1], [kinds[0]], [kinds[0], kinds[1]], [kinds[2]]]
    table = out.groupby(["kind", "left_out"])["used"].agg(["size", "min", "max"])
    assert table.loc[("model", "a")].tolist() == [2, 1, 1]
    assert table.loc[("model", "b")].tolist() == [4, 2, 2]
    assert table.loc[("GPU", "b200_sxm")].tolist() == [2, 3, 3]
    assert table.loc[("GPU", "h100_sxm")].tolist() == [4, 4, 4]


def test_shipped_constants_are_those_of_every_engine_and_say_their_errors():
    assert sorted(engines()) == ["sglang", "trtllm", "vllm"]
    for name, engine in engines().items():
        framework = engine.framework(read_row({**ROW, "backend": name}))
        assert 0.5 < framework.decode < 1.6
        assert framework.budget >= 1024


@pytest.mark.skipif("MOESIM_EXTRA_DATA" not in os.environ, reason="MOESIM_EXTRA_DATA is not set")
def test_measured_rows_are_all_answered_and_near():
    from experiments.serving.measured import beside, read_measured

    frame = read_measured(Path(os.environ["MOESIM_EXTRA_DATA"]) / "measured" / "serving.csv")
    held = beside(frame[~frame["training"]], engines())
    assert (held["reason"] == "").all()
    moe = held["configuration"].str.contains("DeepSeek|MiniMax|235B|gpt-oss") & (held["mode"] == "agg")
    assert held[moe]["tpot_error"].abs().mean() < 0.15
    assert held[moe]["tpot_error"].abs().median() < 0.10
    assert held[moe]["ttft_error"].abs().median() < 0.25
