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
    assert [work.name for work in works] == [
        *("norms", "QKV projection", "attention", "output projection"),
        *("dense FFN", "dense FFN", "dense FFN"),  # gate and up, activation function, down
    ]
    _, qkv, _, output, up, act, down = works
    assert qkv.flops == 2 * 3 * 10 * (20 + 10 + 10)
    assert output.flops == 2 * 3 * 20 * 10
    assert up.flops + down.flops == 2 * 3 * 3 * 10 * 20
    # weights of 2 bytes once; per token 10 values in and 2 · 20 out, then 2 · 20 in and 20 out, then 20 in and 10 out
    assert up.size_bytes == 2 * 10 * 20 * 2 + 3 * (10 + 40) * 2
    assert act.size_bytes == 3 * (40 + 20) * 2
    assert down.size_bytes == 10 * 20 * 2 + 3 * (20 + 10) * 2


def test_an_moe_layer_has_router_and_shared_experts_instead():
    works = tiny().layer_dense_work(1, 3, 3)
    assert [work.name for work in works[4:]] == ["router", "top-k", *["shared experts"] * 3]
    assert works[4].flops == 2 * 3 * 10 * 4
    assert (works[5].flops, works[5].size_bytes) == (5 * 3 * 4, 3 * (4 * 2 + 2 * 8))
    assert works[6].flops + works[8].flops == 2 * 3 * 3 * 10 * 8


def test_a_dense_branch_runs_beside_the_experts():
    works = [work for work in tiny(dense_branch=True).layer_dense_work(1, 1, 1)[6:] if work.kind == "gemm"]
    assert sum(work.flops for work in works[:2]) == 2 * 3 * 10 * 8
    assert sum(work.flops for work in works[2:]) == 2 * 3 * 10 * 20


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
    products = [work.dtype for work in works if work.kind in ("gemm", "attention")]
    assert products == ["fp8", "bf16", "fp8", "bf16", "fp8", "fp8"]  # QKV, attention, output, router, two of an FFN
    assert tiny(linear_dtype="fp8").expert_work(1).dtype == "fp8"


@pytest.mark.parametrize("name", NAMES)
def test_a_token_takes_two_operations_per_active_weight(name):
    model = load(name)
    works = [w for layer in range(model.layers) for w in model.layer_dense_work(layer, 1, 1)]
    works += model.head_work(1)
    linear = flops(work for work in works if work.kind == "gemm")
    experts = len(model.moe_layers) * model.top_k * model.expert_work(1).flops
    weights = model.active_params() - model.parts()["norms"][0]
    if any(model.expert_bias + model.router_bias + small(kind) for kind in model.attention.values()):
        assert 0 < 2 * weights - (linear + experts) < 3e-3 * 2 * weights  # biases and the like are not multiplied
    else:
        assert linear + experts == 2 * weights


def small(kind):
    """Parameters of a kind that are in no product."""
    products = sum(n * k for n, k in kind.projections(64)) + kind.output_width * 64
    return kind.params(64) - kind.idle_params(64) - products


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
    layer = model.moe_layers[0] if model.experts else 0
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


# ---- kinds of attention that need a closer look

LATENT = {"heads": 2, "kv_lora_rank": 8, "q_lora_rank": 6, "head_dim": 4, "rope_head_dim": 2, "value_head_dim": 3}
INDEXER = {"index_heads": 3, "index_head_dim": 5, "index_top_k": 16}
RECURRENT = {
    "state_values": 30,
    "in_width": 12,
    "out_width": 5,
    "conv_channels": 7,
    "conv_kernel": 4,
    "other_params": 2,
}


def test_chosen_keys_bound_the_attention_and_the_indexer_reads_all():
    model = tiny(attention={"sparse": {**LATENT, **INDEXER}})
    works = {work.name: work for work in model.layer_dense_work(0, 1, 100)}
    assert works["attention"].flops == 2 * 16 * 2 * (10 + 8)  # absorbed: 8 + 2 numbers of a key, 8 of a value
    assert works["indexer"].flops == 2 * 100 * 3 * 5
    # 100 cached keys of 5 numbers read and one written, 3 queries of 5 in
    assert works["indexer"].size_bytes == 101 * 5 * 2 + 3 * 5 * 2
    near = {work.name: work for work in model.layer_dense_work(0, 1, 10)}
    assert near["attention"].flops == 2 * 10 * 2 * (10 + 8)
    assert model.kv_bytes(100) == 2 * 100 * (8 + 2 + 5) * 2


def test_an_indexer_costs_its_projections():
    plain, sparse = (tiny(attention={"a": kind}) for kind in (LATENT, {**LATENT, **INDEXER}))
    # per layer: a key and 3 weights from the hidden vector, 3 queries from the latent one, and a norm with bias
    assert sparse.total_params - plain.total_params == 2 * ((5 + 3) * 10 + 3 * 5 * 6 + 2 * 5)


