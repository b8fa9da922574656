"""A config.json becomes the model that it describes."""

import json
import os
import random
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.cli import main
from simulator.model import ModelError, ModelSpec
from simulator.model_import import FAMILIES, import_config

HERE = Path(__file__).parent
CONF = HERE.parents[2] / "experiments/conf/model"
PUBLISHED = json.loads((HERE / "published_configs.json").read_text())
# Small models of every family as Transformers 5.23.0 builds and saves them, with their number of parameters there.
TINY = json.loads((HERE / "tiny_configs.json").read_text())
# What we leave out, as the remarks say, for the widths of those files (64 values, 8 experts).
LEFT_OUT = {
    "gemma4_text": 6 * (64 + 8),  # scales of the routers
    "jetmoe": 3 * (64 * 8 + 64 + 64),  # routers of the attention, biases of its experts and of the others
    "nllb-moe": 4 * (96 + 64) + 64 * (2 * 8 + 4 + 2),  # biases of 4 dense blocks, of the norms
    "phimoe": 1000 + 13 * 64,  # biases of the head, of the norms
    "qwen2_moe": 3 * 64,  # gates of the shared experts
    "qwen3_5_moe_text": 6 * 64,
    "qwen3_next": 6 * 64,
    "switch_transformers": 2 * 32 * 4,  # relative positions of encoder and decoder, 32 buckets, 4 heads
}
# Biases that Transformers keeps as buffers and thus does not count: 8 in each MoE layer.
BUFFERS = ("deepseek_v3", "deepseek_v32", "dots1", "glm4_moe", "glm4_moe_lite", "glm_moe_dsa", "lfm2_moe")
BUFFERS += ("mimo_v2_flash", "minimax_m2")


def preset(name):
    return ModelSpec.from_mapping(OmegaConf.load(CONF / f"{name}.yaml"), name)


def imported(folder, fields, name="m"):
    path = folder / f"{name}.json"
    path.write_text(json.dumps(fields))
    return import_config(path)


def assert_same(found, wanted):
    """All that a run depends on, whatever the kinds of attention are called."""
    assert found.total_params == wanted.total_params
    assert found.active_params() == wanted.active_params()
    assert (found.dense_bytes, found.expert_bytes) == (wanted.dense_bytes, wanted.expert_bytes)
    assert (found.layers, found.moe_layers, found.top_k) == (wanted.layers, wanted.moe_layers, wanted.top_k)
    assert (found.dtype, found.linear_dtype) == (wanted.dtype, wanted.linear_dtype)
    assert [found.attention_of(i) for i in range(found.layers)] == [wanted.attention_of(i) for i in range(found.layers)]


@pytest.mark.parametrize("name", TINY)
def test_a_model_has_the_parameters_that_transformers_gives_it(name, tmp_path):
    found = imported(tmp_path, TINY[name]["config"]).spec
    extra = 8 * len(found.moe_layers) if name in BUFFERS else 0
    assert found.total_params == TINY[name]["parameters"] + extra - LEFT_OUT.get(name, 0)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_config_gives_the_shipped_model(name, tmp_path):
    assert_same(imported(tmp_path, PUBLISHED[name]).spec, preset(name))


def test_every_collected_config_gives_the_shipped_model():
    folder = os.environ.get("MOESIM_EXTRA_DATA")
    if not folder:
        pytest.skip("MOESIM_EXTRA_DATA is not set")
    names = {
        "MiniMaxAI__MiniMax-M2.5": "minimax_m2_5",
        "Qwen__Qwen3-235B-A22B-FP8": "qwen3_235b_a22b_fp8",
        "Qwen__Qwen3-30B-A3B": "qwen3_30b_a3b",
        "Qwen__Qwen3-32B": "qwen3_32b",
        "Qwen__Qwen3.5-35B-A3B": "qwen3_5_35b_a3b",
        "XiaomiMiMo__MiMo-V2-Flash": "mimo_v2_flash",
        "deepseek-ai__DeepSeek-R1": "deepseek_r1",
        "deepseek-ai__DeepSeek-V3": "deepseek_v3",
        "deepseek-ai__DeepSeek-V3.2": "deepseek_v3_2",
        "google__gemma-4-26B-A4B": "gemma_4_26b_a4b",
        "meta-llama__Llama-4-Maverick-17B-128E-Instruct": "llama_4_maverick",
        "meta-llama__Llama-4-Scout-17B-16E-Instruct": "llama_4_scout",
        "meta-llama__Meta-Llama-3.1-70B": "llama_3_1_70b",
        "meta-llama__Meta-Llama-3.1-8B": "llama_3_1_8b",
        "mistralai__Mixtral-8x22B-v0.1": "mixtral_8x22b",
        "mistralai__Mixtral-8x7B-v0.1": "mixtral_8x7b",
        "moonshotai__Kimi-K2-Instruct": "kimi_k2",
        "openai__gpt-oss-120b": "gpt_oss_120b",
        "openai__gpt-oss-20b": "gpt_oss_20b",
    }
    files = sorted((Path(folder) / "models/configs").glob("*.json"))
    assert {path.stem for path in files} == set(names)
    for path in files:
        assert_same(import_config(path).spec, preset(names[path.stem]))


