"""Every family of routers in transformers: what `generate` makes it choose, beside the router worked out by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from traces.capture import CaptureError  # noqa: E402
from traces.capture.prompts import Prompt  # noqa: E402
from traces.capture.routers import find_routed_layers  # noqa: E402
from traces.capture.run import Settings, Source, capture_trace  # noqa: E402

E, K, HIDDEN, VOCAB = 8, 2, 32, 64
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": HIDDEN,
    "intermediate_size": 16,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "num_experts_per_tok": K,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
MLA = {
    "q_lora_rank": None,
    "kv_lora_rank": 8,
    "qk_nope_head_dim": 8,
    "qk_rope_head_dim": 8,
    "v_head_dim": 8,
    "num_key_value_heads": 4,
    "head_dim": 8,
}
GROUPS = {"n_group": 2, "topk_group": 1, "n_shared_experts": 1, "first_k_dense_replace": 1}


class Letters:
    """A tokenizer: a letter is a token."""

    pad_token_id, eos_token_id = 0, None

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) % (VOCAB - 2) + 2 for letter in text]}


def softmax(x: Any, renormalise: bool) -> tuple[Any, Any]:
    weights, ids = x.softmax(-1).topk(K)
    return ids, weights / weights.sum(-1, keepdim=True) if renormalise else weights


def softmax_of_chosen(x: Any) -> tuple[Any, Any]:
    top, ids = x.topk(K)
    return ids, top.softmax(-1)


def sigmoid_with_bias(x: Any, bias: Any, groups: int = 1, scale: float = 1.0, renormalise: bool = True) -> Any:
    scores = x.sigmoid()
    choice = scores + bias
    if groups > 1:  # the better half by the sum of its two best
        per_group = choice.view(len(x), groups, -1).topk(2)[0].sum(-1)
        best = per_group.argmax(-1)
        outside = torch.arange(E) // (E // groups) != best[:, None]
        choice = choice.masked_fill(outside, -torch.inf)
    ids = choice.topk(K)[1]
    weights = scores.gather(1, ids)
    weights = scale * (weights / weights.sum(-1, keepdim=True) if renormalise else weights)
    order = weights.argsort(-1, descending=True)
    return ids.gather(1, order), weights.gather(1, order)


def linear(block: Any, name: str, x: Any) -> Any:
    router = getattr(block, name)
    bias = getattr(router, "bias", None)
    return torch.nn.functional.linear(x, router.weight, bias)


def qwen(renormalise: bool) -> Any:
    return lambda block, x: softmax(linear(block, "gate", x), renormalise)


def deepseek_v2(block: Any, x: Any) -> Any:
    scores = linear(block, "gate", x).softmax(-1)
    halves = scores.view(len(x), 2, -1).amax(-1).argmax(-1)
    weights, ids = scores.masked_fill(torch.arange(E) // (E // 2) != halves[:, None], 0).topk(K)
    return ids, weights * 1.5


def deepseek_v3(block: Any, x: Any) -> Any:
    return sigmoid_with_bias(linear(block, "gate", x), block.gate.e_score_correction_bias, groups=2, scale=2.5)


def glm4(block: Any, x: Any) -> Any:
    return sigmoid_with_bias(linear(block, "gate", x), block.gate.e_score_correction_bias, groups=2)


def minimax_m2(block: Any, x: Any) -> Any:
    return sigmoid_with_bias(linear(block, "gate", x), block.e_score_correction_bias)


def lfm2(block: Any, x: Any) -> Any:
    scores = linear(block, "gate", x).sigmoid()
    ids = (scores + block.expert_bias).topk(K)[1]
    weights = scores.gather(1, ids)
    return ids, weights / weights.sum(-1, keepdim=True)


def ernie(block: Any, x: Any) -> Any:
    scores = linear(block, "gate", x).softmax(-1)
    ids = (scores + block.gate.moe_statics.e_score_correction_bias.squeeze()).topk(K)[1]
    weights = scores.gather(1, ids)
    return ids, weights / weights.sum(-1, keepdim=True)


def phi(block: Any, x: Any) -> Any:
    """Sparsemixer in evaluation (arXiv 2409.12136): of each choice the softmax over the logits within 2ε of it."""
    logits, ids, weights = linear(block, "router", x), [], []
    for _ in range(2):
        best = logits.max(-1, keepdim=True)
        near = (best.values - logits) / logits.abs().clamp(min=best.values) <= 2 * block.router.router_jitter_noise
        weights.append(logits.masked_fill(~near, -torch.inf).softmax(-1).gather(1, best.indices))
        ids.append(best.indices)
        logits = logits.scatter(1, best.indices, -torch.inf)
    return torch.cat(ids, 1), torch.cat(weights, 1)


def llama4(block: Any, x: Any) -> Any:
    top, ids = linear(block, "router", x).topk(1)
    return ids, top.sigmoid()


def dbrx(block: Any, x: Any) -> Any:
    return softmax(block.router.layer(x), True)


def jetmoe(block: Any, x: Any) -> Any:
    return softmax_of_chosen(block.router.layer(x))


# class, changes of the configuration, module path of the blocks, router by hand
FAMILIES: dict[str, tuple[str, dict[str, Any], str, Any]] = {
    "mixtral": ("MixtralForCausalLM", {"num_local_experts": E}, r"\.mlp$", qwen(True)),
    "olmoe": ("OlmoeForCausalLM", {"num_experts": E}, r"\.mlp$", qwen(False)),
    "qwen2_moe": ("Qwen2MoeForCausalLM", {"num_experts": E, "moe_intermediate_size": 16}, r"\.mlp$", qwen(False)),
    "qwen3_moe": ("Qwen3MoeForCausalLM", {"num_experts": E, "moe_intermediate_size": 16}, r"\.mlp$", qwen(False)),
    "qwen3_moe_normed": (
        "Qwen3MoeForCausalLM",
        {"num_experts": E, "moe_intermediate_size": 16, "norm_topk_prob": True},
        r"\.mlp$",
        qwen(True),
    ),
    "qwen3_next": (
        "Qwen3NextForCausalLM",
        {
            "num_experts": E,
            "moe_intermediate_size": 16,
            "shared_expert_intermediate_size": 16,
            "num_hidden_layers": 4,
            "linear_num_value_heads": 4,
            "linear_num_key_heads": 2,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
        },
        r"\.mlp$",
        qwen(True),
    ),
    "ernie4_5_moe": (
        "Ernie4_5_MoeForCausalLM",
        {"moe_num_experts": E, "moe_k": K, "moe_intermediate_size": 16, "moe_layer_start_index": 1},
        r"\.mlp$",
        ernie,
    ),
    "hunyuan_v1_moe": (
        "HunYuanMoEV1ForCausalLM",
        {"num_experts": E, "moe_topk": K},
        r"\.mlp$",
        lambda block, x: softmax(block.gate.wg(x), True),
    ),
    "deepseek_v2": (
        "DeepseekV2ForCausalLM",
        {
            **MLA,
            "n_routed_experts": E,
            "moe_intermediate_size": 16,
            "topk_method": "group_limited_greedy",
            "routed_scaling_factor": 1.5,
            **GROUPS,
        },
        r"\.mlp$",
        deepseek_v2,
    ),
    "deepseek_v3": (
        "DeepseekV3ForCausalLM",
        {**MLA, "n_routed_experts": E, "moe_intermediate_size": 16, "routed_scaling_factor": 2.5, **GROUPS},
        r"\.mlp$",
        deepseek_v3,
    ),
    "glm4_moe": (
        "Glm4MoeForCausalLM",
        {"n_routed_experts": E, "moe_intermediate_size": 16, "routed_scaling_factor": 1.0, **GROUPS},
        r"\.mlp$",
        glm4,
    ),
    "minimax_m2": ("MiniMaxM2ForCausalLM", {"num_local_experts": E}, r"\.mlp$", minimax_m2),
    "gpt_oss": (
        "GptOssForCausalLM",
        {"num_local_experts": E, "sliding_window": 8},
        r"\.mlp$",
        lambda block, x: softmax_of_chosen(linear(block, "router", x)),
    ),
    "phimoe": ("PhimoeForCausalLM", {"num_local_experts": E}, r"\.mlp$", phi),
    "granitemoe": (
        "GraniteMoeForCausalLM",
        {"num_local_experts": E},
        r"\.block_sparse_moe$",
        lambda block, x: softmax_of_chosen(linear(block, "router", x)),
    ),
    "lfm2_moe": (
        "Lfm2MoeForCausalLM",
        {
            "num_experts": E,
            "moe_intermediate_size": 16,
            "num_dense_layers": 1,
            "layer_types": ["conv", "full_attention", "conv"],
        },
        r"\.feed_forward$",
        lfm2,
    ),
    "llama4": (
        "Llama4ForCausalLM",
        {
            "num_local_experts": E,
            "num_experts_per_tok": 1,
            "interleave_moe_layer_step": 1,
            "intermediate_size_mlp": 16,
            "attention_chunk_size": 16,
        },
        r"\.feed_forward$",
        llama4,
    ),
    "jetmoe": (
        "JetMoeForCausalLM",
        {"num_local_experts": E, "kv_channels": 8, "num_key_value_heads": 2, "num_attention_heads": None},
        r"\.(mlp|experts)$",
        jetmoe,
    ),
}
DBRX = {
    "d_model": HIDDEN,
    "n_heads": 4,
    "n_layers": 3,
    "max_seq_len": 128,
    "vocab_size": VOCAB,
    "attn_config": {"kv_n_heads": 2, "clip_qkv": 8.0, "rope_theta": 1e4},
    "ffn_config": {
        "ffn_hidden_size": 16,
        "moe_num_experts": E,
        "moe_top_k": K,
        "moe_normalize_expert_weights": 1.0,
        "ffn_act_fn": {"name": "silu"},
        "hidden_size": HIDDEN,
    },
    "pad_token_id": 0,
    "eos_token_id": None,
}
SWITCH = {
    "vocab_size": VOCAB,
    "d_model": HIDDEN,
    "d_kv": 8,
    "d_ff": 16,
    "num_heads": 4,
    "num_layers": 4,
    "num_sparse_encoder_layers": 2,
    "num_decoder_layers": 4,
    "num_sparse_decoder_layers": 2,
    "num_experts": E,
    "expert_capacity": 1,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": None,
}


def build(kind: str, changes: dict[str, Any], common: dict[str, Any] = COMMON) -> Any:
    """A model of the class with random weights and biases, spread so widely that routers differ in their choices."""
    torch.manual_seed(0)
    values = {name: value for name, value in {**common, **changes}.items() if value is not None or name[3:] == "_id"}
    values["eos_token_id"] = None
    model_class = getattr(transformers, kind)
    model = model_class._from_config(model_class.config_class(**values)).eval()
    generator = torch.Generator().manual_seed(1)
    for name, value in [*model.named_parameters(), *model.named_buffers()]:
        if value.dim() > 1 or "bias" in name:
            value.data.copy_(torch.randn(value.shape, generator=generator) * 0.3)
    return model


def captured(model: Any, path: Path, **settings: Any) -> Any:
    more = {"probabilities": True, "guesses": 2, "norms": True, "embeddings": True}
    asked = {"new_tokens": 5, "batch": 2, **more, **settings}
    prompts = [Prompt("abcdefg", "letters"), Prompt("zyxw"), Prompt("mnopq")]
    return capture_trace(model, Letters(), prompts, path, Settings(**asked), Source(model="tiny"))


@pytest.mark.parametrize("family", [*FAMILIES, "dbrx"])
def test_choices_and_guesses_are_those_of_the_router_worked_out_by_hand(family: str, tmp_path: Path) -> None:
    kind, changes, pattern, by_hand = FAMILIES.get(family, ("DbrxForCausalLM", DBRX, r"\.ffn$", dbrx))
    model = build(kind, changes, {} if family == "dbrx" else COMMON)
    layers = find_routed_layers(model)
    inputs, hooks = router_inputs(layers)
    trace = captured(model, tmp_path / "t.parquet", batch=1)
    for hook in hooks:
        hook.remove()
    routed = [name for name, block in model.named_modules() if re.search(pattern, name) and has_router(block)]
    assert len(routed) == len(layers) == len(trace.meta.layers)
    request = trace.request(0)
    assert request.tokens == 7 + 4  # the fifth new token is never fed
    running = in_running_order(trace, layers)
    states = []
    for layer in running:
        calls = inputs[layer.name][2:7]  # after a probing pass and one for the cross-entropy of the prompt
        assert [len(call) for call in calls] == [7, 1, 1, 1, 1]
        states.append(torch.cat(calls))
    for ordinal, layer in enumerate(running):
        with torch.no_grad():
            ids, weights = by_hand(layer.parent, states[ordinal])
            assert request.experts[:, ordinal].tolist() == ids.tolist()
            np.testing.assert_allclose(request.weights[:, ordinal], weights, rtol=1e-4)
            norms = (states[ordinal].double() ** 2).sum(-1) ** 0.5
            np.testing.assert_allclose(request.norms[:, ordinal], norms, rtol=1e-5)
            for distance in range(1, 3):
                guesses = request.guesses[:, ordinal, distance - 1]
                if ordinal + distance < len(running):
                    expected, _ = by_hand(running[ordinal + distance].parent, states[ordinal])
                    assert guesses.tolist() == expected.tolist()
                else:
                    assert (guesses == -1).all()
    assert_embedding_of_prompt(request, model, "abcdefg")


def has_router(block: Any) -> bool:
    return hasattr(block, "gate") or hasattr(block, "router")


def assert_embedding_of_prompt(request: Any, model: Any, text: str) -> None:
    """The one table with a row per word of the vocabulary, read row by row."""
    tables = [module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)]
    table = next(table for table in tables if table.shape == (VOCAB, HIDDEN)).tolist()
    rows = [table[token] for token in Letters()(text)["input_ids"]]
    np.testing.assert_allclose(request.embedding, np.mean(rows, axis=0), rtol=1e-5, atol=1e-7)


def router_inputs(layers: list[Any]) -> tuple[dict[str, list[Any]], list[Any]]:
    """What each router is called with, flattened to [N, H] per call, and the hooks that note it."""
    seen: dict[str, list[Any]] = {layer.name: [] for layer in layers}

    def noting(name: str) -> Any:
        return lambda _, args, __: seen[name].append(args[0].reshape(-1, args[0].shape[-1]).clone())

    return seen, [layer.router.register_forward_pre_hook(noting(layer.name), with_kwargs=True) for layer in layers]


def in_running_order(trace: Any, layers: list[Any]) -> list[Any]:
    """The layers as the trace numbers them; JetMoE's two a layer run in another order than its modules have."""
    _, numbered, names = trace.meta.notes.partition("ordinals of routed modules: ")
    if not numbered:
        return layers
    return [next(layer for layer in layers if layer.name == name) for name in names.partition(";")[0].split(", ")]