def test_a_recurrent_layer_keeps_a_state_instead_of_a_cache():
    model = tiny(attention={"state": RECURRENT})
    assert model.kv_bytes(0) == model.kv_bytes(10**6) == 2 * (30 * 4 + 7 * 3 * 2)
    assert model.parts()["attention"][0] == 2 * (12 * 10 + 5 * 10 + 7 * 4 + 2)


def test_a_recurrence_is_linear_in_tokens_and_moves_its_state_once_per_sequence():
    model = tiny(attention={"state": RECURRENT})
    one, long, far = (model.attention_work(0, n, end, phase="prefill") for n, end in ((1, 1), (100, 100), (1, 1000)))
    assert one.flops == 5 * 30 + 2 * 4 * 7
    assert long.flops == 100 * one.flops
    assert long.size_bytes - one.size_bytes == 99 * (12 + 5) * 2
    assert (far.flops, far.size_bytes) == (one.flops, one.size_bytes)
    batch = model.attention_work(0, 8, 50, phase="decode")
    assert (
        batch.size_bytes - model.attention_work(0, 8, 50, phase="prefill").size_bytes == 7 * 2 * model.kv_bytes(1) / 2
    )


def test_shared_keys_and_values_are_neither_projected_nor_kept():
    own = {"heads": 4, "kv_heads": 2, "head_dim": 5}
    model = tiny(attention={"own": own, "shared": {**own, "shared_kv": True}}, attention_pattern=["own", "shared"])
    assert model.kv_bytes(10) == tiny(layers=2, attention={"own": own}).kv_bytes(10) / 2
    _, first, *_ = model.layer_dense_work(0, 1, 1)
    _, second, *_ = model.layer_dense_work(1, 1, 1)
    assert (first.flops, second.flops) == (2 * 10 * (20 + 20), 2 * 10 * 20)
    assert model.attention_work(0, 1, 10, phase="decode") == model.attention_work(1, 1, 10, phase="decode")


def test_a_gate_is_as_wide_as_the_outputs_and_sets_of_projections_lie_idle():
    plain = {"heads": 4, "kv_heads": 2, "head_dim": 5}
    base, gated, sets = (
        tiny(attention={"a": {**plain, **more}}) for more in ({}, {"output_gate": True}, {"projection_sets": 3})
    )
    assert gated.total_params - base.total_params == 2 * 10 * 20
    assert sets.total_params - base.total_params == 2 * 2 * (20 + 20) * 10
    assert sets.active_params() == base.active_params()


def test_values_may_have_a_width_of_their_own():
    model = tiny(attention={"a": {"heads": 4, "kv_heads": 2, "head_dim": 5, "value_head_dim": 3}})
    assert model.kv_bytes(1) == 2 * 2 * (5 + 3) * 2
    assert model.attention_work(0, 1, 10, phase="decode").flops == 2 * 10 * 4 * (5 + 3)
    assert model.parts()["attention"][0] == 2 * 10 * (4 * 5 + 2 * 8 + 4 * 3)


DENSE = {"experts": 0, "top_k": 0, "expert_intermediate": 0, "shared_intermediate": 0, "first_dense_layers": 0}


def test_a_dense_model_has_no_routed_layers():
    model = tiny(**DENSE)
    assert (model.moe_layers, model.expert_bytes, model.parts()["routed_experts"]) == ((), 0, (0, 0))
    assert model.active_params(include_embedding=True) == model.total_params
    assert [work.name for work in model.layer_dense_work(1, 1, 1)].count("dense FFN") == 3


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({**DENSE, "top_k": 2}, "field 'top_k' must be 0 or left out, as the model is dense"),
        ({**DENSE, "shared_intermediate": 8}, "field 'shared_intermediate' must be 0 or left out"),
        ({**DENSE, "dense_intermediate": 0}, "field 'dense_intermediate' must be above zero"),
        ({"top_k": 0}, "field 'top_k' must be at least 1, got 0"),
        ({"attention": {"a": {**LATENT, "index_top_k": 4}}}, "'attention.a.index_heads' must be at least 1"),
        ({"attention": {"a": {**RECURRENT, "conv_kernel": 0}}}, "'attention.a.conv_kernel' must be given together"),
        ({"attention": {"a": {**RECURRENT, "in_width": 0}}}, "'attention.a.in_width' must be at least 1"),
        ({"attention": {"a": {**RECURRENT, "inner_projections": [3]}}}, "must be pairs of widths"),
        ({"attention": {"a": {**LATENT, "shared_kv": True}}}, "'attention.a.shared_kv' must be left out"),
    ],
)
def test_what_cannot_be_is_refused(changes, sentence):
    with pytest.raises(ModelError, match=sentence):
        tiny(**changes)