# ---- quantization

SMALL = {**TINY["qwen3_moe"]["config"], "torch_dtype": "bfloat16"}
EXPERTS = ["experts_bits", "attention_bits", "dense_bits"]


@pytest.mark.parametrize(
    ("settings", "bits", "linear"),
    [
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 8 + 32 / 16384, "fp8"),
        ({"quant_method": "fp8"}, 8, "fp8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, 4 + 20 / 128, ""),  # an fp16 scale, a 4-bit zero
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, 4 + 20 / 64, ""),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, 8, ""),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, 4.5, ""),
        ({"quant_method": "bitsandbytes", "load_in_8bit": True}, 8, "int8"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, 4.5, ""),
        (
            {
                "quant_method": "compressed-tensors",
                "config_groups": {"group_0": {"weights": {"num_bits": 4, "group_size": 32}}},
            },
            4.5,
            "",
        ),
    ],
)
def test_quantization_gives_bits_with_scales(settings, bits, linear, tmp_path):
    found = imported(tmp_path, {**SMALL, "quantization_config": settings}).fields
    assert [found[key] for key in EXPERTS] == [bits] * 3
    assert found.get("linear_dtype", "") == linear
    assert "head_bits" not in found


@pytest.mark.parametrize(
    "ignored",
    [
        ["lm_head", "model.layers.*.self_attn"],
        ["re:.*self_attn.*"],
        ["self_attn", "mlp.gate"],
        ["model.layers.5.self_attn"],
    ],
)
def test_what_is_not_converted_keeps_its_bits(ignored, tmp_path):
    settings = {"quant_method": "fp8", "modules_to_not_convert": ignored}
    found = imported(tmp_path, {**SMALL, "quantization_config": settings}).fields
    assert "attention_bits" not in found
    assert found["experts_bits"] == found["dense_bits"] == 8


def test_a_file_in_half_or_single_precision_is_taken_at_its_word(tmp_path):
    half = imported(tmp_path, {**SMALL, "torch_dtype": "float16"}).spec
    single = imported(tmp_path, {**SMALL, "torch_dtype": None, "dtype": "float32"}).spec
    assert (half.dtype, single.dtype) == ("fp16", "fp32")
    assert single.expert_bytes == 2 * half.expert_bytes


# ---- what cannot be imported


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "gpt9"}, "field 'model_type' is 'gpt9', a family that is not known; known are arctic, dbrx"),
        ({"model_type": None}, "field 'model_type' is missing; known are arctic"),
        ({"hidden_size": None}, "field 'hidden_size' (or 'd_model', 'n_embd') is missing."),
        ({"num_local_experts": None}, "field 'num_experts' (or 'num_local_experts', 'n_routed_experts') is missing."),
        ({"num_experts": "8"}, "field 'num_experts' must be a whole number, got '8'."),
        ({"num_hidden_layers": 10**9}, "field 'num_hidden_layers' must be at most 10000, got 1000000000."),
        ({"num_attention_heads": 0}, "field 'num_attention_heads' must be at least 1, got 0."),
        ({"mlp_only_layers": [0, 3]}, "layers 1, 2, 4, 5 of 6 have experts; expected every so many-th layer"),
        ({"moe_intermediate_size": [24, 25]}, "field 'moe_intermediate_size' differs between layers"),
        ({"tie_word_embeddings": "no"}, "field 'tie_word_embeddings' must be true or false, got 'no'."),
        ({"per_layer_config": {"1": {}}}, "field 'per_layer_config' is not read for this family"),
        ({"quantization_config": {"quant_method": "x"}}, "field 'quant_method' must be one of auto-round, awq"),
        ({"num_experts_per_tok": 9}, "field 'num_experts_per_tok' must be at most the 8 experts, got 9"),
        ({"num_experts_per_tok": 0}, "field 'num_experts_per_tok' must be at least 1, got 0"),
        ({"hidden_size": 0}, "field 'hidden_size' must be at least 1, got 0"),
        ({"vocab_size": 2**70}, "field 'vocab_size' must be below 2^62, got 1180591620717411303424."),
        ({"moe_intermediate_size": 0}, "field 'moe_intermediate_size' must be at least 1, got 0"),
        ({"num_key_value_heads": 3}, "field 'num_key_value_heads' must divide the "),
        ({"mlp_only_layers": ["a"]}, "field 'mlp_only_layers' must name layers from 0 to 5, got ['a']."),
    ],
)
def test_a_config_that_cannot_be_imported_is_refused_in_one_sentence(changes, sentence, tmp_path, capsys):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**SMALL, **changes}))
    assert main(["model", "import", str(path)]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(str(path))
    assert sentence in said.err
    assert said.err.count("\n") == 1


@pytest.mark.parametrize("text", ["", "[1", "[]", "3", '"x"', "\x00", "[" * 100_000, "9" * 5000])
def test_what_is_not_a_config_is_refused_in_one_sentence(text, tmp_path):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ModelError, match=r"config\.json: expected"):
        import_config(tmp_path)