def test_switch_tokens_beyond_an_experts_capacity_have_no_expert(tmp_path: Path) -> None:
    model = build("SwitchTransformersForConditionalGeneration", SWITCH, {})
    layers = find_routed_layers(model)
    inputs, hooks = router_inputs(layers)
    trace = captured(model, tmp_path / "t.parquet", batch=1, guesses=1)
    for hook in hooks:
        hook.remove()
    request = trace.request(0)
    assert [layer.stack for layer in layers] == ["encoder", "encoder", "decoder", "decoder"]
    assert request.phases.tolist() == [0] * 7 + [1] * 5
    for ordinal, layer in enumerate(layers):
        calls = inputs[layer.name][1:]
        experts = request.experts[:7, ordinal] if ordinal < 2 else request.experts[7:, ordinal]
        best = torch.cat([layer.router.classifier(call).argmax(-1) for call in calls[: 1 if ordinal < 2 else 5]])
        expected, counts = [], dict.fromkeys(range(E), 0)
        for expert in best.tolist():
            if ordinal < 2:
                counts[expert] += 1  # a decoder's steps are calls of one token, so that nothing is dropped
            expected.append([expert if counts[expert] <= SWITCH["expert_capacity"] else -1])
        assert experts.tolist() == expected
    assert (request.experts[:7, :2] == -1).any()
    assert (request.experts[7:, :2] == -1).all()
    assert (request.experts[:7, 2:] == -1).all()
    assert (request.guesses[:, 1] == -1).all()  # the next layer is the decoder's first
    for ordinal, layer in enumerate(layers):
        prompt = ordinal < 2
        calls = torch.cat(inputs[layer.name][1 : 2 if prompt else 6])
        norms = request.norms[slice(7) if prompt else slice(7, None), ordinal]
        np.testing.assert_allclose(norms, (calls.double() ** 2).sum(-1) ** 0.5, rtol=1e-5)
    assert np.isnan(request.norms[:7, 2:]).all()
    assert np.isnan(request.norms[7:, :2]).all()
    assert_embedding_of_prompt(request, model, "abcdefg")


def test_nllb_is_refused_with_the_reason() -> None:
    class Model:
        config = transformers.NllbMoeConfig()

    with pytest.raises(CaptureError, match=r"nllb-moe cannot be captured: .*only experts 0 and 1 ever run\.$"):
        find_routed_layers(Model())


def test_in_nllb_only_experts_0_and_1_run() -> None:
    """The reason for refusing it: when this fails, transformers has mended it."""
    from transformers.models.nllb_moe.modeling_nllb_moe import NllbMoeSparseMLP

    torch.manual_seed(0)
    config = transformers.NllbMoeConfig(d_model=HIDDEN, num_experts=E, expert_capacity=64)
    block, ran = NllbMoeSparseMLP(config, ffn_dim=16).eval(), set()
    for name, expert in block.experts.named_children():
        expert.register_forward_pre_hook(lambda _, __, name=name: ran.add(name))
    with torch.no_grad():
        block(torch.randn(1, 40, HIDDEN))
    assert ran == {"expert_0", "expert_1"}


def test_a_dense_model_is_refused() -> None:
    model = build("LlamaForCausalLM", {})
    with pytest.raises(CaptureError, match="no routed layer was found"):
        find_routed_layers(model)
