"""Families with experts: what the fields of their config.json mean, one function for each.

What a file leaves out is what the family's class in Hugging Face Transformers 5 takes it to be; sizes must be given.
"""

from __future__ import annotations

from simulator.model import ModelError
from simulator.model_import import parts
from simulator.model_import.config import HfConfig
from simulator.model_import.layout import Fields, Kinds, dense, moe, qwen_sliding, sliding, stated


def mixtral(c: HfConfig) -> Fields:
    return moe(c, *sliding(c), width=("intermediate_size",))


def qwen2_moe(c: HfConfig) -> Fields:
    c.remarks.append("the sigmoid gate of the shared expert (one vector per layer) is not counted")
    kinds, names = qwen_sliding(c, qkv_bias=c.flag("qkv_bias", True))
    return moe(c, kinds, names, shared=c.whole("shared_expert_intermediate_size"))


def qwen3_moe(c: HfConfig) -> Fields:
    return moe(c, *qwen_sliding(c, qk_norm="head"))


def qwen_delta(c: HfConfig) -> tuple[Kinds, list[str]]:
    """Gated delta rule, and every full_attention_interval-th layer gated attention."""
    kinds = {"linear": parts.gated_delta(c), "full": parts.gqa(c, qk_norm="head", output_gate=True)}
    names = parts.layer_types(c, c.layers("num_hidden_layers"))
    every = c.whole("full_attention_interval", default=4, least=1)
    return kinds, names or ["linear" if (i + 1) % every else "full" for i in range(c.layers("num_hidden_layers"))]


def qwen3_next(c: HfConfig) -> Fields:
    c.remarks.append("the sigmoid gate of the shared expert (one vector per layer) is not counted")
    return moe(c, *qwen_delta(c), shared=c.whole("shared_expert_intermediate_size"))


def _deepseek_shared(c: HfConfig) -> int:
    return c.whole("n_shared_experts", "num_shared_experts", default=0) * c.whole("moe_intermediate_size")


def deepseek(c: HfConfig) -> Fields:
    return moe(c, {"full": parts.gqa(c)}, shared=_deepseek_shared(c))


def deepseek_v2(c: HfConfig) -> Fields:
    return moe(c, {"latent": parts.mla(c)}, shared=_deepseek_shared(c))


def deepseek_v3(c: HfConfig) -> Fields:
    if "shared" in c.entries("indexer_types"):
        c.remarks.append("layers that use another layer's indexer (indexer_types) are counted with one of their own")
    return moe(c, {"latent": parts.mla(c)}, shared=_deepseek_shared(c), router_bias=True)


def glm4_moe(c: HfConfig) -> Fields:
    kind = parts.gqa(c, qk_norm="head" if c.flag("use_qk_norm") else "")
    kind.pop("o_bias", None)
    return moe(c, {"full": kind}, shared=_deepseek_shared(c), router_bias=True)


def dots1(c: HfConfig) -> Fields:
    return moe(c, *sliding(c, qk_norm="head"), shared=_deepseek_shared(c), router_bias=True)


def gpt_oss(c: HfConfig) -> Fields:
    fields = moe(c, *sliding(c, 2, bias=True, sinks=True), width=("intermediate_size",), router_bias=True)
    return {**fields, "expert_bias": True}


def olmoe(c: HfConfig) -> Fields:
    return moe(c, {"full": parts.gqa(c, qk_norm="full")}, width=("intermediate_size",))


def phimoe(c: HfConfig) -> Fields:
    c.remarks.append("biases of norms and head are not counted")
    return moe(c, *sliding(c), width=("intermediate_size",))


def granitemoe(c: HfConfig) -> Fields:
    shared = c.whole("shared_intermediate_size", default=0)
    return moe(c, {"full": parts.gqa(c)}, width=("intermediate_size",), shared=shared)


def granitemoehybrid(c: HfConfig) -> Fields:
    key = "layer_types" if c.has("layer_types") else "layers_block_type"
    names = ["full" if n == "full" else "mamba" for n in parts.layer_types(c, c.layers("num_hidden_layers"), key) or ()]
    kinds = {"mamba": parts.mamba2(c), "full": parts.gqa(c)}
    shared = c.whole("shared_intermediate_size")
    fields = moe(c, kinds, stated(c, names), width=("intermediate_size",), shared=shared)
    return fields if fields["experts"] else {**fields, "dense_intermediate": shared}


