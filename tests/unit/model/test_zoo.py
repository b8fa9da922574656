"""The shipped models have the parameters that were published for them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from experiments.cli import main
from simulator.model import ModelSpec

CONF = Path(__file__).parents[3] / "experiments/conf/model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
# Where a published figure is not met: what the description gives instead, and why.
TOTALS = {
    # M3ViT, by hand: attention with biases, blocks, experts with biases, routers, embedding of patches, norms
    "m3vit_tiny": 12 * (4 * 192**2 + 4 * 192)
    + 6 * 2 * 192 * 768
    + 96 * (2 * 192 * 384 + 576)
    + 96 * 192
    + 768 * 192
    + 25 * 192,
    "m3vit_small": 12 * (4 * 384**2 + 4 * 384)
    + 6 * 2 * 384 * 1536
    + 96 * (2 * 384**2 + 768)
    + 96 * 384
    + 768 * 384
    + 25 * 384,
    "glam_64b_64e": 1.1618e12,  # published in two digits, 1.2 T
    "llama_4_scout": 107.77e9,  # 109 B with the vision tower
    "mt_moe_54b_decoder": 27.70e9,  # with the encoder 54.5 B, the embedding counted once
    "mt_moe_54b_encoder": 27.33e9,
    "openmoe_34b": 35.40e9,  # 34 B is a name
    "openmoe_8b": 9.305e9,  # 8.7 B; the config gives more
}
ACTIVE = {
    "glam_8b_64e": 10.72e9,  # 9.8 B
    "glm_4_5": 32.86e9,  # 32 B
    "glm_4_5_air": 12.80e9,  # 12 B
    "jetmoe_8b": 2.331e9,  # 2.2 B
    "minimax_m2": 10.42e9,  # 10 B
    "minimax_m2_5": 10.42e9,
    "openmoe_8b": 2.740e9,  # 2.1 B
    "qwen3_next_80b_a3b": 3.564e9,  # 3 B, by name
}
COLLECTED = {  # name here -> name in the collected table, where they differ
    "DeepSeek-V3": "DeepSeek-V3/R1",
    "GLaM-8B/64E": 'GLaM-8B/64E (the "143B" used by Duplex)',
    "LLaMA-MoE-3.5B (2 of 8)": "LLaMA-MoE-3.5B-2of8",
    "LLaMA-MoE-3.5B (4 of 16)": "LLaMA-MoE-3.5B-4of16",
    "LLaMA-MoE-3.0B (2 of 16)": "LLaMA-MoE-3.0B-2of16",
}


def load(name):
    return ModelSpec.from_mapping(OmegaConf.load(CONF / f"{name}.yaml"), where=f"{name}.yaml")


MODELS = {name: load(name) for name in NAMES}


@pytest.mark.parametrize("name", [name for name in NAMES if name != "readme_17b"])  # whose width was made of its total
def test_total_parameters_meet_the_published_total_within_1_percent(name):
    model = MODELS[name]
    assert (model.published_total_params == pytest.approx(model.total_params, rel=0.01)) == (name not in TOTALS)
    assert model.total_params == pytest.approx(TOTALS.get(name, model.published_total_params), rel=0.01)


@pytest.mark.parametrize("name", [name for name in NAMES if MODELS[name].published_active_params])
def test_active_parameters_meet_the_published_ones_within_their_rounding(name):
    # Published with two or three digits: "2.4 B" for 2.45, "3.3 B" for 3.35, "37 B" for 36.6.
    model = MODELS[name]
    active = model.active_params(include_embedding=model.published_active_includes_embedding)
    assert (model.published_active_params == pytest.approx(active, rel=0.022)) == (name not in ACTIVE)
    assert active == pytest.approx(ACTIVE.get(name, model.published_active_params), rel=0.022)


def test_every_collected_architecture_is_shipped_with_its_total():
    folder = os.environ.get("MOESIM_EXTRA_DATA")
    if not folder:
        pytest.skip("MOESIM_EXTRA_DATA is not set")
    table = OmegaConf.to_container(OmegaConf.load(Path(folder) / "models/models.yaml"))
    rows = {row["name"]: row for row in table["models"]}
    shipped = {COLLECTED.get(model.name, model.name): model for model in MODELS.values()}
    assert set(rows) <= set(shipped)
    for name, row in rows.items():
        assert shipped[name].total_params == pytest.approx(row["computed_total_params"], rel=2e-4), name
        assert shipped[name].expert_params == pytest.approx(row["expert_params"], rel=4e-4), name  # ours with biases
        assert len(shipped[name].moe_layers) == row["config"]["n_moe_layers"], name


SHAPES = {  # name in the collected table of shapes -> name here
    "DeepSeek-MoE-16B": "deepseek_moe_16b",
    "DeepSeek-V2-Lite": "deepseek_v2_lite",
    "DeepSeek-V2.5": "deepseek_v2",
    "DeepSeek-V3": "deepseek_v3",
    "Mixtral-8x7B": "mixtral_8x7b",
    "Phi-3.5-MoE": "phi_3_5_moe",
    "Qwen1.5-MoE-A2.7B": "qwen1_5_moe_a2_7b",
    "Qwen2-57B-A14B": "qwen2_57b_a14b",
    "Qwen3-235B-A22B": "qwen3_235b_a22b",
    "Qwen3-30B-A3B": "qwen3_30b_a3b",
    "Qwen3.6-35B-A3B": "qwen3_5_35b_a3b",
    "gpt-oss-120b": "gpt_oss_120b",
}


def test_shapes_are_those_that_were_collected():
    folder = os.environ.get("MOESIM_EXTRA_DATA")
    if not folder:
        pytest.skip("MOESIM_EXTRA_DATA is not set")
    table = OmegaConf.to_container(OmegaConf.load(Path(folder) / "catalogue/offloading.yaml"))
    rows = {row[0]: row[1:] for row in table["shared_reference"]["model_shapes"]["rows"]}
    for name, ours in SHAPES.items():
        model, (layers, moe_layers, experts, top_k, expert_millions, dense_billions) = MODELS[ours], rows[name]
        assert (model.layers, len(model.moe_layers), model.experts, model.top_k) == (layers, moe_layers, experts, top_k)
        assert model.expert_params / 1e6 == pytest.approx(expert_millions, abs=0.01), name
        parts = model.parts()
        dense = sum(parts[part][0] for part in ("attention", "router", "shared_experts", "dense_ffn"))
        if dense_billions:
            assert dense / 1e9 == pytest.approx(dense_billions, abs=0.002), name


def stored(model):
    return model.dense_bytes + model.parts()["routed_experts"][1]


# In fp32: bytes of an expert, MoE layers of the decoder, bytes of all (arXiv 2310.18859; large-128: arXiv 2308.12066)
SWITCH = {
    "switch_base_8": (18_874_368, 6, 2.298 * 2**30),
    "switch_base_64": (18_874_368, 6, 14.112 * 2**30),
    "switch_base_128": (18_874_368, 6, 27.614 * 2**30),
    "switch_base_256": (18_874_368, 6, 54.62 * 2**30),
    "switch_large_128": (33_554_432, 12, 105.6e9),
}


@pytest.mark.parametrize("name", SWITCH)
def test_switch_transformers_in_fp32_have_the_published_sizes(name):
    expert_bytes, decoder_layers, size = SWITCH[name]
    model = replace(MODELS[name], default_bits=32.0)
    assert model.expert_bytes == expert_bytes
    assert sum(layer >= model.encoder_layers for layer in model.moe_layers) == decoder_layers
    assert stored(model) == pytest.approx(size, rel=0.005)


@pytest.mark.parametrize(("bits", "size_gib"), [(2, 17.54), (3, 21.37), (4, 23.99)])
def test_mixtral_in_hqq_has_the_published_sizes_and_only_its_storage_differs(bits, size_gib):
    plain, model = MODELS["mixtral_8x7b"], MODELS[f"mixtral_8x7b_hqq_{bits}bit"]
    assert stored(model) / 2**30 == pytest.approx(size_gib, rel=0.01)
    assert stored(plain) / 2**30 == pytest.approx(86.99, rel=0.001)
    stored_alike = {"experts_bits": None, "attention_bits": None, "name": plain.name, "source": plain.source}
    assert replace(model, **stored_alike) == plain


@pytest.mark.parametrize("name", NAMES)
def test_every_model_has_a_name_of_its_own_and_a_source(name):
    assert len(MODELS[name].source) > 20
    assert [model.name for model in MODELS.values()].count(MODELS[name].name) == 1


def test_a_cache_holds_what_the_architecture_keeps():
    # Jamba: 4 of 32 layers keep keys and values of 8 heads · 128; 28 keep 8192 · 16 in fp32 and 3 inputs of 8192
    assert MODELS["jamba_v0_1"].kv_bytes(1000) == 4 * 1000 * 2 * 8 * 128 * 2 + 28 * (8192 * 16 * 4 + 3 * 8192 * 2)
    # Qwen3-Next: 12 of 48 layers 2 heads · 256; 36 keep 32 · 128 · 128 in fp32 and 3 inputs of 8192
    delta = 36 * (32 * 128 * 128 * 4 + 3 * 8192 * 2)
    assert MODELS["qwen3_next_80b_a3b"].kv_bytes(1000) == 12 * 1000 * 2 * 2 * 256 * 2 + delta
    # DeepSeek-V3.2: one key of 128 for the indexer beside DeepSeek-V3's 576
    assert MODELS["deepseek_v3_2"].kv_bytes(10) == MODELS["deepseek_v3"].kv_bytes(10) * (576 + 128) // 576
    # Hunyuan-Large: every second layer uses the cache of the one before
    assert MODELS["hunyuan_large"].kv_bytes(10) == 32 * 10 * 2 * 8 * 80 * 2
    # MiMo-V2-Flash: 9 full layers of 4 heads, 39 windows of 128 with 8, keys of 192 and values of 128
    assert MODELS["mimo_v2_flash"].kv_bytes(1000) == (9 * 1000 * 4 + 39 * 128 * 8) * (192 + 128) * 2


def test_the_list_has_a_line_for_each_model_in_columns(capsys):
    assert main(["list", "models"]) == 0
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["total", "active", "stored"]
    assert [line.split()[0] for line in lines] == NAMES
    assert max(map(len, lines)) <= 100
    by_name = {line.split()[0]: " ".join(line.split()[1:]) for line in lines}
    assert by_name["gpt_oss_20b"] == "20.9 B 3.6 B 12.8 GiB 24 of 24 32 4 12.6 MiB"
    assert by_name["llama_3_1_8b"] == "8.0 B 7.5 B 15.0 GiB dense"


def test_a_dense_model_is_shown_and_no_trace_of_experts_fits_it(capsys):
    assert main(["show", "llama_3_1_8b"]) == 0
    assert "dense; 8.0 B parameters" in capsys.readouterr().out
    assert main(["run", "model=llama_3_1_8b"]) == 2
    assert "it has 32 experts per layer, the model 0." in capsys.readouterr().err
