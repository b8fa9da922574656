from pathlib import Path

import pytest
from omegaconf import OmegaConf

from simulator.model import ModelError, ModelSpec

CONF = Path(__file__).parents[3] / "experiments/conf/model"
GIB = 2**30


def load(name, **changes):
    config = OmegaConf.merge(OmegaConf.load(CONF / f"{name}.yaml"), changes)
    return ModelSpec.from_mapping(config, where=f"{name}.yaml")


@pytest.mark.parametrize(
    ("name", "total"),
    [
        ("qwen3_30b_a3b", 30_532_122_624),  # counted independently from the published configurations
        ("mixtral_8x7b", 46_702_792_704),
        ("olmoe_1b_7b", 6_919_161_856),
        ("deepseek_v2_lite", 15_706_484_224),
        ("deepseek_v3", 671_026_419_200),
    ],
)
def test_these_totals_are_exact(name, total):
    assert load(name).total_params == total


@pytest.mark.parametrize(
    ("name", "mlp", "attention", "tables", "checkpoint_gib"),
    [("gpt_oss_20b", 19.12, 0.64, 1.16, 12.8), ("gpt_oss_120b", 114.71, 0.96, 1.16, 60.8)],
)
def test_gpt_oss_meets_every_row_of_its_model_card(name, mlp, attention, tables, checkpoint_gib):
    # arXiv 2508.10925, table 1; the card counts routers with the MLP
    parts = load(name).parts()
    billions = {part: params / 1e9 for part, (params, _) in parts.items()}
    assert billions["routed_experts"] + billions["router"] == pytest.approx(mlp, abs=0.006)
    assert billions["attention"] == pytest.approx(attention, abs=0.006)
    assert billions["embedding"] + billions["lm_head"] == pytest.approx(tables, abs=0.006)
    assert sum(size for _, size in parts.values()) / GIB == pytest.approx(checkpoint_gib, abs=0.05)


def test_an_mxfp4_expert_stores_scales_and_biases():
    # weights 3 · 2880 · 2880 · 4.25 / 8 = 13,219,200; biases (2 · 2880 + 2880) · 2 bytes = 17,280
    assert load("gpt_oss_20b").expert_bytes == 13_219_200 + 17_280


def test_expert_bytes_can_be_set_to_those_of_a_recorded_run():
    model = load("qwen3_30b_a3b").with_experts_bits(3_059_712 * 8 / 4_718_592)
    assert model.expert_bytes == 3_059_712
    assert model.dense_bytes == load("qwen3_30b_a3b").dense_bytes
    with pytest.raises(ModelError, match="experts_bits must be above 0"):
        model.with_experts_bits(0)


def test_dense_bytes_are_all_bytes_but_the_routed_experts():
    model = load("mixtral_8x7b")
    everything = sum(size for _, size in model.parts().values())
    assert model.dense_bytes == everything - 32 * 8 * model.expert_bytes
    assert everything == 2 * model.total_params  # bf16 throughout


def test_tied_embeddings_are_stored_once_and_used_as_head():
    model = load("gemma_4_26b_a4b")
    assert model.parts()["lm_head"] == (0, 0)
    assert model.active_params() == model.active_params(include_embedding=True)


def test_a_reduced_top_k_keeps_the_native_one():
    model = load("qwen3_30b_a3b", top_k=6)
    assert (model.top_k, model.native_top_k) == (6, 8)
    native = load("qwen3_30b_a3b")
    assert native.active_params() - model.active_params() == 48 * 2 * model.expert_params


@pytest.mark.parametrize(
    ("name", "layers"),
    [
        ("gpt_oss_20b", tuple(range(24))),
        ("deepseek_v2_lite", tuple(range(1, 27))),
        ("deepseek_v3", tuple(range(3, 61))),
        ("switch_base_8", tuple(range(1, 24, 2))),
    ],
)
def test_moe_layers_are_the_ones_of_the_architecture(name, layers):
    assert load(name).moe_layers == layers


def test_a_windowed_layer_keeps_only_its_window_in_the_cache():
    # a token takes 2 · 8 heads · 64 · 2 bytes = 2048 per layer; 12 layers keep all, 12 keep 128
    model = load("gpt_oss_20b")
    assert model.kv_bytes(1000) == 12 * 1000 * 2048 + 12 * 128 * 2048
    assert model.kv_bytes(100) == 24 * 100 * 2048
    assert model.kv_bytes(0) == 0


def test_latent_attention_caches_one_vector_per_token():
    assert load("deepseek_v2_lite").kv_bytes(10) == 10 * 27 * (512 + 64) * 2


def test_layers_of_two_shapes_cache_their_own():
    # gemma: 25 layers of 8 heads · 256 in a window of 1024, 5 layers of 2 heads · 512, keys and values
    assert load("gemma_4_26b_a4b").kv_bytes(2000) == 25 * 1024 * 2 * 8 * 256 * 2 + 5 * 2000 * 2 * 2 * 512 * 2


def test_an_encoder_keeps_no_cache_and_a_decoder_keeps_two():
    assert load("switch_base_8").kv_bytes(10) == 12 * 2 * (10 * 2 * 768 * 2)