ODD = [None, True, -1, 0, 1, 3, 10**30, 0.5, float("nan"), "", "x", [], [1], ["x"], [[]], {}, {"x": 1}, [None] * 6]


@pytest.mark.parametrize("name", [*TINY, "dbrx"])
def test_a_spoilt_config_is_imported_or_refused_in_one_sentence(name, tmp_path):
    fields = PUBLISHED[name] if name == "dbrx" else TINY[name]["config"]
    rng = random.Random(name)
    for key in fields:
        for value in rng.sample(ODD, 3):
            try:
                found = imported(tmp_path, {**fields, key: value})
            except ModelError as error:
                text = str(error)
                assert text.endswith(".")
                assert "\n" not in text
                assert "m.json" in text
            else:
                assert found.spec.total_params >= found.spec.active_params() > 0


# ---- the command


def test_the_command_writes_a_file_that_a_run_can_read(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/config.json").write_text(json.dumps(PUBLISHED["gpt_oss_20b"]))
    assert main(["model", "import", "hf", "--out", "my.yaml", "--name", "mine"]) == 0
    said = capsys.readouterr()
    assert said.out.startswith("my.yaml: mine, 24 MoE layers of 32 experts, top-4; 20.9 B parameters, 3.6 B active")
    assert said.err == "note: the file names no dtype: bf16 is assumed\n"
    assert_same(ModelSpec.from_mapping(OmegaConf.load("my.yaml"), "my.yaml"), preset("gpt_oss_20b"))
    assert main(["run", "model=my.yaml", "workload.requests=1", "workload.max_decode_tokens=2", "-q"]) == 0


def test_a_dtype_that_is_not_known_is_named(tmp_path):
    found = imported(tmp_path, {**SMALL, "torch_dtype": "float8_e4m3fn"})
    assert "the file has the dtype float8_e4m3fn, which is not known here: bf16 is assumed" in found.remarks


def test_the_command_advises_only_what_works(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    dense = {**SMALL, "num_local_experts": 0, "num_experts": 0, "intermediate_size": 64}
    (tmp_path / "config.json").write_text(json.dumps(dense))
    assert main(["model", "import", "config.json", "--out", "dense.yaml"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        "a dense model has no trace, and so no run; look at it with: moesim show dense.yaml"
    )
    assert main(["show", "dense.yaml"]) == 0
    assert main(["model", "import", "config.json", "--out", "dense"]) == 2  # model=dense would be no path
    assert capsys.readouterr().err == "--out dense: expected a name ending in .yaml.\n"


def test_the_command_prints_what_it_would_write(tmp_path, capsys):
    path = tmp_path / "some__Model-7B.json"
    path.write_text(json.dumps(PUBLISHED["llama_3_1_8b"]))
    assert main(["model", "import", str(path)]) == 0
    said = capsys.readouterr()
    assert OmegaConf.create(said.out).name == "Model-7B"
    assert_same(ModelSpec.from_mapping(OmegaConf.create(said.out)), preset("llama_3_1_8b"))


def test_every_family_is_tested():
    tested = {fields["model_type"] for fields in PUBLISHED.values()}
    tested |= {entry["config"]["model_type"] for entry in TINY.values()}
    aliases = {"kimi_k2", "minimax_text_01", "gemma3", "gemma4", "qwen3_5", "qwen3_5_moe"}  # of a family tested
    by_another = {"glm4v_moe", "qwen3_vl", "qwen3_vl_moe"}  # language models within others
    assert set(FAMILIES) - tested - aliases - by_another == set()