def llama4(c: HfConfig) -> Fields:
    layers, chunk = c.layers("num_hidden_layers"), parts.window(c, "attention_chunk_size")
    names = parts.layer_types(c, layers)
    if names is None:
        every = c.whole("no_rope_layer_interval", default=4, least=1)
        rotated = c.per_layer("no_rope_layers", layers) if c.entries("no_rope_layers") else None
        turned = rotated or [(i + 1) % every for i in range(layers)]
        names = ["chunked" if rope else "full" for rope in turned]
    if chunk:
        c.remarks.append("attention within chunks is counted as a sliding window of that length, up to twice the keys")
    kinds = {"chunked": parts.gqa(c, window=chunk), "full": parts.gqa(c)}
    step = c.whole("interleave_moe_layer_step", default=1, least=1)
    among = c.entries("moe_layers") or range(step - 1, layers, step)
    return moe(
        c,
        kinds,
        names if chunk else ["full"] * layers,
        width=("intermediate_size",),
        has_experts=[i in among for i in range(layers)],
        dense_width=("intermediate_size_mlp",),
        shared=c.whole("intermediate_size"),
    )


def minimax(c: HfConfig) -> Fields:
    layers = c.layers("num_hidden_layers")
    names = parts.layer_types(c, layers)
    if names is None and c.has("attn_type_list"):
        names = ["full" if full else "linear" for full in c.per_layer("attn_type_list", layers) or ()]
    kinds = {"linear": parts.lightning(c), "full": parts.gqa(c)}
    return moe(c, kinds, stated(c, names), width=("intermediate_size",))


def minimax_m2(c: HfConfig) -> Fields:
    norm = "full" if c.flag("use_qk_norm", True) else ""
    return moe(c, {"full": parts.gqa(c, qk_norm=norm)}, width=("intermediate_size",), router_bias=True)


def ernie4_5_moe(c: HfConfig) -> Fields:
    layers = c.layers("num_hidden_layers")
    first, every = c.whole("moe_layer_start_index", default=1), c.whole("moe_layer_interval", default=1, least=1)
    last = c.whole("moe_layer_end_index", default=-1, least=-1)
    last = layers - 1 if last < 0 else last
    kind = parts.gqa(c, bias=c.flag("use_bias"))
    return moe(
        c,
        {"full": kind},
        tied=True,
        router_bias=True,
        count=("moe_num_experts",),
        top_k=("moe_k",),
        has_experts=[first <= i <= last and (i + 1) % every == 0 for i in range(layers)],
        shared=c.whole("moe_num_shared_experts", default=0) * c.whole("moe_intermediate_size"),
    )


def hunyuan_moe(c: HfConfig) -> Fields:
    norm = "head" if c.flag("use_qk_norm", True) else ""
    kinds = {"own": parts.gqa(c, qk_norm=norm), "shared": parts.gqa(c, qk_norm=norm, shared_kv=True)}
    layers = c.layers("num_hidden_layers")
    every = c.whole("cla_share_factor", default=2, least=1) if c.flag("use_cla") else 1
    if c.whole("moe_layer_num_skipped", default=0):
        c.remarks.append("the first dense layers (moe_layer_num_skipped) are counted as MoE layers")
    width = "moe_intermediate_size" if c.has("moe_intermediate_size") else "intermediate_size"
    shared = c.whole("num_shared_expert", default=1) if c.flag("use_mixed_mlp_moe", True) else 0
    names = ["shared" if i % every else "own" for i in range(layers)]
    return moe(c, kinds, names, top_k=("moe_topk",), width=(width,), shared=shared * c.whole(width))


def dbrx(c: HfConfig) -> Fields:
    attention, experts = c.part("attn_config"), c.part("ffn_config")
    flat = {**c.fields, "num_key_value_heads": attention.whole("kv_n_heads")}
    flat |= {key: experts.whole(key) for key in ("moe_num_experts", "moe_top_k", "ffn_hidden_size")}
    c = HfConfig(flat, c.where, c.remarks)
    kind = parts.gqa(c, heads="n_heads")
    return moe(c, {"full": kind}, count=("moe_num_experts",), top_k=("moe_top_k",), width=("ffn_hidden_size",))


def jetmoe(c: HfConfig) -> Fields:
    heads, chosen = c.whole("num_key_value_heads"), c.whole("num_experts_per_tok", least=1)
    sets, rest = divmod(c.whole("num_local_experts"), chosen)
    if rest:
        raise ModelError(f"{c.where}: field 'num_experts_per_tok' must divide num_local_experts, got {chosen}.")
    c.remarks.append("routers of the attention's experts and biases of experts are not counted")
    c.remarks.append("a prompt reads one set of the attention's projections")
    width = c.whole("kv_channels", "head_dim")
    kind = {"heads": heads * chosen, "kv_heads": heads, "head_dim": width, "projection_sets": sets}
    return moe(c, {"full": kind}, width=("intermediate_size",), tied=True)


