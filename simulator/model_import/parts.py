"""Kinds of attention and of recurrent layers, as the fields of a config.json give them.

Widths follow the implementations in Hugging Face Transformers 5; each function says where it looks.
"""

from __future__ import annotations

from typing import Any

from simulator.model import ModelError
from simulator.model_import.config import HfConfig

Kind = dict[str, Any]
NAMES = {
    "full_attention": "full",
    "attention": "full",
    "sliding_attention": "sliding",
    "chunked_attention": "chunked",
    "linear_attention": "linear",
    "conv": "conv",
    "mamba": "mamba",
}
"""Entries of `layer_types` and what their kind is called here."""


def layer_types(config: HfConfig, layers: int, key: str = "layer_types") -> list[str] | None:
    """The kind of each layer, or None if the file does not say."""
    given = config.per_layer(key, layers)
    for name in given or ():
        if name not in NAMES:
            known = ", ".join(NAMES)
            raise ModelError(f"{config.where}: field '{key}' has a layer of type {name!r}; known are {known}.")
    return [NAMES[name] for name in given] if given else None


def gqa(config: HfConfig, *, heads: str = "num_attention_heads", bias: bool = False, **more: Any) -> Kind:
    """Grouped-query or multi-head attention. `bias`: what the family does if the file has no attention_bias."""
    count = config.whole(heads, least=1)
    hidden = config.whole("hidden_size", "d_model", "n_embd")
    if not config.has("head_dim") and hidden % count:
        raise ModelError(f"{config.where}: field 'head_dim' is missing, and {count} heads do not divide {hidden}.")
    kv_heads = config.whole("num_key_value_heads", default=count, least=1)
    if count % kv_heads:
        raise ModelError(f"{config.where}: field 'num_key_value_heads' must divide the {count} heads, got {kv_heads}.")
    width = config.whole("head_dim", default=hidden // count, least=1)
    kind: Kind = {"heads": count, "kv_heads": kv_heads, "head_dim": width}
    if config.flag("attention_bias", bias):
        kind |= {"qkv_bias": True, "o_bias": True}
    return kind | {key: value for key, value in more.items() if value}


def window(config: HfConfig, key: str = "sliding_window") -> int | None:
    """The sliding window, if it is shorter than the longest sequence."""
    if not config.has(key):
        return None
    length = config.whole(key)
    return length if length < config.whole("max_position_embeddings", default=length + 1) else None


def mla(config: HfConfig) -> Kind:
    """Multi-head latent attention (DeepSeek-V2), with the indexer of DeepSeek-V3.2 if there is one."""
    kind: Kind = {
        "heads": config.whole("num_attention_heads", least=1),
        "kv_lora_rank": config.whole("kv_lora_rank", least=1),
        "q_lora_rank": config.whole("q_lora_rank", default=0),
        "head_dim": config.whole("qk_nope_head_dim", least=1),
        "rope_head_dim": config.whole("qk_rope_head_dim"),
        "value_head_dim": config.whole("v_head_dim"),
    }
    if config.has("index_topk"):
        kind |= {
            "index_heads": config.whole("index_n_heads"),
            "index_head_dim": config.whole("index_head_dim"),
            "index_top_k": config.whole("index_topk"),
        }
        config.remarks.append("the indexer's keys and arithmetic are counted as those of the attention, not as fp8")
    if config.flag("attention_bias"):
        kind |= {"qkv_bias": True, "o_bias": True}
    return {key: value for key, value in kind.items() if value}


def gated_delta(config: HfConfig) -> Kind:
    """Gated delta rule of Qwen3-Next: queries, keys, values and output gate, and two gates per value head."""
    keys = config.whole("linear_num_key_heads") * config.whole("linear_key_head_dim")
    heads, width = config.whole("linear_num_value_heads"), config.whole("linear_value_head_dim")
    return {
        "state_values": heads * width * config.whole("linear_key_head_dim"),
        "state_operations": 7,
        "in_width": 2 * keys + 2 * heads * width + 2 * heads,
        "out_width": heads * width,
        "conv_channels": 2 * keys + heads * width,
        "conv_kernel": config.whole("linear_conv_kernel_dim"),
        "other_params": 2 * heads + width,
    }


def lightning(config: HfConfig) -> Kind:
    """Linear attention of MiniMax-01: queries, keys, values and output gate, and a norm."""
    heads = config.whole("num_attention_heads", least=1)
    width = config.whole("head_dim", default=config.whole("hidden_size") // heads)
    inner = heads * width
    return {"state_values": inner * width, "in_width": 4 * inner, "out_width": inner, "other_params": inner}


def mamba1(config: HfConfig) -> Kind:
    """Mamba as in Jamba, whose steps and matrices have norms."""
    hidden, states = config.whole("hidden_size"), config.whole("mamba_d_state")
    inner = hidden * config.whole("mamba_expand")
    auto = config.fields.get("mamba_dt_rank", "auto") == "auto"
    rank = -(-hidden // 16) if auto else config.whole("mamba_dt_rank")
    conv_bias = inner if config.flag("mamba_conv_bias", True) else 0
    projection_bias = 2 * inner + hidden if config.flag("mamba_proj_bias") else 0
    return {
        "state_values": inner * states,
        "state_operations": 7,
        "in_width": 2 * inner,
        "out_width": inner,
        "inner_projections": [rank + 2 * states, inner, inner, rank],
        "conv_channels": inner,
        "conv_kernel": config.whole("mamba_d_conv"),
        # bias of the steps, decays, skips, norms
        "other_params": conv_bias + projection_bias + inner + inner * states + inner + rank + 2 * states,
    }


def mamba2(config: HfConfig) -> Kind:
    """Mamba-2 as in Granite 4: one decay, step bias and skip per head, and a norm."""
    hidden, states = config.whole("hidden_size"), config.whole("mamba_d_state")
    inner, heads = hidden * config.whole("mamba_expand"), config.whole("mamba_n_heads")
    channels = inner + 2 * config.whole("mamba_n_groups") * states
    width = inner + channels + heads
    biases = channels if config.flag("mamba_conv_bias", True) else 0
    biases += width + hidden if config.flag("mamba_proj_bias") else 0
    return {
        "state_values": inner * states,
        "in_width": width,
        "out_width": inner,
        "conv_channels": channels,
        "conv_kernel": config.whole("mamba_d_conv"),
        "other_params": biases + 3 * heads + inner,
    }


def short_conv(config: HfConfig) -> Kind:
    """Gated short convolution of LFM2."""
    hidden = config.whole("hidden_size")
    biases = 5 * hidden if config.flag("conv_bias") else 0
    kernel = config.whole("conv_L_cache")
    kind = {"state_values": 0, "in_width": 3 * hidden, "out_width": hidden}
    return {**kind, "conv_channels": hidden, "conv_kernel": kernel, "other_params": biases}
