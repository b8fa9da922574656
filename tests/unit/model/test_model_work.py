from pathlib import Path

import numpy as np
import pytest
from omegaconf import OmegaConf

from simulator.model import ModelError, ModelSpec

CONF = Path(__file__).parents[3] / "experiments/conf/model"
NAMES = sorted(path.stem for path in CONF.glob("*.yaml"))
TINY = {
    "name": "tiny",
    "source": "made up",
    "layers": 2,
    "hidden": 10,
    "vocab": 100,
    "experts": 4,
    "top_k": 2,
    "expert_intermediate": 6,
    "first_dense_layers": 1,
    "dense_intermediate": 20,
    "shared_intermediate": 8,
    "attention": {"full": {"heads": 4, "kv_heads": 2, "head_dim": 5}},
}


def load(name):
    return ModelSpec.from_mapping(OmegaConf.load(CONF / f"{name}.yaml"), where=f"{name}.yaml")


def tiny(**changes):
    return ModelSpec.from_mapping({**TINY, **changes}, where="tiny")


def flops(works):
    return sum(work.flops for work in works)


def test_a_dense_layer_is_norms_qkv_attention_output_and_feed_forward():
    works = tiny().layer_dense_work(0, 3, 3)
    assert [work.kind for work in works] == ["elementwise", "gemm", "attention", "gemm", "gemm"]
    qkv, output, ffn = works[1], works[3], works[4]
    assert qkv.flops == 2 * 3 * 10 * (20 + 10 + 10)
    assert output.flops == 2 * 3 * 20 * 10
    assert ffn.flops == 2 * 3 * 3 * 10 * 20
    # weights of 2 bytes once; per token 10 + 20 values in, 10 + 20 out, 2 bytes each
    assert ffn.size_bytes == 3 * 10 * 20 * 2 + 3 * (2 * 10 + 2 * 20) * 2


def test_an_moe_layer_has_router_and_shared_experts_instead():
    works = tiny().layer_dense_work(1, 3, 3)
    assert len(works) == 6
    assert works[4].flops == 2 * 3 * 10 * 4
    assert works[5].flops == 2 * 3 * 3 * 10 * 8


def test_a_dense_branch_runs_beside_the_experts():
    works = tiny(dense_branch=True).layer_dense_work(1, 1, 1)
    assert [work.flops for work in works[-2:]] == [2 * 3 * 10 * 8, 2 * 3 * 10 * 20]


def test_one_expert_reads_its_stored_bytes_whatever_the_arithmetic():
    model = tiny(experts_bits=4.5)
    assert model.expert_bytes == round(180 * 4.5 / 8)
    work = model.expert_work(np.array([0, 1, 5]))
    assert (work.kind, work.dtype) == ("grouped_gemm", "bf16")
    assert work.flops.tolist() == [0, 2 * 180, 5 * 2 * 180]
    assert work.size_bytes.tolist() == [0, 101 + 64, 101 + 5 * 64]  # (2 · 10 + 2 · 6) values of 2 bytes


def test_the_head_is_a_norm_and_the_table_and_the_embedding_one_row():
    norm, head = tiny().head_work(1)
    assert (norm.kind, head.kind) == ("elementwise", "gemm")
    assert head.flops == 2 * 1000
    row = tiny().embedding_work(7)
    assert (row.flops, row.size_bytes) == (0, 7 * (20 + 20))


def test_linear_layers_may_compute_in_another_dtype_than_attention():
    works = tiny(linear_dtype="fp8").layer_dense_work(1, 1, 1)
    assert [work.dtype for work in works] == ["bf16", "fp8", "bf16", "fp8", "bf16", "fp8"]
    assert tiny(linear_dtype="fp8").expert_work(1).dtype == "fp8"


@pytest.mark.parametrize("name", [n for n in NAMES if not n.startswith("gpt_oss") and n != "deepseek_v3"])
def test_a_token_takes_two_operations_per_active_weight(name):
    # models without biases, whose parameters are not multiplied
    model = load(name)
    works = [w for layer in range(model.layers) for w in model.layer_dense_work(layer, 1, 1)]
    works += model.head_work(1)
    linear = flops(work for work in works if work.kind == "gemm")
    experts = len(model.moe_layers) * model.top_k * model.expert_work(1).flops
    norms = model.parts()["norms"][0]
    assert linear + experts == 2 * (model.active_params() - norms)