def jamba(c: HfConfig) -> Fields:
    layers = c.layers("num_hidden_layers")

    def chosen(what: str, period: int, offset: int) -> list[bool]:
        every = c.whole(f"{what}_layer_period", default=period, least=1)
        first = c.whole(f"{what}_layer_offset", default=offset)
        return [i % every == first for i in range(layers)]

    names = ["full" if full else "mamba" for full in chosen("attn", 8, 4)]
    kinds = {"mamba": parts.mamba1(c), "full": parts.gqa(c)}
    return moe(c, kinds, names, width=("intermediate_size",), has_experts=chosen("expert", 2, 1))


def gemma4(c: HfConfig) -> Fields:
    for key in ("hidden_size_per_layer_input", "num_kv_shared_layers"):
        if c.whole(key, default=0):
            raise ModelError(f"{c.where}: field '{key}' is {c.whole(key)}, which is not modelled; expected 0.")
    layers, same = c.layers("num_hidden_layers"), c.flag("attention_k_eq_v")
    usual = ["sliding" if (i + 1) % 6 and i < layers - 1 else "full" for i in range(layers)]
    names = parts.layer_types(c, layers) or usual
    wide = c.of_layer(names.index("full")) if "full" in names else c
    given = {"head_dim": wide.whole("global_head_dim", "head_dim", least=1)}
    if same and c.has("num_global_key_value_heads"):
        given["num_key_value_heads"] = c.whole("num_global_key_value_heads")
    wide = HfConfig({**wide.fields, **given}, c.where, c.remarks)
    kinds = {
        "sliding": parts.gqa(c, qk_norm="head", window=parts.window(c)),
        "full": parts.gqa(wide, qk_norm="head", k_equals_v=same),
    }
    if not c.flag("enable_moe_block"):
        return dense(c, kinds, names, tied=True, norms_per_layer=4)
    c.remarks.append("scales of the router are not counted")
    branch: Fields = {"dense_branch": True, "dense_intermediate": c.whole("intermediate_size"), "norms_per_layer": 7}
    return moe(c, kinds, names, top_k=("top_k_experts",), tied=True, **branch)


def mimo_v2_flash(c: HfConfig) -> Fields:
    layers = c.layers("num_hidden_layers")
    value = c.whole("v_head_dim")
    kinds = {"full": parts.gqa(c, value_head_dim=value, sinks=c.flag("add_full_attention_sink_bias"))}
    doubled = {"num_key_value_heads": 2 * c.whole("num_key_value_heads")}
    given = {key.removeprefix("swa_"): c.fields[key] for key in c.fields if key.startswith("swa_")}
    near = {**c.fields, **doubled, **given}
    swa = HfConfig(near, c.where, c.remarks)
    width = c.whole("sliding_window")
    kinds["sliding"] = parts.gqa(
        swa, value_head_dim=swa.whole("v_head_dim"), window=width, sinks=c.flag("add_swa_attention_sink_bias", True)
    )
    names = parts.layer_types(c, layers)
    if names is None:
        names = ["sliding" if short else "full" for short in c.per_layer("hybrid_layer_pattern", layers) or ()]
    return moe(c, kinds, stated(c, names, "hybrid_layer_pattern"), router_bias=True)


def lfm2_moe(c: HfConfig) -> Fields:
    layers, first = c.layers("num_hidden_layers"), c.whole("num_dense_layers")
    kinds = {"conv": parts.short_conv(c), "full": parts.gqa(c, qk_norm="head")}
    names = stated(c, parts.layer_types(c, layers))
    flags = [i >= first for i in range(layers)]
    return moe(c, kinds, names, tied=True, has_experts=flags, router_bias=c.flag("use_expert_bias", True))


def arctic(c: HfConfig) -> Fields:
    branch = c.flag("parallel_attn_mlp_res")
    width = c.whole("hidden_size") if branch else 0
    more: Fields = {"dense_branch": branch, "dense_intermediate": width, "norms_per_layer": 3 if branch else 0}
    flags = [True] * c.layers("num_hidden_layers")
    return moe(c, *sliding(c), width=("intermediate_size",), has_experts=flags, **more)