@pytest.mark.parametrize("name", NAMES)
def test_one_token_is_the_same_in_both_phases(name):
    model = load(name)
    for layer in range(model.layers):
        for kv_len in (1, 100, 5000):
            prefill, decode = (model.attention_work(layer, 1, kv_len, phase=phase) for phase in ("prefill", "decode"))
            assert prefill.flops == decode.flops
            assert prefill.size_bytes == decode.size_bytes


@pytest.mark.parametrize("name", NAMES)
def test_arrays_give_what_their_elements_give(name):
    model = load(name)
    tokens, kv_len = np.array([1, 7, 300]), np.array([50, 7, 900])
    layer = model.moe_layers[0]
    together = [*model.layer_dense_work(layer, tokens, kv_len), model.expert_work(tokens)]
    for i in range(3):
        single = [
            *model.layer_dense_work(layer, int(tokens[i]), int(kv_len[i])),
            model.expert_work(int(tokens[i])),
        ]
        assert [w.flops[i] for w in together] == [w.flops for w in single]
        assert [w.size_bytes[i] for w in together] == [w.size_bytes for w in single]


def test_a_batch_of_decodes_is_the_sum_of_its_sequences():
    model = load("mixtral_8x7b")
    batch = model.attention_work(0, 4, 250, phase="decode")
    single = model.attention_work(0, 1, 250, phase="decode")
    assert batch.flops == 4 * single.flops
    assert batch.size_bytes == 4 * single.size_bytes


def test_a_prompt_in_two_chunks_has_the_pairs_of_one():
    model = load("gpt_oss_20b")
    for layer in (0, 1):
        whole = model.attention_work(layer, 1000, 1000, phase="prefill").flops
        chunks = [model.attention_work(layer, n, end, phase="prefill").flops for n, end in ((300, 300), (700, 1000))]
        assert whole == sum(chunks)


def test_a_window_bounds_what_a_query_reads():
    model = load("gpt_oss_20b")  # layer 0 sees 128 tokens, layer 1 all
    near, far = (model.attention_work(layer, 1, 1000, phase="decode") for layer in (0, 1))
    assert near.flops == 2 * 128 * 64 * 128
    assert far.flops == 2 * 1000 * 64 * 128
    assert far.size_bytes - near.size_bytes == (1000 - 128) * 2 * 8 * 64 * 2


def test_latent_attention_is_absorbed_in_decode_and_expanded_in_prefill():
    model = load("deepseek_v2_lite")
    decode = model.attention_work(0, 1, 1000, phase="decode")
    assert decode.flops == 2 * 1000 * 16 * (576 + 512)
    prefill = model.attention_work(0, 1000, 1000, phase="prefill")
    assert prefill.flops == 2 * (1000 * 1001 / 2) * 16 * (192 + 128)


def test_an_encoder_sees_both_ways_and_a_decoder_attends_twice():
    model = load("switch_base_8")
    encoder = model.layer_dense_work(0, 10, 10)
    decoder = model.layer_dense_work(12, 10, 10)
    assert [work.flops for work in encoder if work.kind == "attention"] == [2 * 100 * 12 * 128]
    assert [work.flops for work in decoder if work.kind == "attention"] == [
        2 * 55 * 12 * 128,
        2 * 100 * 12 * 128,
    ]


def test_no_tokens_are_no_work():
    model = load("gemma_4_26b_a4b")
    works = [
        *model.layer_dense_work(0, 0, 0),
        model.expert_work(0),
        *model.head_work(0),
        model.embedding_work(0),
    ]
    assert all(work.flops == 0 and work.size_bytes == 0 for work in works)


def test_unknown_phases_and_layers_are_refused():
    with pytest.raises(ModelError, match="phase must be prefill or decode, got 'warm-up'"):
        tiny().attention_work(0, 1, 1, phase="warm-up")
    with pytest.raises(ModelError, match="layer 2 does not exist, it has 2"):
        tiny().layer_dense_work(2, 1, 1)
